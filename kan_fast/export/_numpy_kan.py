"""A trained Kolmogorov-Arnold network in numpy; `kan_fast.export.to_numpy_source` puts its numbers below."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def bsplines(x: np.ndarray, knots: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """B-splines of `degree` at x (batch, in) and their slopes, (batch, in, G + k) each (Cox-de Boor)."""
    rows, x = knots.shape[1] - degree - 1, x[..., None]
    inside = (knots[:, :-1] <= x) & (x < knots[:, 1:])
    last = np.arange(knots.shape[1] - 1) == rows - 1  # the end of the grid range lies in the last span
    x, at_end = np.clip(x, knots[:, :1], knots[:, -1:]), x == knots[:, rows, None]  # no infinities below
    values = np.where(at_end, last, inside).astype(knots.dtype) + 0 * x
    slopes = 0 * values
    for p in range(1, degree + 1):
        scaled = values / (knots[:, p:] - knots[:, :-p])
        left, right = scaled[..., :-1], scaled[..., 1:]
        values = (x - knots[:, : -p - 1]) * left + (knots[:, p + 1 :] - x) * right
        slopes = p * (left - right)
    return values, slopes


def layer(
    x: np.ndarray,
    knots: np.ndarray,
    spline: np.ndarray | None,
    base_weight: np.ndarray | None,
    bias: np.ndarray,
    degree: int,
    base: str,
    extrapolation: str,
    arities: Sequence[int] = (),
    symbolic: Sequence[tuple[Callable[[np.ndarray], np.ndarray], list[int], list[int], np.ndarray]] = (),
) -> np.ndarray:
    """One layer: x (batch, in) to (batch, out); the last outputs are multiplied, `arities` of them at a time."""
    y = np.tile(bias, (len(x), 1))
    if spline is not None:
        y += splines(x, knots, spline, base_weight, degree, base, extrapolation)
    for function, outputs, inputs, affine in symbolic:
        a, b, c, d = affine.T
        with np.errstate(all="ignore"):  # outside of its domain a function is NaN
            np.add.at(y.T, outputs, (c * function(a * x[:, inputs] + b) + d).T)
    if not arities:
        return y
    sums, *factors = np.split(y, y.shape[1] - sum(arities) + np.cumsum([0, *arities[:-1]]), axis=1)
    return np.column_stack([sums, *(f.prod(1) for f in factors)])


def splines(
    x: np.ndarray,
    knots: np.ndarray,
    spline: np.ndarray,
    base_weight: np.ndarray | None,
    degree: int,
    base: str,
    extrapolation: str,
) -> np.ndarray:
    """The sum of the edges that are splines with a base function."""
    nearest = x if extrapolation == "zero" else np.clip(x, knots[:, degree], knots[:, -1 - degree])
    values, slopes = bsplines(nearest, knots, degree)
    if extrapolation == "linear":
        values = values + (x - nearest)[..., None] * slopes
    y = values.reshape(len(x), -1) @ spline.reshape(-1, spline.shape[-1])
    if base_weight is not None:
        with np.errstate(over="ignore"):  # exp(-x) = inf is right for very negative x
            y = y + (x if base == "identity" else x / (1 + np.exp(-x))) @ base_weight
    return y


def network(x: np.ndarray, layers: Sequence[tuple]) -> np.ndarray:
    """Apply layers, tuples of the arguments of `layer`: (..., in) to (..., out)."""
    x = np.asarray(x, dtype=layers[0][0].dtype)
    inputs = len(layers[0][0])
    if x.ndim == 0 or x.shape[-1] != inputs:
        raise ValueError(f"expected last dimension {inputs}, got an array of shape {x.shape}")
    y = x.reshape(-1, inputs)
    for numbers in layers:
        y = layer(y, *numbers)
    return y.reshape(*x.shape[:-1], y.shape[-1])
