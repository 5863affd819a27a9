"""What the command line tells users instead of a traceback."""


class Refused(Exception):
    """Something in the arguments or the data can't be used; the message says what, and what to do."""
