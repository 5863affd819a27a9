"""Many small least-squares problems at once: targets by `sum c f + d`, the f depending on the ends of intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from kan_fast._support.samples import evenly
from kan_fast.nn.functions import Function

NEAR, INSIDE = 0.02, 1e-6  # shares of an interval of arguments
SAMPLES, STEPS = 48, 10
FINALISTS, FINE_SAMPLES, FINE_STEPS = 100, 150, 25  # pairs of functions that go on
FLOOR = 1e-20  # mean squared error that counts as none


def evaluate(functions: Sequence[Function], which: Tensor, z: Tensor, slope: bool = False) -> tuple[Tensor, Tensor]:
    """Values and, if asked for, derivatives of the functions of these numbers, `which` `(m,)`, at z `(m, n)`."""
    order = which.argsort(stable=True)
    counts = torch.bincount(which, minlength=len(functions)).tolist()
    with torch.set_grad_enabled(slope):
        z = z[order].requires_grad_(slope)
        parts = zip(functions, z.split(counts), strict=True)
        values = torch.cat([function.evaluate(part) for function, part in parts if len(part)])
        gradient = torch.autograd.grad(values.sum(), z)[0] if slope else values
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return values.detach()[back], gradient[back]


def best_scale(f: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """c `(m, r)` and d `(m,)` of the best `sum_r c f + d` for f `(m, r, n)` and targets `(m, n)`.

    c is 0 where f is constant, or a combination of those before it, but for rounding.
    """
    return _scale_and_basis(f, target)[:2]


def _scale_and_basis(f: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`best_scale`, and orthonormal combinations `(m, r, n)` of the f without their means (Gram and Schmidt)."""
    rounding = 1e-12 * f.shape[2] ** 0.5 * f.abs().amax(2)
    mean = f.mean(2)
    basis: list[Tensor] = []
    rows: list[list[Tensor]] = []  # of the triangle that makes f from the basis
    for j, values in enumerate((f - mean[..., None]).unbind(1)):
        for row, before in zip(rows, basis, strict=True):
            row.append((before * values).sum(1))
            values = values - row[-1][:, None] * before
        norm = values.norm(dim=1)
        rows.append([torch.where(norm > rounding[:, j], norm, torch.inf)])
        basis.append(values / rows[-1][0][:, None])
    c: list[Tensor] = []  # from the last to the first
    for row, unit in zip(reversed(rows), reversed(basis), strict=True):
        rest = (unit * target).sum(1) - sum(r * known for r, known in zip(reversed(row[1:]), c, strict=True))
        c.append(rest / row[0])
    scale = torch.stack(c[::-1], 1)
    return scale, target.mean(1) - (scale * mean).sum(1), torch.stack(basis, 1)


