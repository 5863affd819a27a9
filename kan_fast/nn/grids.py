"""Knots: uniform grids, grids from samples, finer grids, and matrices that move curves to another grid."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kan_fast._support import collectives, samples
from kan_fast._support.checks import real
from kan_fast.ops.reference import basis

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["check_knots", "extend", "grid_from_samples", "refine", "transfer", "uniform_grid"]

SHORTEST = 0.02  # of the mean span: the slope of a curve in a shorter one is hardly bounded by its values at samples

Range = tuple[float, float] | tuple[tuple[float, float], ...]


def checked_range(given: Range, in_features: int) -> Range:
    """A pair of floats, or one for every feature.

    Raises:
        ValueError: these are not pairs of finite numbers with start < end.
    """
    try:
        array = np.asarray(given, dtype=float)
    except (TypeError, ValueError, OverflowError):  # text, lists of unequal lengths, whole numbers beyond 1e308
        array = np.empty(0)
    if array.shape not in ((2,), (in_features, 2)) or not (
        np.isfinite(array).all() and (array[..., 0] < array[..., 1]).all()
    ):
        raise ValueError(
            f"grid_range must be (start, end) with finite start < end, got {given}; a list of such pairs has one for "
            f"each of the {in_features} features"
        )
    return tuple(array.tolist()) if array.ndim == 1 else tuple(map(tuple, array.tolist()))


def check_distinct(grid_range: Range, grid_size: int, degree: int, dtype: torch.dtype) -> None:
    """Raise ValueError for uniform knots whose spans the dtype can't tell apart, or can't compute with."""
    start, end = np.reshape(grid_range, (-1, 2)).T
    with np.errstate(over="ignore", invalid="ignore"):
        step = (end - start) / grid_size
        reach = np.maximum(abs(start), abs(end)) + degree * step
    least, most = _limits(dtype)
    if not ((step >= least) & (reach <= most)).all():
        raise ValueError(
            f"splines of {dtype} need knots within {most:.3g} of 0 and at least {least:.3g} apart, those of grid_size "
            f"{grid_size} on {grid_range} reach {reach.max():.3g} in steps of {step.min():.3g}; scale the data or take "
            "a wider dtype"
        )
    if (step <= torch.finfo(dtype).eps * reach).any():
        raise ValueError(
            f"{dtype} can't tell apart the knots of grid_size {grid_size} on {grid_range}; "
            "use fewer spans, a wider range, shifted data or a wider dtype"
        )


def check_knots(grid: Tensor) -> None:
    """Raise ValueError unless the knots `(in, knots)` of every input are finite, increase, and have usable spans.

    A span is usable if its reciprocal has all the digits of the dtype.
    """
    least, most = _limits(grid.dtype)
    right = (grid.abs() <= most).all(1) & (grid.diff(dim=1) >= least).all(1)
    if not right.all():
        row = int((~right).nonzero()[0])
        raise ValueError(
            f"the knots of an input must increase strictly, within {most:.3g} of 0 and at least {least:.3g} apart in "
            f"{grid.dtype}; those of input {row} are {reprlib.repr(grid[row].tolist())}"
        )


def _limits(dtype: torch.dtype) -> tuple[float, float]:
    """The least distance of two knots, and their greatest from 0; reciprocals of numbers between have all digits."""
    least = torch.finfo(dtype).tiny
    return least, 0.5 / least


def checked_trim(name: str, value: Any) -> float:
    """`value` as the share of the samples at either end that a grid leaves out; ValueError unless 0 to below 0.5."""
    share = real(name, value)
    if share >= 0.5:
        raise ValueError(f"{name} must be below 0.5, a share of the samples at either end, got {value}")
    return share


def uniform_grid(
    in_features: int, grid_size: int, degree: int, grid_range: Sequence[float] | Sequence[Sequence[float]]
) -> Tensor:
    """Equally spaced knots `(in, G + 2k + 1)` in float64, k of them on either side of `grid_range`.

    `grid_range` is a pair `(start, end)`, or such a pair for every feature.
    """
    start, end = torch.tensor(grid_range, dtype=torch.float64).expand(in_features, 2)[..., None].unbind(1)
    steps = torch.arange(-degree, grid_size + degree + 1, dtype=torch.float64)
    return start + (end - start) * (steps / grid_size)


def extend(inner: Tensor, degree: int) -> Tensor:
    """Add k knots on either side of `inner` `(in, G + 1)`, as far apart as its spans.

    By their mean width or that of the end one, whichever is smaller: a B-spline that lies beyond a narrow end span for
    the most part is almost 0 in it, so that its coefficient could be anything.
    """
    spans = inner.diff(dim=1)
    mean = (inner[:, -1:] - inner[:, :1]) / (inner.shape[1] - 1)
    left, right = (torch.minimum(mean, spans[:, end]) for end in (slice(None, 1), slice(-1, None)))
    number = torch.arange(1, degree + 1, dtype=inner.dtype, device=inner.device)
    return torch.cat([inner[:, :1] - left * number.flip(0), inner, inner[:, -1:] + right * number], 1)


def grid_from_samples(
    x: Tensor,
    grid: Tensor,
    degree: int,
    *,
    eps: float = 0.02,
    margin: float = 0.0,
    trim: float = 0.0,
    group: ProcessGroup | None = None,
) -> Tensor:
    """Knots that follow the samples: `eps * uniform + (1 - eps) * quantiles` of each column.

    Args:
        x: samples `(n, in)`, finite.
        grid: present knots `(in, G + 2k + 1)`. They give G and the dtype, and a column that is constant but for
            rounding keeps them.
        degree: k.
        eps: share of the uniform grid, 0 to 1; 1 gives equally spaced knots over the range of the samples. It is raised
            for a column where a span would be shorter than SHORTEST times the mean one.
        margin: added on either side of the range, in units of its length.
        trim: share of the samples at either end that the range leaves out, 0 to below 0.5; none of a column that would
            be constant without them.
        group: processes whose samples count together; None for this one alone.

    Returns:
        `(in, G + 2k + 1)`, strictly increasing; the same in every process.

    Raises:
        ValueError: eps, margin or trim out of range, or samples too large for the dtype of the grid.
    """
    eps, margin, trim = real("eps", eps), real("margin", margin), checked_trim("trim", trim)
    if eps > 1:
        raise ValueError(f"eps must be between 0 (quantiles) and 1 (uniform), got {eps}")
    size = grid.shape[1] - 2 * degree - 1
    share = torch.linspace(0, 1, size + 1, dtype=torch.float64, device=x.device)
    quantiles = _quantiles(x.detach(), trim + (1 - 2 * trim) * share, group).T  # (in, G + 1)
    if trim and (constant := samples.are_constant(quantiles.T, x.dtype)[:, None]).any():
        quantiles = torch.where(constant, _quantiles(x.detach(), share, group).T, quantiles)
    start, end = quantiles[:, :1], quantiles[:, -1:]
    varies = ~samples.are_constant(quantiles.T, x.dtype)[:, None]
    length = end - start
    uniform = start - margin * length + (1 + 2 * margin) * length * share
    inner = eps * uniform + (1 - eps) * (quantiles * (1 + 2 * margin) - 2 * margin * (start + end) / 2)
    # A larger share of the uniform grid where eps leaves a span shorter than SHORTEST allows,
    mean, shortest = (inner[:, -1:] - inner[:, :1]) / size, inner.diff(dim=1).amin(1, keepdim=True)
    inner = inner.lerp(uniform, ((SHORTEST * mean - shortest) / (mean - shortest)).nan_to_num(0).clamp(min=0))
    # and a wider grid where rounding could close one.
    number = torch.finfo(grid.dtype)
    least = (64 * number.eps * inner.abs().amax(1, keepdim=True)).clamp(min=number.tiny / number.eps)
    inner = inner + least * size * (share - 0.5)
    new = extend(inner, degree).to(grid.dtype)
    if not (new.abs() <= _limits(grid.dtype)[1]).all():
        raise ValueError(
            f"samples reach {x.abs().max().item():.3g}: knots around them overflow {grid.dtype}; scale the data"
        )
    return torch.where(varies, new, grid)


def _quantiles(x: Tensor, share: Tensor, group: ProcessGroup | None) -> Tensor:
    """Linear quantiles of the columns, `(len(share), in)` in float64; any number of samples."""
    count = collectives.total(torch.tensor(len(x), device=x.device), group)
    position = share * (count - 1)
    ranks = torch.cat([position.floor(), position.ceil()]).long()
    x = x if x.dtype.itemsize >= 4 else x.float()
    lower, upper = collectives.order_statistics(x, ranks, group).to(share.dtype).chunk(2)
    return lower + (position - position.floor())[:, None] * (upper - lower)


def refine(grid: Tensor, degree: int, size: int) -> tuple[Tensor, Tensor]:
    """Knots with `size` spans instead of G, and the matrix that carries coefficients to them.

    The new knots interpolate the old ones linearly at equal steps of their index, so new spans are short where old ones
    are. The k knots on either side stay. If `size` is a multiple of G, all old knots are among the new ones, and every
    curve is kept on the whole line, also where it fades out: the matrix is then knot insertion (Cohen, Lyche and
    Riesenfeld, Computer Graphics and Image Processing 14, 1980). For other sizes it is a projection (`transfer`).

    Args:
        grid: knots `(in, G + 2k + 1)`.
        degree: k.
        size: number of new spans, at least 1.

    Returns:
        Knots `(in, size + 2k + 1)` and matrix `(in, size + k, G + k)` in float64.

    Raises:
        ValueError: the dtype of the grid can't tell the new knots apart.
    """
    number = grid.shape[1] - 2 * degree - 1
    inner = grid[:, degree : degree + number + 1].to(torch.float64)
    place = torch.arange(size + 1, device=grid.device) * number
    left = (place // size).clamp(max=number - 1)
    share = (place - left * size).to(torch.float64) / size
    finer = torch.lerp(inner[:, left], inner[:, left + 1], share.expand(len(grid), -1)).to(grid.dtype)
    new = torch.cat([grid[:, :degree], finer, grid[:, degree + number + 1 :]], 1)
    if not (new.diff(dim=1) >= _limits(grid.dtype)[0]).all():
        raise ValueError(f"{grid.dtype} can't tell apart the knots of {size} spans; use fewer, or a wider dtype")
    if size % number:
        return new, transfer(grid, new, degree, "zero", everywhere=True)
    return new, _insertion(grid.to(torch.float64), new.to(torch.float64), degree)


def _insertion(old: Tensor, new: Tensor, degree: int) -> Tensor:
    """Oslo algorithm: `(in, G_new + k, G_old + k)` for knots `new` that hold all of `old`; rows are convex weights.

    This is the recursion of the B-splines on the old knots, in which level p takes the p-th knot after the first for x.
    """
    rows = new.shape[1] - degree - 1
    first = new[:, :rows, None]
    values = ((old[:, None, :-1] <= first) & (first < old[:, None, 1:])).to(old.dtype)
    for p in range(1, degree + 1):
        knot = new[:, p : p + rows, None]
        scaled = values / (old[:, p:] - old[:, :-p])[:, None]
        left, right = scaled[..., :-1], scaled[..., 1:]
        values = (knot - old[:, None, : -p - 1]) * left + (old[:, None, p + 1 :] - knot) * right
    return values


def transfer(old: Tensor, new: Tensor, degree: int, extrapolation: str, *, everywhere: bool = False) -> Tensor:
    """Matrix `(in, G_new + k, G_old + k)` that carries the coefficients on the knots `old` to the knots `new`.

    The new curve is the best approximation of the old one in the mean square over the range of the new grid, or over
    all its knots. All new spans weigh alike, whatever their widths, since grids are fine where samples are dense.
    Between the knots of both grids, products of splines are polynomials, which Gauss-Legendre nodes integrate exactly.
    So no span lacks nodes, as it could lack samples, and a curve that the new grid can represent is reproduced. With
    these weights the Gram matrix is well conditioned for any knots: the coefficient of a spline is bounded by the curve
    on the widest span that the spline covers (de Boor, A Practical Guide to Splines, chapter XI). It is computed in
    float64.

    Args:
        old: knots `(in, G_old + 2k + 1)`.
        new: knots `(in, G_new + 2k + 1)`.
        degree: k of both.
        extrapolation: how the old curve goes on outside of its grid range.
        everywhere: project over all knots, so that the curve also fades out as the old one.
    """
    old, new = old.to(torch.float64), new.to(torch.float64)
    beyond = 0 if everywhere else degree
    start, end = new[:, beyond : beyond + 1], new[:, -1 - beyond :][:, :1]
    breaks = torch.cat([old, new], 1).clamp(start, end).sort(1).values
    node, weight = (torch.as_tensor(a, device=old.device) for a in np.polynomial.legendre.leggauss(degree + 1))
    left, width = breaks[:, :-1, None], breaks.diff(dim=1)[..., None]
    points = (left + width * (node + 1) / 2).flatten(1)  # (i, p)
    spans = new.diff(dim=1)
    middle = (left + width / 2).squeeze(2).contiguous()
    span = torch.searchsorted(new.contiguous(), middle).clamp(1, spans.shape[1]) - 1
    weights = (width / spans.gather(1, span)[..., None] * weight / 2).flatten(1)
    rows_new = basis(points.T, new, degree).transpose(0, 1)  # (i, p, r)
    rows_old = basis(points.T, old, degree, 0, extrapolation).transpose(0, 1)
    weighted = (rows_new * weights[..., None]).mT  # (i, r, p)
    gram, cross = weighted @ rows_new, weighted @ rows_old
    scale = gram.diagonal(dim1=1, dim2=2).rsqrt()[..., None]  # the outermost splines are small inside of the range
    factor = torch.linalg.cholesky(gram * scale * scale.mT)
    return scale * torch.cholesky_solve(scale * cross, factor)
