"""Checks of arguments: integers, real numbers and tensors of them, of Python, numpy or pandas; lists, functions."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

_DATES = ("date", "time", "period", "duration")  # beginnings of names of dtypes: of numpy, pandas and polars


def integer(name: str, value: Any, least: int | None = None) -> int:
    """`value` as an int; TypeError if it is no int or a bool, ValueError below `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return number


def below(name: str, value: Any, count: int) -> int:
    """`value` as an int from 0 to count - 1; TypeError or ValueError if it isn't one."""
    number = integer(name, value)
    if not 0 <= number < count:
        raise ValueError(f"{name} must be 0 to {count - 1}, got {value}")
    return number


def distinct(name: str, ids: Any, count: int) -> list[int]:
    """`ids`, a list or tensor, as different ints from 0 to count - 1; TypeError or ValueError for other entries."""
    numbers = [below(name, i, count) for i in listed(name, ids.tolist() if isinstance(ids, Tensor) else ids)]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{name} must have each number once, got {numbers}")
    return numbers


def real(name: str, value: Any, *, positive: bool = False) -> float:
    """`value` as a float; TypeError if it isn't a number, ValueError unless finite and >= 0 (> 0 if `positive`)."""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = _float(value)
    if not (math.isfinite(number) and (number > 0 if positive else number >= 0)):
        raise ValueError(f"{name} must be finite and {'greater than' if positive else 'at least'} 0, got {value}")
    return number


def _float(value: Any) -> float:
    """`value` as a float, infinite where that is a whole number beyond all of them."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def is_number(value: Any) -> bool:
    """Whether a value is one number rather than several: of Python or numpy, or an array or tensor without axes."""
    return not hasattr(value, "__len__") or getattr(value, "ndim", None) == 0


def listed(name: str, value: Any) -> list[Any]:
    """`value` as a list; TypeError if it is text or not iterable."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list, got {value!r}")
    return list(value)


def function(name: str, value: Any) -> Callable[..., Any] | None:
    """`value`, a function or None; TypeError if it is neither."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r}")
    return value


def functions(name: str, value: Any) -> list[Callable[..., Any]]:
    """One function, or several, or None, as a list; TypeError if something in it is not callable."""
    if value is None:
        return []
    several = [value] if callable(value) or not isinstance(value, Iterable) else list(value)
    for one in several:
        if not callable(one):
            raise TypeError(f"{name} must be a function or a list of functions, got {one!r}")
    return several


def numbers(name: str, given: Any) -> Tensor:
    """A float64 tensor of real numbers; TypeError if they are something else."""
    try:
        if not (isinstance(given, Tensor) and given.is_complex()):
            return torch.as_tensor(_items(given), dtype=torch.float64).detach()
    except OverflowError:
        raise ValueError(f"{name} must have numbers of at most 1.8e308, got {given!r:.80}") from None
    except (TypeError, ValueError, RuntimeError):
        pass
    raise TypeError(f"{name} must have real numbers, got {given!r}")


def _items(given: Any) -> Any:
    """Lists with numbers in place of arrays and tensors without axes, which torch takes for arrays among numbers."""
    if isinstance(given, list | tuple):
        return [_items(one) for one in given]
    return given.item() if isinstance(given, np.ndarray | Tensor) and given.ndim == 0 else given


def no_dates(name: str, data: Any) -> None:
    """Refuse dates and lengths of time: as numbers they count nanoseconds, or another unit that nobody chose.

    Args:
        name: of the data.
        data: an array, a table or column of pandas or polars, or lists.

    Raises:
        TypeError: some of the data have a dtype of dates or lengths of time.
    """
    if hasattr(data, "columns") and hasattr(data, "dtypes"):
        several = list(data.dtypes)
    else:
        several = [data.dtype if hasattr(data, "dtype") else np.asarray(data).dtype]
    for column, dtype in enumerate(several):
        if str(dtype).lower().startswith(_DATES):
            where = f" in column {data.columns[column]!r}" if hasattr(data, "columns") else ""
            raise TypeError(
                f"{name} holds {dtype}{where}, dates or lengths of time; turn them into numbers of a unit of your "
                "choice first, such as days: (dates - dates.min()) / np.timedelta64(1, 'D')"
            )


def tensor(name: str, data: Any) -> Tensor:
    """`data` as a dense tensor without history: a tensor, an array, a table of pandas, or lists.

    Values that are missing in a table or masked in an array are NaN.

    Raises:
        TypeError: it is something else, sparse, or not of numbers.
    """
    dense = "toarray()" if hasattr(data, "toarray") else ""  # sparse arrays of scipy
    if isinstance(data, Tensor):
        dense = "" if data.layout is torch.strided else "to_dense()"
    if dense:
        raise TypeError(f"{name} must be dense, got {described(data)}, which is sparse; convert it with .{dense}")
    if isinstance(data, Tensor):
        data = data.detach()
        return data.clone() if data.is_inference() else data  # autograd can't keep tensors of inference mode
    try:
        no_dates(name, data)
        return torch.from_numpy(_array(data))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a tensor or an array of numbers, got {described(data)} ({error})") from None


def _array(data: Any) -> np.ndarray:
    """A copy of `data` as an array, of a dtype that torch has if these are numbers."""
    if np.ma.is_masked(data):
        return data.astype(np.float64).filled(np.nan)
    array = np.array(data)
    if array.dtype == object and hasattr(data, "isna"):  # columns of several dtypes, or that can be missing
        array[np.asarray(data.isna())] = np.nan
    # Objects are converted one by one, which dates refuse; torch has no long double, and no foreign order of bytes.
    converted = array.ndim and array.dtype.char in "Og"  # without axes it is a single object, such as None
    return array.astype(np.float64 if converted else array.dtype.newbyteorder("="), copy=False)


def described(data: Any) -> str:
    """The type of `data`, and its length if it has one."""
    try:
        return f"{type(data).__name__} of length {len(data)}"
    except TypeError:  # no length: numbers, tensors without axes, sparse arrays
        return type(data).__name__
