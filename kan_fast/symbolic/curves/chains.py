"""Curves that are a function of the library of another one, `c f(a g(x) + b) + d`: all pairs in one computation.

A network [1, 1, 1] of splines can write such a curve with any monotonic inner function, so its splines say nothing
about f and g.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from kan_fast.nn.functions import Function
from kan_fast.symbolic.curves.descent import best_scale, descend, evaluate, ordered, tournament
from kan_fast.symbolic.curves.starts import grid

INNER, OUTER = 96, 16  # curves of each function that are tried as g and as f
STARTS = 2  # starts for each pair of functions


class Chain(NamedTuple):
    """A function `f(t)` of `t = c g(a x + b) + d`."""

    inner: Function
    inner_affine: list[float]  # a, b, c, d of g
    outer: Function
    outer_affine: list[float]  # a, b, c, d of f
    error: float  # mean squared error in units of the variance


@torch.no_grad()
def chains(x: Tensor, y: Tensor, functions: Sequence[Function], count: int) -> list[Chain]:
    """The chains with the best balance of error and complexity for a curve, the best first.

    Args:
        x: samples `(n,)` from -1 to 1, not all equal.
        y: values `(n,)`, not all equal.
        functions: f and g are two of these.
        count: number of chains, each of another pair of functions.
    """
    functions = [f for f in functions if f.complexity > 1]
    if not functions:
        return []
    x, y, unit = ordered(x, y)
    return tournament(partial(_start, functions), x, unit, STARTS, count).chains(x, y)


class _Pairs(NamedTuple):
    """Chains under way. t is (g - centre) / half."""

    functions: Sequence[Function]
    inner: Tensor  # (pairs,), their numbers
    outer: Tensor  # (pairs,)
    ends: Tensor  # (pairs, 4): the arguments of g for x = -1 and x = 1, those of f for t = -1 and t = 1
    low: Tensor  # (pairs, 4), their bounds
    high: Tensor
    centre: Tensor  # (pairs,)
    half: Tensor  # (pairs,)

    def select(self, which: Tensor) -> _Pairs:
        """The chains with these numbers."""
        return _Pairs(self.functions, *(values[which] for values in self[1:]))

    @property
    def price(self) -> Tensor:
        """Complexities, `(pairs,)`."""
        price = torch.tensor([f.complexity for f in self.functions])
        return price[self.inner] + price[self.outer]

    def descend(self, x: Tensor, y: Tensor, steps: int) -> tuple[_Pairs, Tensor]:
        """Improve the fits; returns them with their squared errors."""
        share = ((1 + x) / 2).expand(len(self.inner), -1)

        def model(ends: Tensor) -> tuple[Tensor, Tensor]:
            p, q, r, s = ends[:, :, None].unbind(1)
            g, rise = evaluate(self.functions, self.inner, torch.lerp(p, q, share), slope=True)
            along = (1 + (g - self.centre[:, None]) / self.half[:, None]) / 2
            f, slope = evaluate(self.functions, self.outer, torch.lerp(r, s, along), slope=True)
            through = slope * (s - r) / 2 * rise / self.half[:, None]
            return f[:, None], torch.stack(
                [through * (1 - share), through * share, slope * (1 - along), slope * along], 1
            )

        ends, error = descend(model, y.expand(share.shape), self.ends, (self.low, self.high), steps)
        return self._replace(ends=ends), error

    def chains(self, x: Tensor, y: Tensor) -> list[Chain]:
        """The chains as functions with affine parameters."""
        share = ((1 + x) / 2).expand(len(self.inner), -1)
        p, q, r, s = self.ends[:, :, None].unbind(1)
        g = evaluate(self.functions, self.inner, torch.lerp(p, q, share))[0]
        along = (1 + (g - self.centre[:, None]) / self.half[:, None]) / 2
        f = evaluate(self.functions, self.outer, torch.lerp(r, s, along))[0]
        c, d = best_scale(f[:, None], y.expand(f.shape))
        error = (c * f + d[:, None] - y).square().mean(1) / y.var(correction=0)
        p, q, r, s = self.ends.unbind(1)
        inner = torch.stack([(q - p) / 2, (q + p) / 2, 1 / self.half, -self.centre / self.half], 1)
        outer = torch.stack([(s - r) / 2, (s + r) / 2, c[:, 0], d], 1)
        return [
            Chain(self.functions[i], inner_affine, self.functions[o], outer_affine, e)
            for i, inner_affine, o, outer_affine, e in zip(
                *(t.tolist() for t in (self.inner, inner, self.outer, outer, error)), strict=True
            )
        ]


def _start(functions: Sequence[Function], x: Tensor, y: Tensor) -> _Pairs:
    """The best starts for every pair of functions, from a coarse grid of curves."""
    share, unit = (1 + x) / 2, (y - y.mean()) / (y - y.mean()).norm()
    found = []
    for inner, g in enumerate(functions):
        ends, bounds = distinct(g, INNER)
        curve = g.evaluate(torch.lerp(ends[:, :1], ends[:, 1:], share))
        low, high = curve.aminmax(dim=1)
        defined = low.isfinite() & high.isfinite() & (high > low)
        centre, half = (high + low) / 2, (high - low) / 2
        along = ((1 + (curve - centre[:, None]) / half[:, None]) / 2)[defined, None]  # (curves, 1, n)
        ends, bounds, centre, half = (t[defined] for t in (ends, bounds, centre, half))
        for outer, f in enumerate(functions):
            outer_ends, outer_bounds = distinct(f, OUTER)
            values = f.evaluate(torch.lerp(outer_ends[:, :1], outer_ends[:, 1:], along))  # (curves, outer curves, n)
            values = values - values.mean(2, keepdim=True)
            likeness = (values @ unit).square() / values.square().sum(2)
            best = likeness.nan_to_num(-1).flatten().topk(STARTS).indices
            k, o = best // len(outer_ends), best % len(outer_ends)
            limits = torch.stack([bounds[k], outer_bounds[o]], 1).repeat_interleave(2, 1)  # (starts, 4, 2)
            numbers = torch.tensor([inner, outer]).expand(STARTS, 2)
            found.append((*numbers.T, torch.cat([ends[k], outer_ends[o]], 1), *limits.unbind(2), centre[k], half[k]))
    return _Pairs(functions, *(torch.cat(tensors) for tensors in zip(*found, strict=True)))


@lru_cache(maxsize=256)
def distinct(function: Function, count: int, origin: bool = False) -> tuple[Tensor, Tensor]:
    """Intervals of arguments whose curves differ as much as possible, the most different first, and their bounds.

    With `origin`, curves that differ by a constant count as different.
    """
    first, last, start, end, curve, defined = grid(function)
    if origin:
        share = torch.linspace(0, 1, curve.shape[2], dtype=torch.float64)
        raw = function.evaluate(torch.lerp(first[..., None], last[..., None], share))
        curve = (raw / raw.norm(dim=2, keepdim=True)).nan_to_num(0, 0, 0).float()
    defined = defined & curve.any(2)
    ends = torch.stack([first, last], 2)[defined]
    bounds = torch.stack([start, end], 1)[:, None].expand(*first.shape, 2)[defined]
    curve = curve[defined]
    chosen = [len(ends) // 2]
    likeness = torch.zeros(len(ends))
    for _ in range(min(count, len(ends)) - 1):
        likeness = torch.maximum(likeness, (curve @ curve[chosen[-1]]).square())
        chosen.append(int(likeness.argmin()))
    return ends[chosen], bounds[chosen]
