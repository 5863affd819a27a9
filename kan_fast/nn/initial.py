"""The initial parameters of a layer: their scales, by one of several schemes.

A scheme gives the deviations of base weights and of spline weights, the latter in units of the root mean square of the
inputs. "variance" keeps the mean square of the activations from layer to layer by the base functions alone,
`in * Var(w) * E[base(x)^2] = E[x^2]` (Glorot and Bengio 2010), and starts with splines of a hundredth of that mean
square. "xavier" is the KAN paper's (arXiv 2404.19756, section 2.2): base weights by the numbers of inputs and outputs
alone. "lecun", "glorot" and "power" are those of arXiv 2509.03417, in which splines take part. The bias is zero.

Inputs are taken for normal, with the mean and variance of the uniform distribution on the grid range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kan_fast.nn.grids import Range, uniform_grid
from kan_fast.ops.reference import basis

SMALL = 1000  # parameters of a network that `fit` may start anew


class Layer(NamedTuple):
    """What the schemes ask of a layer; root mean squares are over inputs in the grid range.

    fan_in, fan_out: numbers of inputs and outputs, at least 1.
    grid_size, degree: G and k.
    base: of base(x), over that of x.
    slope: gives that of base'(x), which takes a differentiation that most schemes do without.
    """

    fan_in: int
    fan_out: int
    grid_size: int
    degree: int
    base: float
    slope: Callable[[], float]

    @property
    def functions(self) -> int:
        """Functions of an edge: G + k splines and the base function."""
        return self.grid_size + self.degree + 1


def _variance(layer: Layer) -> tuple[float, float]:
    return 1 / (math.sqrt(layer.fan_in) * layer.base), 0.1 / math.sqrt(layer.fan_in)


def _xavier(layer: Layer) -> tuple[float, float]:
    return math.sqrt(2 / (layer.fan_in + layer.fan_out)), 0.1 * math.sqrt(3) / layer.grid_size


def _lecun(layer: Layer) -> tuple[float, float]:
    share = math.sqrt(layer.fan_in * layer.functions)
    spline, _ = _of_splines(layer.grid_size, layer.degree)
    return 1 / (share * layer.base), 1 / (share * spline)


def _glorot(layer: Layer) -> tuple[float, float]:
    share = math.sqrt(2 / layer.functions)
    ways = math.sqrt(layer.fan_in), math.sqrt(layer.fan_out)
    pairs = (layer.base, layer.slope()), _of_splines(layer.grid_size, layer.degree)
    base, splines = (share / math.hypot(ways[0] * value, ways[1] * slope) for value, slope in pairs)
    return base, splines


def _power(layer: Layer) -> tuple[float, float]:
    share = layer.fan_in * layer.functions
    return share**-0.25, math.sqrt(3) * share**-1.75


SCHEMES: dict[str, Callable[[Layer], tuple[float, float]]] = {
    "variance": _variance,
    "xavier": _xavier,
    "lecun": _lecun,
    "glorot": _glorot,
    "power": _power,
}


def check_scheme(name: str) -> None:
    """Raise ValueError unless there is such a scheme."""
    if name not in SCHEMES:
        raise ValueError(f"unknown init {name!r}; allowed: {', '.join(SCHEMES)}")


def scales(
    scheme: str, grid_range: Range, base: str | Callable[[Tensor], Tensor], degree: int, weight: Tensor, grid: Tensor
) -> tuple[float, float]:
    """The bound of the uniform distribution of base weights, and the standard deviation of spline weights.

    Where features have ranges of their own, means are over the features. A callable base that can't be evaluated on the
    range (on the meta device, out of its domain) counts as the identity, and so does the slope of one that can't be
    differentiated.

    Args:
        scheme: a key of SCHEMES.
        grid_range: of the layer.
        base: of the layer.
        degree: k.
        weight: spline weights `(out, in, G + k)`; give sizes and dtype.
        grid: knots `(in, G + 2k + 1)`; give dtype and device of a callable base.

    Raises:
        ValueError: such weights overflow the dtype.
    """
    start, end = np.reshape(grid_range, (-1, 2, 1)).swapaxes(0, 1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    x = (start + end) / 2 + (end - start) / math.sqrt(12) * nodes  # (1 or in, nodes)
    weights /= weights.sum()
    (root, exponent), relative = _root_mean_square(x, weights), 1.0
    known = not (callable(base) and grid.is_meta)
    if known:
        value, value_exponent = _root_mean_square(_values(base, x, grid), weights)
        known = math.isfinite(value) and value > 0
        if known:
            relative = _times_power(value / root, value_exponent - exponent)

    def slope() -> float:
        if not known:
            return 1.0
        size, exponent = _root_mean_square(_slopes(base, x, grid), weights)
        return _times_power(size, exponent) if math.isfinite(size) else 1.0

    fan_out, fan_in, rows = (max(size, 1) for size in weight.shape)
    layer = Layer(fan_in, fan_out, rows - degree, degree, relative, slope)
    base_deviation, spline_deviation = SCHEMES[scheme](layer) if relative else (math.inf, 0.0)
    bound, deviation = math.sqrt(3) * base_deviation, _times_power(spline_deviation * root, exponent)
    if max(bound if base != "zero" else 0, 10 * deviation) > torch.finfo(weight.dtype).max:
        raise ValueError(
            f"weights that suit grid_range {grid_range} overflow {weight.dtype}; scale the data or take a wider dtype"
        )
    return bound, deviation


def _root_mean_square(values: np.ndarray, weights: np.ndarray) -> tuple[float, int]:
    """The root mean square `r * 2^e` as (r, e), since squares can overflow."""
    exponent = math.frexp(abs(values).max(initial=0))[1]
    with np.errstate(invalid="ignore"):
        return math.sqrt((np.ldexp(values, -exponent) ** 2 @ weights).mean()), exponent


def _times_power(value: float, exponent: int) -> float:
    """value * 2^exponent; infinite where math.ldexp would be an OverflowError."""
    with np.errstate(over="ignore", under="ignore"):
        return float(np.ldexp(value, exponent))


def _values(base: str | Callable[[Tensor], Tensor], x: np.ndarray, grid: Tensor) -> np.ndarray:
    if callable(base):
        return base(torch.as_tensor(x, dtype=grid.dtype, device=grid.device)).double().cpu().numpy()
    return {"silu": x * (1 + np.tanh(x / 2)) / 2, "identity": x, "zero": 0 * x}[base]


def _slopes(base: str | Callable[[Tensor], Tensor], x: np.ndarray, grid: Tensor) -> np.ndarray:
    if callable(base):
        with torch.enable_grad():
            given = torch.as_tensor(x, dtype=grid.dtype, device=grid.device).requires_grad_()
            values = base(given)
            (slopes,) = torch.autograd.grad(values.sum(), given) if values.requires_grad else (torch.ones_like(given),)
        return slopes.double().cpu().numpy()
    gate = (1 + np.tanh(x / 2)) / 2
    with np.errstate(over="ignore", invalid="ignore"):
        silu = gate + np.nan_to_num(x * gate * (1 - gate))
    return {"silu": silu, "identity": np.ones_like(x), "zero": 0 * x}[base]


@cache
def _of_splines(size: int, degree: int) -> tuple[float, float]:
    """Root mean squares of the splines of a uniform grid around 0 and of their slopes, the latter times that of x."""
    node, weight = np.polynomial.legendre.leggauss(degree + 1)
    x = (np.arange(size)[:, None] + (node + 1) / 2).reshape(-1, 1)
    knots = uniform_grid(1, size, degree, (0, size))
    weights = torch.from_numpy(np.tile(weight / 2, size) / size)

    def root(order: int) -> float:
        rows = basis(torch.from_numpy(x), knots, degree, order)[:, 0]
        return (weights @ rows.square()).mean().sqrt().item()

    return root(0), root(1) * size / math.sqrt(12)


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
