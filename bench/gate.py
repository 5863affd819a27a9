"""The gate before every race: the errors of a layer's results and gradients, and what they may be."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from kan_fast import KANLinear
from kan_fast.ops import reference
from kan_fast.ops.contract import Coefficients, Rows, Spec
from yardstick import DoubleDouble, complaint, exact_for


class Gate:
    """The right results of a layer for one x and upstream gradient g.

    Args:
        layer: has silu as its base function and no bias other than zero.
        x: `(batch, in)`.
        g: `(batch, out)`.
    """

    def __init__(self, layer: KANLinear, x: Tensor, g: Tensor) -> None:
        exact = _results(exact_for(x.dtype), layer, x, g, torch.float64)
        self.right = [DoubleDouble.of(result) for result in exact]
        self.plain = _results(reference, layer, x, g, x.dtype)
        self.eps = torch.finfo(x.dtype).eps

    def complaint(self, results: Sequence[Tensor]) -> str | None:
        """What is wrong with (y, gx, gs, gb) by the rule that kernels are tested with, or None."""
        for name, *tensors in zip(("y", "gx", "gs", "gb"), results, self.plain, self.right, strict=True):
            if wrong := complaint(*tensors):
                return f"{name} has {wrong}"
        return None

    def error(self, results: Sequence[Tensor]) -> float:
        """Largest error of (y, gx, gs, gb), each relative to the largest number of that tensor."""
        pairs = zip(self.right, results, strict=True)
        return max(float(right.error_of(got).max() / right.high.abs().max()) for right, got in pairs)

    @property
    def exact(self) -> float:
        """What a peer may be off and still count as computing the same function."""
        return self.eps**0.5


def _results(
    module: ModuleType, layer: KANLinear, x: Tensor, g: Tensor, dtype: torch.dtype
) -> tuple[Tensor | DoubleDouble, ...]:
    spec = Spec(layer.spline_order, layer.base, layer.extrapolation)
    tensors = (x, g, layer.spline_weight, layer.base_weight, layer.grid)
    with torch.no_grad():
        x, g, spline_weight, base_weight, grid = (t.detach().to(dtype) for t in tensors)
        c, rows = Coefficients(spline_weight, base_weight), Rows(grid, 0, spec)
        return module.forward(x, None, c, None, rows), *module.backward(x, None, g, c, rows)[:3]
