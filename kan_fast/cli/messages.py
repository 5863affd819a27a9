"""What the command line tells users, in any console: notes on their data, and refusals instead of a traceback."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO


class Refused(Exception):
    """Something in the arguments or the data can't be used; the message says what, and what to do."""


def say(notes: Sequence[str], file: TextIO | None = None) -> None:
    """Print a line for each; to standard output unless a file is given."""
    for note in notes:
        print(f"note: {note}", file=file or sys.stdout, flush=True)


def give(data: str) -> None:
    """Write what others go on with to standard output: in UTF-8 as in files, but a terminal gets its own encoding."""
    if sys.stdout.isatty() or not isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.write(data)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(data.encode())
    sys.stdout.flush()


@contextmanager
def any_text() -> Iterator[None]:
    """Have the console show letters that its encoding lacks as escapes, \\u540d, where it would raise an error."""
    consoles = [(one, one.errors) for one in (sys.stdout, sys.stderr) if isinstance(one, io.TextIOWrapper)]
    for console, _ in consoles:
        console.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for console, errors in consoles:
            console.reconfigure(errors=errors)
