"""Where to start fitting `f(a x + b)`: a coarse grid of (a, b) for each function, compared with all curves at once."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from kan_fast.nn.functions import Function

POINTS = 64  # positions at which functions and curves are compared
WIDEST = 40.0  # largest half-width of the arguments: 13 periods of a sine over the samples
LEFT, RIGHT = 1e-3, 1e3  # ratios of distance to width, for arguments next to an end of the domain


class Starts(NamedTuple):
    """Intervals (first, last) of arguments, for the smallest and the largest x, and the curves of the function there.

    Each row belongs to a part (start, end) of the real line in which the function is real and has no pole.
    """

    first: Tensor  # (rows, columns)
    last: Tensor  # (rows, columns)
    start: Tensor  # (rows,)
    end: Tensor  # (rows,)
    curve: Tensor  # (rows, columns, POINTS), with mean 0 and norm 1, or 0 where the function is constant or undefined
    defined: Tensor  # bool (rows, columns)


def branches(function: Function) -> list[tuple[float, float]]:
    """Intervals without a pole inside that make up the domain, without those that a symmetry maps to others."""
    (start, end), pole = function.domain, function.pole
    if pole is None:
        return [(start, end)]
    if function.period is not None:
        return [(pole - function.period, pole)]
    parts = [part for part in ((pole, end), (start, pole)) if part[0] < part[1]]
    return parts[:1] if function.parity else parts


@lru_cache(maxsize=256)
def grid(function: Function) -> Starts:
    """Intervals such that any curve of the function resembles that of one of them."""
    parts = []
    for start, end in branches(function):
        if math.isfinite(start) and math.isfinite(end):
            first, last = _within(start, end)
        elif math.isfinite(start):
            first, last = (start + z for z in _beyond(function))
        elif math.isfinite(end):
            first, last = (end - z for z in _beyond(function))
        else:
            first, last = _anywhere(function)
        rows = first.new_ones(len(first))
        parts.append((first, last, start * rows, end * rows))
    first, last, start_, end_ = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    u = torch.linspace(-1, 1, POINTS, dtype=torch.float64)
    curve = function.evaluate(((1 - u) * first[..., None] + (1 + u) * last[..., None]) / 2)
    curve = curve - curve.mean(-1, keepdim=True)
    norm = curve.norm(dim=-1, keepdim=True)
    unit = torch.where(norm.isfinite() & (norm > 0), curve / norm, 0)
    return Starts(first, last, start_, end_, unit.float(), norm.isfinite()[..., 0])


def _within(start: float, end: float) -> tuple[Tensor, Tensor]:
    """Arguments in a bounded interval, up or down."""
    near = torch.tensor([0, 3e-3, 2e-2, 7e-2, 0.15], dtype=torch.float64)
    ends = torch.cat([near, torch.linspace(0.25, 0.75, 7, dtype=torch.float64), 1 - near.flip(0)])
    first, last = torch.meshgrid(start + (end - start) * ends, start + (end - start) * ends, indexing="ij")
    return first, torch.where(first == last, math.nan, last)


def _beyond(function: Function) -> tuple[Tensor, Tensor]:
    """Arguments above 0, up or down; where the scale is of no consequence there is one width."""
    scale_free = function.degree is not None
    ratio = _logspace(LEFT, RIGHT, 49 if scale_free else 19)
    ratio = torch.cat([ratio.new_zeros(1), ratio])
    width = ratio.new_ones(1) if scale_free else _logspace(0.03, 30, 10)
    near, far = ratio[:, None] * width, (1 + ratio[:, None]) * width
    return torch.cat([near, far]), torch.cat([far, near])


def _anywhere(function: Function) -> tuple[Tensor, Tensor]:
    """Arguments on the whole line."""
    if function.degree is not None:
        centre = torch.cat([torch.linspace(-1.5, 1.5, 193, dtype=torch.float64), *_far()])[:, None]
        return centre - 1, centre + 1
    width = _logspace(0.1, WIDEST / 2, 16)
    if _turns(function) > 4:
        steps = (_logspace(0.1, 1, 4), torch.arange(1.5, 10, 0.6), torch.arange(10, WIDEST, 1.25))
        width = torch.cat([part.double() for part in steps])
    if function.period is not None:
        centre = torch.arange(8, dtype=torch.float64) * (function.period / 8)
        return centre - width[:, None], centre + width[:, None]
    zero = torch.cat([torch.linspace(-1.5, 1.5, 49, dtype=torch.float64), *_far()])  # the x of argument 0
    up = width[:, None] * (-1 - zero), width[:, None] * (1 - zero)
    if function.parity:
        return up
    return torch.cat([up[0], up[1]]), torch.cat([up[1], up[0]])


def _logspace(start: float, end: float, count: int) -> Tensor:
    return torch.logspace(math.log10(start), math.log10(end), count, dtype=torch.float64)


def _far() -> tuple[Tensor, Tensor]:
    beyond = 1.5 * _logspace(1.2, 30, 8)
    return beyond, -beyond


def _turns(function: Function) -> int:
    """The number of changes between rising and falling of the function on a wide interval."""
    values = function.evaluate(torch.linspace(-WIDEST, WIDEST, 1001, dtype=torch.float64))
    slope = values.diff().sign()
    return int((slope[1:] * slope[:-1] < 0).sum())
