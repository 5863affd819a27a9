"""What the command line tells users: notes on their data, and refusals instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO


class Refused(Exception):
    """Something in the arguments or the data can't be used; the message says what, and what to do."""


def say(notes: Sequence[str], file: TextIO | None = None) -> None:
    """Print a line for each; to standard output unless a file is given."""
    for note in notes:
        print(f"note: {note}", file=file or sys.stdout, flush=True)
