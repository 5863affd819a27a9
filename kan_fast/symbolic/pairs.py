"""Curves that are sums or products of two functions of the library, `c f(x) + e g(x) + d` or `c f(x) g(x) + d`.

As with chains, splines say nothing about f and g, since many pairs of curves have one sum or product: all pairs of
functions are fitted in one computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kan_fast.functions import Function
from kan_fast.symbolic.chains import distinct
from kan_fast.symbolic.descent import best_scale, descend, evaluate, tournament

CURVES = 96  # of each function that are tried
STARTS = 2  # for each pair of functions
FLOOR = 1e-20  # mean squared error that counts as none


class Pair(NamedTuple):
    """Two functions with their affine parameters, to be added or multiplied, and a constant d to be added."""

    functions: tuple[Function, Function]
    affine: Tensor  # (2, 4)
    constant: float
    multiply: bool


@torch.no_grad()
def pairs(x: Tensor, y: Tensor, functions: Sequence[Function], count: int, multiply: bool) -> list[Pair]:
    """The sums or products of two functions that fit a curve best, complexity considered, the best first.

    Args:
        x: samples `(n,)` from -1 to 1, not all equal.
        y: values `(n,)`, not all equal.
        functions: f and g are two of these.
        count: number of pairs, each of other functions.
        multiply: whether it is products, not sums.
    """
    functions = [f for f in functions if f.complexity]
    x, order = x.sort()
    y = y[order]
    unit = (y - y.mean()) / y.std(correction=0)
    return tournament(partial(_start, functions, multiply), x, unit, STARTS, count).pairs(x, y)


class _State(NamedTuple):
    """Pairs under way."""

    functions: Sequence[Function]
    multiply: bool
    which: Tensor  # (pairs, 2), their numbers
    ends: Tensor  # (pairs, 4): the arguments of f for x = -1 and x = 1, those of g
    low: Tensor  # (pairs, 4), their bounds
    high: Tensor

    def select(self, numbers: Tensor) -> _State:
        """Those of these numbers."""
        return _State(self.functions, self.multiply, *(values[numbers] for values in self[2:]))

    def cost(self, error: Tensor) -> Tensor:
        """Bits that are left unexplained, and what the functions cost."""
        price = torch.tensor([f.price for f in self.functions])
        return error.clamp_min(FLOOR).log2() + price[self.which].sum(1)

    def curves(self, x: Tensor, ends: Tensor, slope: bool) -> tuple[Tensor, Tensor]:
        """Values of f and g, and their derivatives in the arguments, `(pairs, 2, n)` each."""
        z = torch.lerp(ends[:, ::2, None], ends[:, 1::2, None], (1 + x) / 2)
        values, slopes = evaluate(self.functions, self.which.flatten(), z.flatten(0, 1), slope)
        return values.view(z.shape), slopes.view(z.shape)

    def terms(self, values: Tensor) -> Tensor:
        """What is added up with best factors: both functions, or their product."""
        return values.prod(1, keepdim=True) if self.multiply else values

    def descend(self, x: Tensor, y: Tensor, steps: int) -> tuple[_State, Tensor]:
        """Fit them better, with the squared errors that this leads to."""
        share = torch.stack([(1 - x) / 2, (1 + x) / 2])

        def model(ends: Tensor) -> tuple[Tensor, Tensor]:
            values, slopes = self.curves(x, ends, slope=True)
            if self.multiply:
                slopes = slopes * values.flip(1)
            return self.terms(values), (slopes[:, :, None] * share).flatten(1, 2)

        ends, error = descend(model, y.expand(len(self.ends), -1), self.ends, (self.low, self.high), steps)
        return self._replace(ends=ends), error

    def pairs(self, x: Tensor, y: Tensor) -> list[Pair]:
        """What they are."""
        c, d = best_scale(self.terms(self.curves(x, self.ends, slope=False)[0]), y.expand(len(self.ends), -1))
        first, last = self.ends[:, ::2], self.ends[:, 1::2]
        scale = torch.cat([c, torch.ones_like(c)], 1) if self.multiply else c
        affine = torch.stack([(last - first) / 2, (last + first) / 2, scale, torch.zeros_like(scale)], 2)
        return [
            Pair((self.functions[f], self.functions[g]), parameters, constant, self.multiply)
            for (f, g), parameters, constant in zip(self.which.tolist(), affine, d.tolist(), strict=True)
        ]


def _start(functions: Sequence[Function], multiply: bool, x: Tensor, y: Tensor) -> _State:
    """The best of some coarse curves, for every pair of functions; all pairs of curves by matrix products."""
    tried = [distinct(f, CURVES, origin=multiply) for f in functions]
    ends, bounds = (torch.cat([_repeated(t) for t in tensors]) for tensors in zip(*tried, strict=True))
    share = (1 + x) / 2
    z = torch.lerp(ends[:, :1], ends[:, 1:], share).view(len(functions), CURVES, -1)
    curves = torch.cat([f.evaluate(part) for f, part in zip(functions, z, strict=True)])
    curves = torch.where(curves.isfinite().all(1, keepdim=True), curves, 0)
    unit = (y - y.mean()) / (y - y.mean()).norm()
    likeness = (_likeness_of_products if multiply else _likeness_of_sums)(curves, unit)
    blocks = likeness.view(len(functions), CURVES, len(functions), CURVES).transpose(1, 2).flatten(2)
    f, g = torch.triu_indices(len(functions), len(functions))
    best = blocks[f, g].topk(STARTS).indices  # (pairs, STARTS)
    number = torch.stack([f[:, None] * CURVES + best // CURVES, g[:, None] * CURVES + best % CURVES], 2).flatten(0, 1)
    which = torch.stack([f, g], 1).repeat_interleave(STARTS, 0)
    limits = bounds[number].repeat_interleave(2, 1)  # (starts, 4, 2)
    return _State(functions, multiply, which, ends[number].flatten(1), *limits.unbind(2))


def _repeated(rows: Tensor) -> Tensor:
    """As many rows as there are curves."""
    return rows.repeat(-(-CURVES // len(rows)), 1)[:CURVES]


def _likeness_of_sums(curves: Tensor, unit: Tensor) -> Tensor:
    """R2 of the best combination of two curves, for all pairs of them."""
    curves = curves - curves.mean(1, keepdim=True)
    curves = curves / curves.norm(dim=1, keepdim=True).clamp_min(1e-300)
    along, gram = curves @ unit, curves @ curves.T
    explained = along[:, None].square() + along.square() - 2 * along[:, None] * along * gram
    rest = 1 - gram.square()
    return torch.where(rest > 1e-6, explained / rest, -1)


def _likeness_of_products(curves: Tensor, unit: Tensor) -> Tensor:
    """R2 of the product of two curves, for all pairs of them."""
    curves = curves / curves.abs().amax(1, keepdim=True).clamp_min(1e-300)
    variance = curves.square() @ curves.square().T - (curves @ curves.T).square() / curves.shape[1]
    return torch.where(variance > 1e-9, ((curves * unit) @ curves.T).square() / variance, -1)
