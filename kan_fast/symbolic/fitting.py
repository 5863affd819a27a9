"""Fits of functions to curves, `y ~ c f(a x + b) + d`: all functions to all curves in one computation, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kan_fast.functions import Function
from kan_fast.symbolic.starts import POINTS, grid

STARTS = 6  # for every fit
ROUNDS = ((48, 5), (96, 8))  # samples and steps; the best start alone goes on with more samples
FINALISTS, FINAL_STEPS = 5, 7  # functions of every curve that go on with all samples
LEAST = 8  # samples: four parameters, and some that test them
CHUNK = 1 << 19  # numbers in a temporary
NEAR = 0.02  # of the interval of arguments
MODERATE = 4  # decades by which c may change for the sake of b = 0


class Fits(NamedTuple):
    """The best fit of each function to each curve. An R2 of -inf says that the function is not defined there."""

    affine: Tensor  # (curves, functions, 4): a, b, c, d of c f(a x + b) + d
    r2: Tensor  # (curves, functions), on the samples that were fitted, at most 1
    r2_held_out: Tensor  # (curves, functions), on the others; r2 if there are none


def held_out(samples: int, share: float) -> Tensor:
    """Which samples `(samples,)` to hold out: the same ones at each call, at random."""
    order = torch.rand(samples, generator=torch.Generator().manual_seed(0)).argsort()
    mask = torch.zeros(samples, dtype=torch.bool)
    mask[order[: round(share * samples)]] = True
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
        functions: what to fit.
        test: bool `(n,)`, samples that are not fitted but compared with the fit.
        rounding: relative error of the numbers with which the formula is to be computed; R2 counts what becomes of it
            where c f is much larger than what it adds up to.

    Returns:
        Affine parameters and R2 = 1 - (mean squared error) / (variance of y), float64. R2 is 1 where y is constant.

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
    constant = deviation[:, 0] <= 8 * torch.finfo(y.dtype).eps * mean[:, 0].abs()
    deviation[constant] = 1
    v = torch.where(constant[:, None], 0, (y - mean) / deviation)

    curves = len(x)
    fit_u, order = u[:, ~test].sort(1)
    fit_v = v[:, ~test].gather(1, order)
    pairs = _starts(functions, fit_u, fit_v)
    for samples, steps in ROUNDS:
        few = torch.linspace(0, fit_u.shape[1] - 1, min(samples, fit_u.shape[1]), device=x.device).round().long()
        pairs, error = _descend(pairs, fit_u[:, few], fit_v[:, few], steps)
        error, best = error.view(len(functions) * curves, -1).min(1)
        pairs = pairs.select(best + torch.arange(0, len(pairs.first), len(pairs.first) // len(best), device=x.device))
    error = error.view(len(functions), curves)
    top = error.argsort(0)[:FINALISTS]
    final = torch.zeros_like(error, dtype=torch.bool).scatter_(0, top, True).flatten()
    polished, _ = _descend(pairs.select(final), fit_u, fit_v, FINAL_STEPS)
    pairs.first[final], pairs.last[final] = polished.first, polished.last

    a = (pairs.last - pairs.first) / 2 / half[pairs.curve, 0]
    b = (pairs.last + pairs.first) / 2 - a * ((low + high) / 2)[pairs.curve, 0]
    margin = 4 * rounding * (a.abs() * torch.maximum(low.abs(), high.abs())[pairs.curve, 0] + b.abs())
    lowest, highest = torch.minimum(pairs.first, pairs.last), torch.maximum(pairs.first, pairs.last)
    inward = (pairs.start + margin - lowest).clamp_min(0) - (highest + margin - pairs.end).clamp_min(0)
    pairs, b = pairs._replace(first=pairs.first + inward, last=pairs.last + inward), b + inward

    f = pairs.evaluate(fit_u)[0]
    values, target = f - f.mean(1, keepdim=True), fit_v[pairs.curve]
    c = _amplitude(f, values, target - target.mean(1, keepdim=True))
    d = target.mean(1) - c * f.mean(1)
    lost = (rounding * c * f.abs().amax(1)).square()
    r2 = [
        _r2(pairs, part_u, part_v, c, d, lost).view(len(functions), curves).T
        for part_u, part_v in ((fit_u, fit_v), (u[:, test], v[:, test]))
        if part_u.shape[1]
    ]
    c, d = c * deviation[pairs.curve, 0], mean[pairs.curve, 0] + deviation[pairs.curve, 0] * d
    affine = torch.stack([a, b, c, d], 1).view(len(functions), curves, 4)
    affine = torch.stack([plain(*each) for each in zip(functions, affine, strict=True)], 1)
    return Fits(affine, r2[0], r2[-1])


def plain(function: Function, affine: Tensor) -> Tensor:
    """The same curves by parameters `(..., 4)` that are easy to read, as far as the function has symmetries.

    a is positive if the function is even or odd, b within half a period of 0. a is 1 or -1 where the scale of the
    argument is of no consequence, and b is 0 where its origin is of none.
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


