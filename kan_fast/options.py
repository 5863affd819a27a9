"""Numbers that users pass, checked: integers and real numbers in a range, of Python's or numpy's types."""

from __future__ import annotations

import math
import operator
from typing import Any


def integer(name: str, value: Any, least: int | None = None) -> int:
    """`value` as an int; TypeError if it isn't one (a bool is not), ValueError below `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return number


def real(name: str, value: Any, *, positive: bool = False) -> float:
    """`value` as a float; TypeError if it isn't a number, ValueError unless it is finite and at least (above) 0."""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not (math.isfinite(number) and (number > 0 if positive else number >= 0)):
        raise ValueError(f"{name} must be finite and {'greater than' if positive else 'at least'} 0, got {value}")
    return number
