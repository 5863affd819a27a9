"""Fits of functions to curves, `y ~ c f(a x + b) + d`: all functions to all curves in one computation, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kan_fast._support.samples import are_constant, evenly
from kan_fast.nn.functions import Function
from kan_fast.symbolic.curves.descent import best_scale, descend, evaluate
from kan_fast.symbolic.curves.starts import POINTS, grid

STARTS = 6  # starts of every fit
ROUNDS = ((48, 5), (96, 8))  # samples and steps; the best start alone goes on with more samples
FINALISTS, FINAL_STEPS = 5, 7  # functions of every curve that go on with all samples
LEAST = 8  # fewest samples: four for the parameters, and some that test them
CHUNK = 1 << 19  # numbers in a temporary
MODERATE = 4  # decades by which c may change for the sake of b = 0


class Fits(NamedTuple):
    """The best fit of each function to each curve. An R2 of -inf says that the function is not defined there."""

    affine: Tensor  # (curves, functions, 4): a, b, c, d of c f(a x + b) + d
    r2: Tensor  # (curves, functions), on the samples that were fitted, at most 1
    r2_held_out: Tensor  # (curves, functions), on the others; r2 if there are none
    bend: Tensor  # (curves, functions, 2), share of the function's variance that a line, and a parabola, leave


def held_out(x: Tensor, share: float) -> Tensor:
    """Which samples of x `(n, in)` to hold out, `(n,)` on the CPU: the same ones at each call, at random.

    The least and the greatest value of each column come last: functions that were fitted may be undefined beyond.
    """
    order = torch.rand(len(x), generator=torch.Generator().manual_seed(0))
    order[torch.cat([x.argmin(0), x.argmax(0)]).cpu()] += 1
    mask = torch.zeros(len(x), dtype=torch.bool)
    mask[order.argsort()[: round(share * len(x))]] = True
    return mask


@torch.no_grad()
def fit_functions(x: Tensor, y: Tensor, functions: Sequence[Function], test: Tensor, rounding: float = 2.3e-16) -> Fits:
    """Fit every function to every curve by least squares.

    c and d follow from a and b in closed form (variable projection, Golub and Pereyra 1973). a and b start from the
    best places on a coarse grid, which one matrix product compares with all curves, and go on in Levenberg-Marquardt
    steps, with a few samples first. Arguments stay in the domain on all samples, and on one side of a pole.

    Args:
        x: samples of each curve's argument `(n, curves)`, finite.
        y: values `(n, curves)`, finite.
        functions: the functions to fit.
        test: bool `(n,)`, samples that are not fitted but compared with the fit.
        rounding: relative error of the numbers with which the formula will be computed. R2 includes the error that it
            causes where c f and d are much larger than their sum.

    Returns:
        Affine parameters and R2 = 1 - (mean squared error) / (variance of y), float64. R2 is 1 where y is constant.
        Where f itself is constant on the samples, its bend is NaN.

    Raises:
        ValueError: shapes don't match; there are NaN or infinity, or fewer than 8 samples.
    """
    x, y, test = x.double(), y.double(), test.to(x.device)
    _check(x, y, test)
    size = max(1, CHUNK // (len(functions) * max(STARTS * ROUNDS[0][0], len(x) // 4)))
    parts = [_fit(xs, ys, functions, test, rounding) for xs, ys in zip(x.T.split(size), y.T.split(size), strict=True)]
    return Fits(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _check(x: Tensor, y: Tensor, test: Tensor) -> None:
    if x.dim() != 2 or x.shape != y.shape or test.shape != x.shape[:1]:
        raise ValueError(
            f"curves need x and y of one shape (samples, curves) and test of (samples,), got {tuple(x.shape)}, "
            f"{tuple(y.shape)} and {tuple(test.shape)}"
        )
    if (~test).sum() < LEAST:
        raise ValueError(
            f"a fit of 4 parameters needs at least {LEAST} samples besides those held out, got {int((~test).sum())}"
        )
    for name, values in (("x", x), ("y", y)):
        if not values.isfinite().all():
            curve = (~values.isfinite()).any(0).nonzero()[0].item()
            raise ValueError(f"NaN or infinity in {name} of curve {curve}; fits need finite samples")


def _fit(x: Tensor, y: Tensor, functions: Sequence[Function], test: Tensor, rounding: float) -> Fits:
    """`fit_functions` of x, y `(curves, n)`, with everything in memory."""
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    half = torch.where(high > low, (high - low) / 2, 1)
    u = ((x - (low + high) / 2) / half).clamp(-1, 1)
    mean = y.mean(1, keepdim=True)
    deviation = (y - mean).square().mean(1, keepdim=True).sqrt()
    constant = are_constant(y.T, roundings=16) | (deviation[:, 0] == 0)  # squares of tiny numbers are 0
    deviation[constant] = 1
    v = torch.where(constant[:, None], 0, (y - mean) / deviation)

    curves = len(x)
    fit_u, order = u[:, ~test].sort(1)
    fit_v = v[:, ~test].gather(1, order)
    pairs = _starts(functions, fit_u, fit_v)
    for samples, steps in ROUNDS:
        few = evenly(fit_u.shape[1], samples, x.device)
        pairs, error = pairs.descend(fit_u[:, few], fit_v[:, few], steps)
        error, best = error.view(len(functions) * curves, -1).min(1)
        pairs = pairs.select(best + torch.arange(0, len(pairs.curve), len(pairs.curve) // len(best), device=x.device))
    error = error.view(len(functions), curves)
    top = error.argsort(0)[:FINALISTS]
    final = torch.zeros_like(error, dtype=torch.bool).scatter_(0, top, True).flatten()
    pairs.ends[final] = pairs.select(final).descend(fit_u, fit_v, FINAL_STEPS)[0].ends

    first, last = pairs.ends.unbind(1)
    a = (last - first) / 2 / half[pairs.curve, 0]
    b = (last + first) / 2 - a * ((low + high) / 2)[pairs.curve, 0]
    margin = 4 * rounding * (a.abs() * torch.maximum(low.abs(), high.abs())[pairs.curve, 0] + b.abs())
    over = (pairs.start + margin - pairs.ends.amin(1)).clamp_min(0)
    inward = over - (pairs.ends.amax(1) + margin - pairs.end).clamp_min(0)
    pairs, b = pairs._replace(ends=pairs.ends + inward[:, None]), b + inward

    f = pairs.evaluate(fit_u)
    c, d = best_scale(f[:, None], fit_v[pairs.curve])
    c = c[:, 0]
    lost = (rounding * c * f.abs().amax(1)).square()
    r2 = []
    for part_u, part_v in ((fit_u, fit_v), (u[:, test], v[:, test])):
        if part_u.shape[1]:
            error = (part_v[pairs.curve] - c[:, None] * pairs.evaluate(part_u) - d[:, None]).square().mean(1) + lost
            r2.append(1 - torch.where(error.isfinite(), error, torch.inf).view(len(functions), curves).T)
    c, d = c * deviation[pairs.curve, 0], mean[pairs.curve, 0] + deviation[pairs.curve, 0] * d
    affine = torch.stack([a, b, c, d], 1).view(len(functions), curves, 4)
    affine = torch.stack([plain(*each) for each in zip(functions, affine, strict=True)], 1)
    bend = _bend(fit_u, f.view(len(functions), curves, -1)).transpose(0, 1)
    return Fits(affine, r2[0], r2[-1], bend)


def _bend(u: Tensor, f: Tensor) -> Tensor:
    """The share of the variance of f `(functions, curves, n)` that polynomials in u `(curves, n)` leave.

    Returns:
        `(functions, curves, 2)`, for degree 1 and 2.
    """
    powers = torch.linalg.qr(torch.stack([torch.ones_like(u), u, u * u], 2)).Q  # (curves, n, 3)
    f = f - f.mean(2, keepdim=True)
    parts = (f.transpose(0, 1) @ powers[..., 1:]).square().cumsum(2)  # (curves, functions, 2)
    return 1 - parts.transpose(0, 1) / f.square().sum(2)[..., None]


def plain(function: Function, affine: Tensor) -> Tensor:
    """Parameters `(..., 4)` of the same curves that are easier to read, as far as the function has symmetries.

    a is positive if the function is even or odd, and b within half a period of 0. a is 1 or -1 where the scale of the
    argument is redundant, and b is 0 where the origin is.
    """
    a, b, c, d = affine.unbind(-1)
    f, one = function.evaluate, torch.ones_like(a)
    if function.parity:
        sign = torch.where(a < 0, -one, one)
        a, b, c = sign * a, sign * b, c * (1 if function.parity > 0 else sign)
    if function.period is not None:
        b = b - function.period * (b / function.period).round()
    if function.degree is not None:
        scale = torch.where(a == 0, 1, a.abs())
        power = scale**function.degree
        a, b, c, d = a / scale, b / scale, c * power, d + c * (f(scale) - power * f(one))
    if function.translates:
        origin = f(0 * one)
        factor = (f(b + one) - f(b)) / (f(one) - origin)
        moderate = factor.abs().log10().abs() <= MODERATE
        b, c, d = (
            torch.where(moderate, new, old)
            for new, old in ((0 * b, b), (c * factor, c), (d + c * (f(b) - factor * origin), d))
        )
    return torch.stack([a, b, c, d], -1) + 0.0  # -0 becomes 0


class _Pairs(NamedTuple):
    """Fits in progress, each of a function to a curve."""

    functions: Sequence[Function]
    function: Tensor  # (pairs,), their numbers
    curve: Tensor  # (pairs,)
    ends: Tensor  # (pairs, 2), the arguments for u = -1 and for u = 1
    start: Tensor  # (pairs,), bounds of both
    end: Tensor

    def select(self, which: Tensor) -> _Pairs:
        """Some of them, by a mask or their numbers."""
        return _Pairs(self.functions, *(values[which] for values in self[1:]))

    def evaluate(self, u: Tensor) -> Tensor:
        """Values of the functions `(pairs, n)` at the arguments for u `(curves, n)`."""
        share = ((1 + u) / 2)[self.curve]
        return evaluate(self.functions, self.function, torch.lerp(self.ends[:, :1], self.ends[:, 1:], share))[0]

    def descend(self, u: Tensor, v: Tensor, steps: int) -> tuple[_Pairs, Tensor]:
        """Improve the fits to curves `(curves, n)`; returns them with their squared errors. See `descend`."""
        share = ((1 + u) / 2)[self.curve]

        def model(ends: Tensor) -> tuple[Tensor, Tensor]:
            z = torch.lerp(ends[:, :1], ends[:, 1:], share)
            f, slope = evaluate(self.functions, self.function, z, slope=True)
            return f[:, None], torch.stack([slope * (1 - share), slope * share], 1)

        bounds = (self.start[:, None].expand_as(self.ends), self.end[:, None].expand_as(self.ends))
        ends, error = descend(model, v[self.curve], self.ends, bounds, steps)
        return self._replace(ends=ends), error


def _starts(functions: Sequence[Function], u: Tensor, v: Tensor) -> _Pairs:
    """The best starts of every function for every curve `(curves, n)` in ascending u."""
    curves = len(u)
    at = torch.linspace(-1, 1, POINTS, dtype=u.dtype, device=u.device).expand(curves, POINTS)
    right = torch.searchsorted(u, at.contiguous()).clamp(1, u.shape[1] - 1)
    (u0, u1), (v0, v1) = ((t.gather(1, right - 1), t.gather(1, right)) for t in (u, v))
    share = torch.where(u1 > u0, (at - u0) / (u1 - u0), 0).clamp(0, 1)
    shape = v0 + share * (v1 - v0)
    shape = (shape - shape.mean(1, keepdim=True)).float().T  # (POINTS, curves)
    which = torch.arange(curves, device=u.device)[:, None].expand(curves, STARTS)
    found = []
    for number, function in enumerate(functions):
        if function.jump is not None:
            ends = (function.jump + _best_jump(u, v)).repeat_interleave(STARTS, 0)
            line = torch.full_like(ends[:, 0], math.inf)
            found.append([torch.full_like(which, number).flatten(), which.flatten(), ends, -line, line])
            continue
        first, last, start, end, curve, defined = (t.to(u.device) for t in grid(function))
        likeness = (curve.view(-1, POINTS) @ shape).square().view(*defined.shape, curves)
        likeness, column = likeness.masked_fill(~defined[..., None], -1).max(1)  # (rows, curves)
        padded = torch.nn.functional.pad(likeness, (0, 0, 1, 1), value=-2)
        peak = (likeness >= padded[:-2]) & (likeness >= padded[2:]) & (likeness >= 0)
        rows = (likeness + peak * (1 + likeness.amax(0))).T.topk(STARTS).indices
        columns = column.T.gather(1, rows)
        ends = torch.stack([first[rows, columns], last[rows, columns]], -1).view(-1, 2)
        pairs = (torch.full_like(which, number), which, ends, start[rows], end[rows])
        found.append([t if t is ends else t.flatten() for t in pairs])
    return _Pairs(functions, *(torch.cat(tensors) for tensors in zip(*found, strict=True)))


def _best_jump(u: Tensor, v: Tensor) -> Tensor:
    """Ends `(curves, 2)` of arguments that are 0 between the two parts of each curve that differ most in their means.

    No descent finds that place, since a jump has no slope. The squared error of a mean on either side is least where
    `(sum on the left)^2 / (n_left n_right)` is greatest, v having the mean 0.
    """
    n = u.shape[1]
    left = torch.arange(1, n, dtype=u.dtype, device=u.device)
    gain = (v - v.mean(1, keepdim=True)).cumsum(1)[:, :-1].square() / (left * (n - left))
    split = gain.masked_fill(u[:, 1:] == u[:, :-1], -1).argmax(1, keepdim=True)
    place = (u.gather(1, split) + u.gather(1, split + 1)) / 2
    return torch.cat([-1 - place, 1 - place], 1)