def _r2(pairs: _Pairs, u: Tensor, v: Tensor, c: Tensor, d: Tensor, lost: Tensor) -> Tensor:
    """1 - mean squared error: v has the variance 1."""
    error = (v[pairs.curve] - c[:, None] * pairs.evaluate(u)[0] - d[:, None]).square().mean(1) + lost
    return 1 - torch.where(error.isfinite(), error, torch.inf)


class _Pairs(NamedTuple):
    """Fits that are under way, of functions one after the other, to some curve each."""

    functions: Sequence[Function]
    function: Tensor  # (pairs,), ascending
    curve: Tensor  # (pairs,)
    first: Tensor  # (pairs,), the argument for u = -1
    last: Tensor  # and for u = 1
    start: Tensor  # (pairs,), bounds of both
    end: Tensor

    def select(self, which: Tensor) -> _Pairs:
        """Some of them, by a mask or their numbers."""
        return _Pairs(self.functions, *(values[which] for values in self[1:]))

    def evaluate(self, u: Tensor, slope: bool = False) -> tuple[Tensor, Tensor]:
        """Values and, if asked for, derivatives of the functions at the arguments for u `(curves, n)`: `(pairs, n)`."""
        u = u[self.curve]
        z = ((1 - u) * self.first[:, None] + (1 + u) * self.last[:, None]) / 2
        counts = torch.bincount(self.function, minlength=len(self.functions)).tolist()
        with torch.set_grad_enabled(slope):
            z.requires_grad_(slope)
            parts = zip(self.functions, z.split(counts), strict=True)
            values = torch.cat([function.evaluate(part) for function, part in parts if len(part)])
            gradient = torch.autograd.grad(values.sum(), z)[0] if slope else values
        return values.detach(), gradient


def _amplitude(f: Tensor, values: Tensor, target: Tensor) -> Tensor:
    """c of the best `c f + d`, 0 where f is constant but for rounding; values and target have no mean."""
    power = values.square().mean(1)
    rounding = 1e-12 * f.abs().amax(1)
    return torch.where(power > rounding.square(), (values * target).mean(1) / power, 0 * power)


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
        first, last, start, end, curve, defined = (t.to(u.device) for t in grid(function))
        likeness = (curve.view(-1, POINTS) @ shape).square().view(*defined.shape, curves)
        likeness, column = likeness.masked_fill(~defined[..., None], -1).max(1)  # (rows, curves)
        padded = torch.nn.functional.pad(likeness, (0, 0, 1, 1), value=-2)
        peak = (likeness >= padded[:-2]) & (likeness >= padded[2:]) & (likeness >= 0)
        rows = (likeness + peak * (1 + likeness.amax(0))).T.topk(STARTS).indices
        columns = column.T.gather(1, rows)
        chosen = (first[rows, columns], last[rows, columns], start[rows], end[rows])
        found.append([t.flatten() for t in (torch.full_like(which, number), which, *chosen)])
    return _Pairs(functions, *(torch.cat(tensors) for tensors in zip(*found, strict=True)))


