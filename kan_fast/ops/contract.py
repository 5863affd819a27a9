"""The words in which backends are called: the rows of a layer, its coefficients, and what all backends do with them.

docs/architecture.md has the contract. A contraction takes at most five arguments, of which `Rows` says which basis rows
are evaluated and `Coefficients` holds the weights that multiply them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Spec(NamedTuple):
    """What a layer computes, apart from its tensors.

    base: "silu", "identity", "zero", or a callable that acts on each element (in the reference alone).
    extrapolation: "zero", "linear" or "clamp".
    """

    degree: int
    base: str | Callable[[Tensor], Tensor] = "silu"
    extrapolation: str = "zero"


class Rows(NamedTuple):
    """Which basis rows: the B-splines on `grid` `(in, G + 2k + 1)` and the base function, or a derivative of them."""

    grid: Tensor
    order: int  # of the derivative in x, d >= 0
    spec: Spec

    @property
    def splines(self) -> int:
        """The number of spline rows, G + k."""
        return self.grid.shape[-1] - self.spec.degree - 1

    def derivative(self) -> Rows:
        """The derivatives in x of these rows."""
        return Rows(self.grid, self.order + 1, self.spec)


class Coefficients(NamedTuple):
    """The weights of spline rows `(out, in, G + k)` and of the base row `(out, in)`; one of them may be None."""

    spline: Tensor | None
    base: Tensor | None

    @property
    def edge_shape(self) -> torch.Size:
        """`(out, in)`, whatever leading dimensions there are."""
        if self.spline is not None:
            return self.spline.shape[-3:-1]
        assert self.base is not None, "a layer has spline rows, a base row or both"
        return self.base.shape[-2:]


NeedsCoef = tuple[bool, bool]  # the gradients of spline rows and base row
Needs = tuple[bool, bool, bool, bool]  # the gradients of x, spline rows, base row and bias
ALL: Needs = (True, True, True, True)


def or_empty(gradient: Tensor | None, x: Tensor) -> Tensor:
    """The gradient, or what the contract has for one that nobody needs: a tensor `(0,)`."""
    return x.new_empty(0) if gradient is None else gradient


def composed_backward(
    grad_input: Callable[[Tensor, Tensor, Coefficients, Rows], Tensor],
    grad_coef: Callable[[Tensor, Tensor | None, Tensor, Rows, NeedsCoef], tuple[Tensor, Tensor]],
) -> Callable[[Tensor, Tensor | None, Tensor, Coefficients, Rows, Needs], tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The `backward` of a backend that has no kernel for it: its two gradients, one after the other.

    The gradient of the bias is torch's sum, which adds 16-bit numbers in float32 and rounds once.
    """

    def backward(
        x: Tensor, v: Tensor | None, g: Tensor, c: Coefficients, rows: Rows, needs: Needs = ALL
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All gradients of `forward`: (gx, gs, gb, gbias), each empty unless needed; gx is still to be scaled by v."""
        gx = grad_input(x, g, c, rows.derivative()) if needs[0] else None
        gs, gb = grad_coef(x, v, g, rows, needs[1:3])
        gbias = g.sum(0) if needs[3] else None
        return or_empty(gx, x), gs, gb, or_empty(gbias, x)

    return backward
