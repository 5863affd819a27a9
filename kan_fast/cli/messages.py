"""Messages of the command line, in any console: notes on the data, and refusals instead of tracebacks."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO


class Refused(Exception):
    """An argument or the data can't be used; the message says why, and what to do."""


def say(notes: Sequence[str], file: TextIO | None = None) -> None:
    """Print a line for each note, to standard output unless a file is given."""
    for note in notes:
        print(f"note: {note}", file=file or sys.stdout, flush=True)


def give(data: str) -> None:
    """Write data to standard output: to a pipe or file in UTF-8, to a terminal in its own encoding."""
    if sys.stdout.isatty() or not isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.write(data)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(data.encode())
    sys.stdout.flush()


@contextmanager
def any_text() -> Iterator[None]:
    """Make the console show letters that its encoding lacks as escapes, \\u540d, instead of raising an error."""
    consoles = [(one, one.errors) for one in (sys.stdout, sys.stderr) if isinstance(one, io.TextIOWrapper)]
    for console, _ in consoles:
        console.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for console, errors in consoles:
            console.reconfigure(errors=errors)
