"""What setup.py has built into this installation, and why the rest is missing."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1]  # of the package: libraries, and NAME.missing for each that could not be built


def why_missing(name: str) -> str | None:
    """What setup.py has to say about a library that it could not build; None if it says nothing."""
    note = FOLDER / f"{name}.missing"
    return note.read_text(encoding="utf-8") if note.exists() else None
