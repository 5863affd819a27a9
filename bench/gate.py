"""The gate before every race: the results of a layer and its gradients against float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kan_fast import KANLinear, reference
from kan_fast.reference import Spec


class Gate:
    """The right results of a layer for one x and upstream gradient g.

    Args:
        layer: has silu as its base function and no bias other than zero.
        x: `(batch, in)`.
        g: `(batch, out)`.
    """

    def __init__(self, layer: KANLinear, x: Tensor, g: Tensor) -> None:
        self.right = _results(layer, x, g, torch.float64)
        self.eps = torch.finfo(x.dtype).eps
        # Rounding errors are proportional to eps, and those of float64 have nothing better to be measured against.
        single = self.error(_results(layer, x, g, torch.float32))
        self.rounding = single * self.eps / torch.finfo(torch.float32).eps

    def error(self, results: Sequence[Tensor]) -> float:
        """Largest error of (y, gx, gs, gb), each relative to the largest number of that tensor."""
        pairs = zip(results, self.right, strict=True)
        return max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in pairs)

    @property
    def limit(self) -> float:
        """Twice the error of plain torch in the same dtype, and one rounding unit."""
        return 2 * self.rounding + self.eps

    @property
    def exact(self) -> float:
        """What a peer may be off and still count as computing the same function."""
        return self.eps**0.5


def _results(layer: KANLinear, x: Tensor, g: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    spec = Spec(layer.spline_order, layer.base, layer.extrapolation)
    tensors = (x, g, layer.spline_weight, layer.base_weight, layer.grid)
    with torch.no_grad():
        x, g, spline_weight, base_weight, grid = (t.detach().to(dtype) for t in tensors)
        y = reference.forward(x, None, spline_weight, base_weight, None, grid, 0, spec)
        return y, *reference.backward(x, None, g, spline_weight, base_weight, grid, 0, spec)[:3]
