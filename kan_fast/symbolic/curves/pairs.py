"""Curves that are sums or products of two functions of the library, `c f(x) + e g(x) + d` or `c f(x) g(x) + d`.

Many pairs of curves have the same sum or product, so splines say nothing about f and g, as with chains. All pairs of
functions are fitted in one computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kan_fast.nn.functions import Function
from kan_fast.symbolic.curves.chains import distinct
from kan_fast.symbolic.curves.descent import best_scale, descend, evaluate, ordered, tournament

CURVES = 96  # curves of each function that are tried
STARTS = 2  # starts for each pair of functions


class Pair(NamedTuple):
    """Two functions with their affine parameters, and a constant to be added to their sum or product."""

    functions: tuple[Function, Function]
    affine: Tensor  # (2, 4)
    constant: float


@torch.no_grad()
def pairs(x: Tensor, y: Tensor, functions: Sequence[Function], count: int, multiply: bool) -> list[Pair]:
    """The sums or products of two functions with the best balance of error and complexity, the best first.

    Args:
        x: samples `(n,)` from -1 to 1, not all equal.
        y: values `(n,)`, not all equal.
        functions: f and g are two of these.
        count: number of pairs, each of other functions.
        multiply: whether to fit products instead of sums.
    """
    functions = [f for f in functions if f.complexity]
    if not functions:
        return []
    x, y, unit = ordered(x, y)
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
        """The pairs with these numbers."""
        return _State(self.functions, self.multiply, *(values[numbers] for values in self[2:]))

    @property
    def price(self) -> Tensor:
        """Complexities, `(pairs,)`."""
        return torch.tensor([f.price for f in self.functions])[self.which].sum(1)

    def curves(self, x: Tensor, ends: Tensor, slope: bool) -> tuple[Tensor, Tensor]:
        """Values of f and g, and their derivatives in the arguments, `(pairs, 2, n)` each."""
        z = torch.lerp(ends[:, ::2, None], ends[:, 1::2, None], (1 + x) / 2)
        values, slopes = evaluate(self.functions, self.which.flatten(), z.flatten(0, 1), slope)
        return values.view(z.shape), slopes.view(z.shape)

    def terms(self, values: Tensor) -> Tensor:
        """The terms that are added up with factors: both functions, or their product."""
        return values.prod(1, keepdim=True) if self.multiply else values

    def descend(self, x: Tensor, y: Tensor, steps: int) -> tuple[_State, Tensor]:
        """Improve the fits; returns them with their squared errors."""
        share = torch.stack([(1 - x) / 2, (1 + x) / 2])

        def model(ends: Tensor) -> tuple[Tensor, Tensor]:
            values, slopes = self.curves(x, ends, slope=True)
            if self.multiply:
                slopes = slopes * values.flip(1)
            return self.terms(values), (slopes[:, :, None] * share).flatten(1, 2)

        ends, error = descend(model, y.expand(len(self.ends), -1), self.ends, (self.low, self.high), steps)
        return self._replace(ends=ends), error

    def pairs(self, x: Tensor, y: Tensor) -> list[Pair]:
        """The pairs as functions with affine parameters."""
        c, d = best_scale(self.terms(self.curves(x, self.ends, slope=False)[0]), y.expand(len(self.ends), -1))
        first, last = self.ends[:, ::2], self.ends[:, 1::2]
        scale = torch.cat([c, torch.ones_like(c)], 1) if self.multiply else c
        affine = torch.stack([(last - first) / 2, (last + first) / 2, scale, torch.zeros_like(scale)], 2)
        return [
            Pair((self.functions[f], self.functions[g]), parameters, constant)
            for (f, g), parameters, constant in zip(self.which.tolist(), affine, d.tolist(), strict=True)
        ]


def _start(functions: Sequence[Function], multiply: bool, x: Tensor, y: Tensor) -> _State:
    """The best starts for every pair of functions, from coarse curves; matrix products compare all pairs of curves."""
    tried = [distinct(f, CURVES, origin=multiply) for f in functions]
    ends, bounds = (torch.stack([_repeated(t) for t in tensors]) for tensors in zip(*tried, strict=True))
    z = torch.lerp(ends[..., :1], ends[..., 1:], (1 + x) / 2)
    curves = torch.stack([f.evaluate(part) for f, part in zip(functions, z, strict=True)])  # (functions, CURVES, n)
    here = torch.tensor([len(rows) for rows, _ in tried])[:, None] > torch.arange(CURVES)  # the others are repeated
    here &= curves.isfinite().all(2)
    curves = curves.where(here[..., None], 0)
    likeness = _likeness_of_products if multiply else _likeness_of_sums
    unit, found = (y - y.mean()) / (y - y.mean()).norm(), []
    for f, curve in enumerate(curves):
        blocks = likeness(curve, curves[f:].flatten(0, 1), unit).view(CURVES, -1, CURVES).transpose(0, 1)
        both = here[f, :, None] & here[f:, None]
        best = blocks.where(both, -1).flatten(1).topk(STARTS).indices  # (functions from f on, STARTS)
        g = torch.arange(f, len(functions))[:, None].expand_as(best)
        which = torch.stack([torch.full_like(g, f), g], 2)
        number = torch.stack([best // CURVES, best % CURVES], 2)
        limits = bounds[which, number].repeat_interleave(2, 2)  # (..., STARTS, 4, 2)
        found.append([t.flatten(0, 1) for t in (which, ends[which, number].flatten(2), *limits.unbind(3))])
    return _State(functions, multiply, *(torch.cat(tensors) for tensors in zip(*found, strict=True)))


def _repeated(rows: Tensor) -> Tensor:
    """The rows, repeated to as many as there are curves."""
    return rows.repeat(-(-CURVES // len(rows)), 1)[:CURVES]


def _likeness_of_sums(f: Tensor, g: Tensor, unit: Tensor) -> Tensor:
    """R2 of the best combination of each two curves, `(m, n)` and `(k, n)` to `(m, k)`."""
    f, g = (curves - curves.mean(1, keepdim=True) for curves in (f, g))
    f, g = (curves / curves.norm(dim=1, keepdim=True).clamp_min(1e-300) for curves in (f, g))
    a, b, gram = (f @ unit)[:, None], g @ unit, f @ g.T
    rest = 1 - gram.square()
    return torch.where(rest > 1e-6, (a.square() + b.square() - 2 * a * b * gram) / rest, -1)


def _likeness_of_products(f: Tensor, g: Tensor, unit: Tensor) -> Tensor:
    """R2 of the product of each two curves."""
    f, g = (curves / curves.abs().amax(1, keepdim=True).clamp_min(1e-300) for curves in (f, g))
    variance = f.square() @ g.square().T - (f @ g.T).square() / f.shape[1]
    return torch.where(variance > 1e-9, ((f * unit) @ g.T).square() / variance, -1)
