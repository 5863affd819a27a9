"""Many small least-squares problems at once: targets by `c f + d`, f depending on the ends of intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kan_fast.functions import Function

NEAR = 0.02  # of an interval of arguments


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
    """c and d of the best `c f + d` for targets `(m, n)`; c is 0 where f is constant but for rounding."""
    mean = f.mean(1)
    values = f - mean[:, None]
    power = values.square().mean(1)
    rounding = 1e-12 * f.abs().amax(1)
    c = torch.where(power > rounding.square(), (values * target).mean(1) / power, 0 * power)
    return c, target.mean(1) - c * mean


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
        model: gives f `(m, n)` and its derivatives `(m, k, n)` at points `(m, k)`, the ends of intervals.
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
        c, d = best_scale(f, target)
        residual = target - c[:, None] * f - d[:, None]
        slopes = torch.where(slopes.isfinite(), c[:, None, None] * slopes, 0)  # infinite for sqrt(0)
        linear = torch.stack([f - f.mean(1, keepdim=True), torch.ones_like(f)], 1)
        gram, cross = (linear.square().sum(2), slopes @ linear.mT)
        normal = slopes @ slopes.mT - cross @ (cross / gram.clamp_min(1e-300)[:, None]).mT
        error = residual.square().mean(1)
        return torch.where(error.isfinite(), error, torch.inf), (slopes @ residual[..., None])[..., 0], normal

    low, high = bounds
    error, downhill, normal = linearise(point)
    damping = torch.full_like(error, 1e-3)
    for number in range(steps):
        if number == 0:  # an end of the domain is often the place, where infinite slopes hinder the steps
            ends = point.view(len(point), -1, 2)
            near = NEAR * (ends[..., :1] - ends[..., 1:]).abs().expand_as(ends).reshape(point.shape)
            trial = torch.where(point - low < near, low, torch.where(high - point < near, high, point))
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
