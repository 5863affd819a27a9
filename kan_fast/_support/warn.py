"""Warnings that point at the user's line, however many functions of this package lie between."""

from __future__ import annotations

import sys
import warnings


def warn(message: str, category: type[Warning]) -> None:
    """`warnings.warn` at the nearest caller outside of this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "kan_fast":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
