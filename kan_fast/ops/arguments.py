"""The options that exist, and the check of an operator's arguments: kernels read memory where these say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from kan_fast.ops import dispatch, problem

BASES = tuple(problem.BASES)
EXTRAPOLATIONS = tuple(problem.EXTRAPOLATIONS)
MAX_DEGREE = 5
MAX_ORDER = 100  # of a derivative; slightly above it the coefficients of silu's derivatives overflow float64

_DIMENSIONS = {  # in this order, so that the first ones say what sizes the others must have
    "x": ("batch", "in"),
    "grid": ("in", "grid_size + 2 * degree + 1"),
    "spline_weight": ("out", "in", "grid_size + degree"),
    "base_weight": ("out", "in"),
    "v": ("batch", "in"),
    "g": ("batch", "out"),
    "gm": ("out", "in"),
    "bias": ("out",),
}
_NEEDS = {"grad_coef": 2, "backward": 4}


def check_options(spline_order: int, base: str | Callable[[Tensor], Tensor], extrapolation: str) -> None:
    """Raise TypeError or ValueError for a degree, base function or extrapolation that does not exist."""
    if isinstance(spline_order, bool) or not isinstance(spline_order, int):
        raise TypeError(f"spline_order must be an int, got {spline_order!r}")
    if not 0 <= spline_order <= MAX_DEGREE:
        raise ValueError(f"spline_order must be 0 to {MAX_DEGREE}, got {spline_order}")
    if not callable(base) and base not in BASES:
        raise ValueError(f"unknown base {base!r}; allowed: {', '.join(BASES)} or a callable")
    if extrapolation not in EXTRAPOLATIONS:
        raise ValueError(f"unknown extrapolation {extrapolation!r}; allowed: {', '.join(EXTRAPOLATIONS)}")


def grid_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of the knots for weights of `dtype`: 16-bit knots would move the function, so at least float32."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def check(operator: str, given: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError unless an operator can compute with these arguments, named as in its schema.

    functional.py makes sure of all this for its own calls, in less time; operators.py asks here for all others.
    """
    degree, order, backend = given["degree"], given.get("order", 0), given["backend"]
    check_options(degree, given["base"], given["extrapolation"])
    if not 0 <= order <= MAX_ORDER:
        raise ValueError(f"{operator}: order, of a derivative, must be 0 to {MAX_ORDER}, got {order}")
    if operator in _NEEDS and len(given["needs"]) != _NEEDS[operator]:
        raise ValueError(f"{operator}: needs must have {_NEEDS[operator]} bools, got {list(given['needs'])}")
    if given.get("spline_weight", 0) is None and given.get("base_weight", 0) is None:
        raise ValueError(f"{operator} needs spline_weight, base_weight or both, got neither")
    for name in ("x", "grid", "g", "gm"):
        if given.get(name, 0) is None:
            raise TypeError(f"{operator}: {name} must be a tensor, got None")
    x = given["x"]
    if not x.is_floating_point():
        raise TypeError(f"{operator}: x must be floating point, got {x.dtype}; convert it, for example with x.float()")
    for name, tensor in given.items():
        if isinstance(tensor, Tensor):
            _check_kind(operator, name, tensor, x)
    _check_shapes(operator, given, degree)
    if backend not in dispatch.NAMES:
        raise ValueError(f"{operator}: unknown backend {backend!r}; allowed: {', '.join(dispatch.NAMES)}")
    why = None if x.is_meta else dispatch.refusal(backend, x.device.type, x.dtype)
    if why is not None:
        raise ValueError(f"{operator}: backend {backend!r} can't be used here: {why}; 'reference' always can")


def _check_kind(operator: str, name: str, tensor: Tensor, x: Tensor) -> None:
    """Layout, dtype and device."""
    if tensor.layout != torch.strided:
        raise TypeError(f"{operator}: {name} must be a dense tensor, got one of layout {tensor.layout}")
    dtype = grid_dtype(x.dtype) if name == "grid" else x.dtype
    if tensor.dtype != dtype:
        raise TypeError(f"{operator}: {name} must have dtype {dtype} where x has {x.dtype}, got {tensor.dtype}")
    if tensor.device != x.device:
        raise ValueError(f"{operator}: {name} is on {tensor.device}, x on {x.device}; move them together")


def _check_shapes(operator: str, given: Mapping[str, Any], degree: int) -> None:
    groups = ("groups",) * (given["x"].dim() - 2)
    if len(groups) > 1 or given["x"].dim() < 2:
        raise ValueError(
            f"{operator}: x must have the shape (batch, in) or (groups, batch, in), got {_shape(given['x'])}"
        )
    sizes: dict[str, int] = {}
    for name, inner in _DIMENSIONS.items():
        tensor, dimensions = given.get(name), (*groups, *inner)
        if tensor is None:
            continue
        wanted = [sizes.get(dimension, dimension) for dimension in dimensions]
        fits = tensor.dim() == len(wanted) and all(
            isinstance(size, str) or size == got for size, got in zip(wanted, tensor.shape, strict=True)
        )
        if not fits or (name == "grid" and tensor.shape[-1] < 2 * degree + 2):
            raise ValueError(
                f"{operator}: {name} must have the shape ({', '.join(dimensions)}) with grid_size >= 1, for degree "
                f"{degree} and the other arguments ({', '.join(map(str, wanted))}), got {_shape(tensor)}"
            )
        sizes.update(zip(dimensions, tensor.shape, strict=True))
        if name == "grid":
            sizes["grid_size + degree"] = tensor.shape[-1] - degree - 1


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