def descend(
    model: Callable[[Tensor], tuple[Tensor, Tensor]],
    target: Tensor,
    point: Tensor,
    bounds: tuple[Tensor, Tensor],
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Levenberg-Marquardt steps from given points, within bounds.

    c and d are always the best ones (variable projection, Golub and Pereyra 1973), and the Jacobian is that of Kaufman
    (1975).

    Args:
        model: gives f `(m, r, n)` and derivatives `(m, k, n)` at points `(m, k)`, the ends of intervals; k / r of
            these belong to each f, in its order.
        target: `(m, n)`.
        point: where to start `(m, k)`, k even: the ends of an interval of arguments after those of another.
        bounds: the least and the largest points `(m, k)`.
        steps: their number.

    Returns:
        The points reached, and the mean squared errors there `(m,)`, infinite where f is undefined.
    """

    def linearise(point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Squared error, downhill direction and the matrix of the normal equations."""
        f, slopes = model(point)
        c, d, basis = _scale_and_basis(f, target)
        residual = target - (c[..., None] * f).sum(1) - d[:, None]
        each = c.repeat_interleave(slopes.shape[1] // c.shape[1], 1)
        slopes = torch.where(slopes.isfinite(), each[..., None] * slopes, 0)  # infinite for sqrt(0)
        linear = torch.cat([basis, torch.full_like(f[:, :1], f.shape[2] ** -0.5)], 1)
        cross = slopes @ linear.mT
        normal = slopes @ slopes.mT - cross @ cross.mT
        error = residual.square().mean(1)
        return torch.where(error.isfinite(), error, torch.inf), (slopes @ residual[..., None])[..., 0], normal

    low, high = bounds
    error, downhill, normal = linearise(point)
    damping = torch.full_like(error, 1e-3)
    for number in range(steps):
        if number == 0:  # an end of the domain is often the place; right there, slopes may be infinite
            ends = point.view(len(point), -1, 2)
            width = (ends[..., :1] - ends[..., 1:]).abs().expand_as(ends).reshape(point.shape)
            near_high = torch.where(high - point < NEAR * width, high - INSIDE * width, point)
            trial = torch.where(point - low < NEAR * width, low + INSIDE * width, near_high)
        else:
            stuck = ((point <= low) & (downhill < 0)) | ((point >= high) & (downhill > 0))
            free = normal.masked_fill(stuck[:, :, None] | stuck[:, None], 0)
            trial = torch.minimum(torch.maximum(point + _solve(free, downhill * ~stuck, damping), low), high)
        new = linearise(trial)
        better = new[0] < error
        point = torch.where(better[:, None], trial, point)
        error = torch.where(better, new[0], error)
        downhill = torch.where(better[:, None], new[1], downhill)
        normal = torch.where(better[:, None, None], new[2], normal)
        damping = torch.where(better, damping / 10, damping * 4).clamp(1e-13, 1e6)
    return point, error


def _solve(matrix: Tensor, right: Tensor, damping: Tensor) -> Tensor:
    """`(matrix + damping * trace)^-1 right` for matrices `(m, k, k)`; 0 where these are 0."""
    shift = damping * matrix.diagonal(dim1=1, dim2=2).sum(1)
    matrix = matrix + shift[:, None, None] * torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    if matrix.shape[1] > 2:
        return torch.linalg.solve_ex(matrix, right)[0].nan_to_num(0, 0, 0)
    p, q, r = matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 1]
    determinant = p * r - q * q
    solution = torch.stack([r * right[:, 0] - q * right[:, 1], p * right[:, 1] - q * right[:, 0]], 1)
    return torch.where(determinant[:, None] > 0, solution / determinant[:, None], 0)


class Fits(Protocol):
    """Fits of pairs of functions to one curve, under way."""

    @property
    def price(self) -> Tensor:
        """The complexity of each fit, in bits that are added to log2 of its error."""
        ...

    def select(self: F, which: Tensor) -> F:
        """The fits with these numbers."""
        ...

    def descend(self: F, x: Tensor, y: Tensor, steps: int) -> tuple[F, Tensor]:
        """Improve the fits; returns them with their mean squared errors."""
        ...


F = TypeVar("F", bound=Fits)


def ordered(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A curve `(n,)` in ascending x, and its values with mean 0 and variance 1, as `tournament` wants them."""
    x, order = x.sort()
    y = y[order]
    return x, y, (y - y.mean()) / y.std(correction=0)


def tournament(start: Callable[[Tensor, Tensor], F], x: Tensor, y: Tensor, starts: int, count: int) -> F:
    """The fits of the least cost, the best first: one start of each pair of functions goes on, then the best pairs.

    Args:
        start: gives the starts of all pairs of functions for x and y, those of a pair one after the other.
        x: samples `(n,)` in ascending order.
        y: values `(n,)` of variance 1.
        starts: their number for each pair.
        count: number of fits to return.
    """

    def best(fits: F, error: Tensor, count: int) -> F:
        return fits.select((error.clamp_min(FLOOR).log2() + fits.price).argsort()[:count])

    few, more = (evenly(len(x), n) for n in (SAMPLES, FINE_SAMPLES))
    fits, error = start(x[few], y[few]).descend(x[few], y[few], STEPS)
    error, winners = error.view(-1, starts).min(1)
    fits = best(fits.select(winners + starts * torch.arange(len(winners))), error, FINALISTS)
    return best(*fits.descend(x[more], y[more], FINE_STEPS), count)
