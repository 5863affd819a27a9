"""The initial parameters of a layer: their scales.

The base weights keep the mean square of the activations from layer to layer, `in * Var(w) * E[base(x)^2] = E[x^2]` (the
paper's Xavier initialisation, Glorot and Bengio 2010), for normal x with the mean and variance of the uniform
distribution on the grid range. The splines start as small noise, a hundredth of that mean square; the bias is zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from kan_fast.nn.grids import Range

SMALL = 1000  # parameters of a network that `fit` may start anew


def scales(
    grid_range: Range, base: str | Callable[[Tensor], Tensor], grid: Tensor, dtype: torch.dtype
) -> tuple[float, float]:
    """The bound of the uniform distribution of base weights, and the standard deviation of spline weights.

    Where features have ranges of their own, means are over the features. A callable base that can't be evaluated on the
    range (on the meta device, out of its domain) counts as the identity.

    Args:
        grid_range: of the layer.
        base: of the layer.
        grid: knots `(in, G + 2k + 1)`; give `in`, dtype and device.
        dtype: of the weights.

    Raises:
        ValueError: such weights overflow the dtype.
    """
    start, end = np.reshape(grid_range, (-1, 2, 1)).swapaxes(0, 1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    x = (start + end) / 2 + (end - start) / math.sqrt(12) * nodes  # (1 or in, nodes)
    weights /= weights.sum()
    power, scale = base_power, base_scale = _mean_square(x, weights)
    if not (callable(base) and grid.is_meta):
        mean, base_exponent = _mean_square(_values(base, x, grid), weights)
        if math.isfinite(mean) and mean > 0:
            base_power, base_scale = mean, base_exponent
    fan_in = max(len(grid), 1)
    with np.errstate(over="ignore"):  # infinite where math.ldexp would be an OverflowError
        bound = float(np.ldexp(math.sqrt(3 * power / (fan_in * base_power)), scale - base_scale))
        deviation = float(np.ldexp(0.1 * math.sqrt(power / fan_in), scale))
    if max(bound if base != "zero" else 0, 10 * deviation) > torch.finfo(dtype).max:
        raise ValueError(
            f"weights that suit grid_range {grid_range} overflow {dtype}; scale the data or take a wider dtype"
        )
    return bound, deviation


def _mean_square(values: np.ndarray, weights: np.ndarray) -> tuple[float, int]:
    """The mean square `m * 4^e` as (m, e), since squares can overflow."""
    exponent = math.frexp(abs(values).max(initial=0))[1]
    with np.errstate(invalid="ignore"):
        return float((np.ldexp(values, -exponent) ** 2 @ weights).mean()), exponent


def _values(base: str | Callable[[Tensor], Tensor], x: np.ndarray, grid: Tensor) -> np.ndarray:
    if callable(base):
        return base(torch.as_tensor(x, dtype=grid.dtype, device=grid.device)).double().cpu().numpy()
    return {"silu": x * (1 + np.tanh(x / 2)) / 2, "identity": x, "zero": 0 * x}[base]


def remembered(parameters: Iterable[Tensor]) -> list[Tensor] | None:
    """Copies of the parameters of a small layer, for `unchanged`; None for larger ones and on the meta device."""
    found = list(parameters)
    if sum(p.numel() for p in found) > SMALL or any(p.is_meta for p in found):
        return None
    return [p.detach().clone() for p in found]


def unchanged(parameters: Iterable[Tensor], drawn: list[Tensor] | None) -> bool:
    """Whether the parameters are those that were remembered, on whatever device and in whatever dtype."""
    present = list(parameters)
    return (
        drawn is not None
        and [p.shape for p in present] == [d.shape for d in drawn]
        and all(torch.equal(p, d.to(p)) for p, d in zip(present, drawn, strict=True))
    )
