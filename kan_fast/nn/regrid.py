"""Layers on other knots: grids that follow the samples, finer grids, and how well a grid covers the samples.

These are methods of `KANLinear`.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kan_fast._support import collectives
from kan_fast._support.checks import integer
from kan_fast.nn import grids

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from kan_fast.nn.linear import KANLinear


@torch.no_grad()
def update_grid(
    layer: KANLinear,
    x: Tensor,
    *,
    eps: float | None = None,
    margin: float = 0.0,
    trim: float = 0.0,
    group: ProcessGroup | None = None,
) -> None:
    """Move the knots to where the samples are; the layer's function on their range is preserved.

    The new knots are `eps * uniform + (1 - eps) * quantiles` of each column (a constant column keeps its grid), and
    every curve is projected on them (see `kan_fast.nn.grids.transfer`). Optimiser state for `spline_weight` no longer
    fits afterwards: reset it, as `KAN.fit` does.

    A forward pass in another thread meanwhile may take the new coefficients with the old knots, as with every change of
    parameters in place: update a copy of the model, then use that, where threads share a model.

    Under torch.distributed all processes of `group` must call this, each with its own samples. They get the grid
    that one process with all the samples would get, to the bit (see docs/distributed.md).

    Args:
        x: samples `(..., in_features)`, finite.
        eps: share of the uniform grid, 0 to 1; None takes `grid_eps`.
        margin: added on either side of the samples' range, in units of its length.
        trim: share of the samples at either end of each column that the range leaves out, 0 to below 0.5, so that a
            few outliers do not stretch the spans; beyond it is `extrapolation`.
        group: processes whose samples count together. None for all, as elsewhere in torch, if torch.distributed is
            initialised; tensor parallelism and pipelines need a group of the processes that have different samples.

    Raises:
        ValueError: no samples, or some are NaN or infinite, in any process; or the group is ambiguous.
    """
    _check_movable(layer, "update_grid")
    _check_samples(layer, x, "update_grid")
    collectives.reshard(layer)
    group = collectives.data_group(layer.grid, group)
    grid, weight = collectives.local(layer.grid), collectives.local(layer.spline_weight)
    if weight.shape[1:] != (len(grid), layer.grid_size + layer.spline_order):
        raise ValueError(
            f"this process holds grids {tuple(grid.shape)} and spline weights {tuple(weight.shape)}: update_grid "
            "needs whole curves with their grids; shard spline_weight along out or with kan_fast.distributed"
        )
    x = collectives.local(x)
    if x.shape[-1] != len(grid):
        raise ValueError(f"expected last dimension {len(grid)}, got {x.shape[-1]} (input shape {tuple(x.shape)})")
    x = x.reshape(math.prod(x.shape[:-1]), len(grid))
    counts = torch.tensor([len(x), int((~x.isfinite()).sum())], device=x.device)
    count, bad = collectives.total(counts, group).tolist()
    if not count:
        raise ValueError("update_grid needs at least one sample, got an empty batch")
    if bad:
        raise ValueError("update_grid needs finite samples, got NaN or infinity; clean the data first")
    eps = layer.grid_eps if eps is None else eps
    new = grids.grid_from_samples(x, grid, layer.spline_order, eps=eps, margin=margin, trim=trim, group=group)
    matrix = grids.transfer(grid, new, layer.spline_order, layer.extrapolation)
    moved = torch.einsum("irs,ois->oir", matrix, weight.to(matrix.dtype))
    kept = (new == grid).all(1)[:, None]  # columns whose knots stay keep their coefficients to the bit
    weight.copy_(torch.where(kept, weight, moved.to(weight.dtype)))
    grid.copy_(new)


def refine(layer: KANLinear, grid_size: int) -> KANLinear:
    """A new layer on a grid of `grid_size` spans with the same function; it shares no memory with this one.

    If `grid_size` is a multiple of the present one, the function is the same to rounding on the whole line, else
    its best approximation in the mean square (see `kan_fast.nn.grids.refine`). All options stay.

    Raises:
        TypeError, ValueError: `grid_size` is not an int, less than 1, or too large for the dtype; or the layer's
            parameters are sharded or computed from others.
    """
    new = copy.deepcopy(layer)
    new.refine_(grid_size)
    return new


@torch.no_grad()
def refine_(layer: KANLinear, grid_size: int) -> None:
    """`refine` in place. Optimisers keep their parameters, but what they remember of them no longer fits.

    Not while other threads use the layer, see `update_grid`; `refine` makes a new one.
    """
    size = integer("grid_size", grid_size, 1)
    _check_movable(layer, "refine")
    if collectives.local(layer.spline_weight) is not layer.spline_weight:
        raise ValueError("refine can't change the shape of sharded parameters; refine first, then shard")
    if size == layer.grid_size:
        return
    knots, matrix = grids.refine(layer.grid, layer.spline_order, size)
    finer = torch.einsum("irs,ois->oir", matrix, layer.spline_weight.to(matrix.dtype))
    layer.spline_weight.grad = None
    layer.spline_weight.data = finer.to(layer.spline_weight.dtype).contiguous()
    layer.grid, layer.grid_size = knots, size


@torch.no_grad()
def coverage(layer: KANLinear, x: Tensor) -> Tensor:
    """Fraction of the samples x `(..., in_features)` outside of the grid range, for each feature `(in,)`.

    NaN counts as outside; 0 for no samples.
    """
    _check_samples(layer, x, "coverage")
    if x.shape[-1] != layer.in_features:
        raise ValueError(f"coverage expected samples (..., {layer.in_features}), got {tuple(x.shape)}")
    start, end = layer.grid[:, layer.spline_order], layer.grid[:, -1 - layer.spline_order]
    outside = ~((x >= start) & (x <= end)).reshape(math.prod(x.shape[:-1]), layer.in_features)
    return outside.sum(0) / max(len(outside), 1)


def _check_movable(layer: KANLinear, what: str) -> None:
    if "spline_weight" not in layer._parameters:
        raise ValueError(
            f"{what} can't move curves whose spline_weight is computed from other parameters (pruning, weight "
            "norm, parametrisation); make it a plain parameter first"
        )


def _check_samples(layer: KANLinear, x: Tensor, what: str) -> None:
    if not isinstance(x, Tensor) or not x.dim() or x.is_complex() or x.layout != torch.strided:
        got = f"{x.dtype} {tuple(x.shape)} of layout {x.layout}" if isinstance(x, Tensor) else f"{x!r:.80}"
        raise TypeError(f"{what} expected samples (..., {layer.in_features}) in a dense tensor, got {got}")
    if x.device != layer.grid.device:
        raise ValueError(f"{what} got samples on {x.device}, the layer is on {layer.grid.device}; move them together")