def _descend(pairs: _Pairs, u: Tensor, v: Tensor, steps: int) -> tuple[_Pairs, Tensor]:
    """Levenberg-Marquardt steps in (first, last), within the bounds, and the squared errors `(pairs,)` that they reach.

    The model is linear in c and d, so that they are always the best ones; the Jacobian is that of Kaufman (1975).
    """
    target = (v - v.mean(1, keepdim=True))[pairs.curve]
    share = ((1 + u) / 2)[pairs.curve]

    def linearise(at: _Pairs) -> tuple[Tensor, ...]:
        """Squared error, downhill direction and the matrix of the normal equations."""
        f, slope = at.evaluate(u, slope=True)
        values = f - f.mean(1, keepdim=True)
        c = _amplitude(f, values, target)[:, None]
        residual = target - c * values
        slope = torch.where(slope.isfinite(), c * slope, 0)  # it is infinite at the end of a domain, as of sqrt
        to_last = slope * share
        columns = torch.stack([slope - to_last, to_last, values, torch.ones_like(values)], 1)  # (pairs, 4, n)
        gram = columns @ columns.mT
        cross = gram[:, :2, 2:] / gram[:, [2, 3], [2, 3]].clamp_min(1e-300)[:, None]
        normal = gram[:, :2, :2] - cross @ gram[:, 2:, :2]
        error = residual.square().mean(1)
        return torch.where(error.isfinite(), error, torch.inf), (columns[:, :2] @ residual[..., None])[..., 0], normal

    error, downhill, hessian = linearise(pairs)
    damping = torch.full_like(error, 1e-3)
    bounds = [torch.stack([bound, bound], 1) for bound in (pairs.start, pairs.end)]
    for number in range(steps):
        point = torch.stack([pairs.first, pairs.last], 1)
        stuck = ((point <= bounds[0]) & (downhill < 0)) | ((point >= bounds[1]) & (downhill > 0))
        step = _solve(hessian.masked_fill(stuck[:, :, None] | stuck[:, None], 0), downhill * ~stuck, damping)
        if number == 0:  # an end of the domain is often the place, where infinite slopes hinder the steps
            near = NEAR * (point[:, :1] - point[:, 1:]).abs()
            at_start, at_end = (torch.where((bound - point).abs() < near, bound - point, 0) for bound in bounds)
            step = at_start + at_end
        trial = torch.minimum(torch.maximum(point + step, bounds[0]), bounds[1])
        tried = pairs._replace(first=trial[:, 0], last=trial[:, 1])
        new = linearise(tried)
        better = new[0] < error
        pairs = pairs._replace(
            first=torch.where(better, tried.first, pairs.first), last=torch.where(better, tried.last, pairs.last)
        )
        error = torch.where(better, new[0], error)
        downhill = torch.where(better[:, None], new[1], downhill)
        hessian = torch.where(better[:, None, None], new[2], hessian)
        damping = torch.where(better, damping / 10, damping * 4).clamp(1e-13, 1e6)
    return pairs, error


def _solve(matrix: Tensor, right: Tensor, damping: Tensor) -> Tensor:
    """`(matrix + damping * trace)^-1 right` for matrices `(n, 2, 2)`; 0 where these are 0."""
    shift = damping * (matrix[:, 0, 0] + matrix[:, 1, 1])
    p, q, r = matrix[:, 0, 0] + shift, matrix[:, 0, 1], matrix[:, 1, 1] + shift
    determinant = p * r - q * q
    solution = torch.stack([r * right[:, 0] - q * right[:, 1], p * right[:, 1] - q * right[:, 0]], 1)
    return torch.where(determinant[:, None] > 0, solution / determinant[:, None], 0)
