"""The gate before every race: the errors of results and gradients, and what they may be."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from kan_fast import KANLinear
from kan_fast.ops import reference
from kan_fast.ops.reference import Spec
from yardstick import DoubleDouble, complaint, exact_for


class Gate:
    """The right results of layers that follow each other, for one x and upstream gradient g.

    Args:
        layers: have silu as their base function and no bias other than zero; in float64, of which the yardstick has no
            chains, there is one.
        x: `(batch, in)` of the first layer.
        g: `(batch, out)` of the last layer.

    Raises:
        ValueError: there are several layers in float64.
    """

    def __init__(self, layers: Sequence[KANLinear], x: Tensor, g: Tensor) -> None:
        if x.dtype == torch.float64 and len(layers) > 1:
            raise ValueError(f"the exact result of {len(layers)} layers in float64 is not known; take float32")
        self.names = ["y", "gx", *(f"{name} of layer {n}" for n in range(len(layers)) for name in ("gs", "gb"))]
        exact = _results(exact_for(x.dtype), layers, x, g, torch.float64)
        self.right = [DoubleDouble.of(result) for result in exact]
        self.plain = _results(reference, layers, x, g, x.dtype)
        self.eps = torch.finfo(x.dtype).eps

    def complaint(self, results: Sequence[Tensor]) -> str | None:
        """What is wrong with (y, gx, gs, gb, gs, gb ...) by the rule that kernels are tested with, or None."""
        for name, *tensors in zip(self.names, results, self.plain, self.right, strict=True):
            if wrong := complaint(*tensors):
                return f"{name} has {wrong}"
        return None

    def error(self, results: Sequence[Tensor]) -> float:
        """Largest error of (y, gx, gs, gb, gs, gb ...), each relative to the largest number of that tensor."""
        pairs = zip(self.right, results, strict=True)
        return max(float(right.error_of(got).max() / right.high.abs().max()) for right, got in pairs)

    @property
    def exact(self) -> float:
        """What a peer may be off and still count as computing the same function."""
        return self.eps**0.5


def _results(
    module: ModuleType, layers: Sequence[KANLinear], x: Tensor, g: Tensor, dtype: torch.dtype
) -> list[Tensor | DoubleDouble]:
    """(y, gx, gs, gb, gs, gb ...) as the chain rule gives them from the contractions of each layer."""
    x, g = x.detach().to(dtype), g.to(dtype)
    weights = [[t.detach().to(dtype) for t in (layer.spline_weight, layer.base_weight, layer.grid)] for layer in layers]
    specs = [Spec(layer.spline_order, layer.base, layer.extrapolation) for layer in layers]
    inputs, gradients = [x], []
    for (spline, base, grid), spec in zip(weights, specs, strict=True):
        inputs.append(module.forward(inputs[-1], None, spline, base, None, grid, 0, spec))
    y = inputs.pop()
    for x, (spline, base, grid), spec in zip(inputs[::-1], weights[::-1], specs[::-1], strict=True):
        g, gs, gb, _ = module.backward(x, None, g, spline, base, grid, 0, spec)
        gradients = [gs, gb, *gradients]
    return [y, g, *gradients]
