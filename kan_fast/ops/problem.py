"""The struct of csrc/problem.h, which all compiled kernels take, and the numbers of its enums."""

from __future__ import annotations

import ctypes
import struct

import torch

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
BASES = {"silu": 0, "identity": 1, "zero": 2}
EXTRAPOLATIONS = {"zero": 0, "linear": 1, "clamp": 2}

_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32


class Problem(ctypes.Structure):
    """One call of the kernels; what is not given is 0. csrc/problem.h says what the fields mean."""

    _fields_ = (
        ("x", _POINTER),
        ("v", _POINTER),
        ("g", _POINTER),
        ("spline_weight", _POINTER),
        ("base_weight", _POINTER),
        ("bias", _POINTER),
        ("grid", _POINTER),
        ("y", _POINTER),
        ("gx", _POINTER),
        ("gs", _POINTER),
        ("gb", _POINTER),
        ("gbias", _POINTER),
        ("batch", _SIZE),
        ("inputs", _SIZE),
        ("outputs", _SIZE),
        ("knots", _SIZE),
        ("dtype", _INT),
        ("degree", _INT),
        ("order", _INT),
        ("base", _INT),
        ("extrapolation", _INT),
        ("threads", _INT),
        ("groups", _SIZE),
        ("device", _INT),
        ("stream", _POINTER),
        ("workspace", _POINTER),
        ("table", _POINTER),
        ("low", _POINTER),
        ("first", _SIZE),
        ("count", _SIZE),
    )


_CODES = {_POINTER: "P", _SIZE: "q", _INT: "i"}
_FOR_CPUS = [name for name, _ in Problem._fields_].index("device")
# Makes a problem as bytes from the values of the fields for CPUs, in their order: in a third of the time of a Problem.
pack = struct.Struct(
    "".join(_CODES[kind] for _, kind in Problem._fields_[:_FOR_CPUS])
    + f"{ctypes.sizeof(Problem) - Problem.device.offset}x"
).pack


def check_size(size: int | None) -> None:
    """Compare the size of the struct in a library with that of its mirror here.

    Args:
        size: in bytes; None if the library is so old that it doesn't tell.

    Raises:
        ImportError: they differ, so the library would read other fields than were written.
    """
    if size != ctypes.sizeof(Problem):
        raise ImportError("it was built from other sources than these; build it again: pip install --force-reinstall .")
