"""Layers whose grids can move: grids that follow the samples, finer grids, how well a grid covers the samples.

One layer by its methods, several at once by functions that change all of them or none.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kan_fast._support import collectives
from kan_fast._support.checks import integer
from kan_fast._support.torch_internals import set_data
from kan_fast.nn import grids

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Self


MARGIN = 0.25  # spans that grids reach beyond the samples in training: test samples lie there, data still fix curves


class GridLayer(nn.Module):
    """A layer of curves on knots, whose knots can move; each input has knots of its own.

    Attributes:
        spline_weight: Parameter `(..., in, G + k)`.
        grid: buffer of knots `(in, G + 2k + 1)`.
        grid_size: G.
        spline_order: k.
        extrapolation, grid_eps: see `KANLinear`.
    """

    spline_weight: nn.Parameter
    grid: Tensor
    in_features: int
    grid_size: int
    spline_order: int
    extrapolation: str
    grid_eps: float

    @property
    def grid_ends(self) -> tuple[Tensor, Tensor]:
        """Where the grid starts and ends now for each input, `(in,)` each; the knots beyond are not counted."""
        return self.grid[:, self.spline_order], self.grid[:, -1 - self.spline_order]

    @torch.no_grad()
    def update_grid(
        self,
        x: Tensor,
        *,
        eps: float | None = None,
        margin: float | None = 0.0,
        trim: float = 0.0,
        group: ProcessGroup | None = None,
    ) -> None:
        """Move the knots to where the samples are; the layer's function on their range is preserved.

        The new knots are `eps * uniform + (1 - eps) * quantiles` of each column (a constant column keeps its grid), and
        every curve is projected on them (see `kan_fast.nn.grids.transfer`). Optimiser state for `spline_weight` no
        longer fits afterwards: reset it, as `KAN.fit` and `kan_fast.update_grids` do.

        Coefficients and knots change one after the other, so a forward pass in another thread may take the new
        coefficients with the old knots. Where threads share a model, update a copy, then use the copy.

        Under torch.distributed all processes of `group` must call this, each with its own samples. They get the grid
        that one process with all the samples would get, to the bit (see docs/distributed.md).

        Args:
            x: samples `(..., in_features)`, finite.
            eps: share of the uniform grid, 0 to 1; None takes `grid_eps`.
            margin: added on either side of the samples' range, in units of its length; None takes a quarter of a span,
                as `KAN.fit` does.
            trim: share of the samples at either end of each column that the range leaves out, 0 to below 0.5, so that a
                few outliers do not stretch the spans; beyond it is `extrapolation`.
            group: processes whose samples count together. None for all, as elsewhere in torch, if torch.distributed is
                initialised; tensor parallelism and pipelines need a group of the processes that have different samples.

        Raises:
            ValueError: no samples, or some are NaN or infinite, in any process; or the group is ambiguous.
        """
        self._check_movable("update_grid")
        self._check_samples(x, "update_grid")
        collectives.reshard(self)
        group = collectives.data_group(self.grid, group)
        grid, weight = collectives.local(self.grid), collectives.local(self.spline_weight)
        if weight.shape[1:] != (len(grid), self.grid_size + self.spline_order):
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
        eps = self.grid_eps if eps is None else eps
        margin = MARGIN / self.grid_size if margin is None else margin
        new = grids.grid_from_samples(x, grid, self.spline_order, eps=eps, margin=margin, trim=trim, group=group)
        matrix = grids.transfer(grid, new, self.spline_order, self.extrapolation)
        moved = torch.einsum("irs,ois->oir", matrix, weight.to(matrix.dtype))
        kept = (new == grid).all(1)[:, None]  # columns whose knots stay keep their coefficients to the bit
        weight.copy_(torch.where(kept, weight, moved.to(weight.dtype)))
        grid.copy_(new)

    def refine(self, grid_size: int) -> Self:
        """A new layer on a grid of `grid_size` spans with the same function; it shares no memory with this one.

        If `grid_size` is a multiple of the present one, the function is the same to rounding on the whole line, else
        its best approximation in the mean square (see `kan_fast.nn.grids.refine`). All options stay.

        Raises:
            TypeError, ValueError: `grid_size` is not an int, less than 1, or too large for the dtype; or the layer's
                parameters are sharded or computed from others.
        """
        new = copy.deepcopy(self)
        new.refine_(grid_size)
        return new

    @torch.no_grad()
    def refine_(self, grid_size: int) -> None:
        """`refine` in place. Optimisers keep the parameter, but what they remember of it no longer fits.

        Call `kan_fast.training.forget_splines(optimizer, model)` after it, or make the optimiser anew: in the next step
        most raise an error about sizes, and torch's fused ones read outside of their memory. (`fit` and
        `kan_fast.refine_grids` do it.) Other threads must not use the layer meanwhile (see `update_grid`); `refine`
        makes a new layer instead.
        """
        size = integer("grid_size", grid_size, 1)
        self._check_movable("refine")
        if collectives.local(self.spline_weight) is not self.spline_weight:
            raise ValueError("refine can't change the shape of sharded parameters; refine first, then shard")
        if size == self.grid_size:
            return
        knots, matrix = grids.refine(self.grid, self.spline_order, size)
        finer = torch.einsum("irs,ois->oir", matrix, self.spline_weight.to(matrix.dtype))
        self.spline_weight.grad = None
        set_data(self.spline_weight, finer.to(self.spline_weight.dtype).contiguous())
        self.grid, self.grid_size = knots, size

    @torch.no_grad()
    def coverage(self, x: Tensor) -> Tensor:
        """Fraction of the samples x `(..., in_features)` outside of the grid range, for each feature `(in,)`.

        NaN counts as outside; 0 for no samples.
        """
        self._check_samples(x, "coverage")
        if x.shape[-1] != self.in_features:
            raise ValueError(f"coverage expected samples (..., {self.in_features}), got {tuple(x.shape)}")
        start, end = self.grid_ends
        outside = ~((x >= start) & (x <= end)).reshape(math.prod(x.shape[:-1]), self.in_features)
        return outside.sum(0) / max(len(outside), 1)

    def _check_movable(self, what: str) -> None:
        if "spline_weight" not in self._parameters:
            raise ValueError(
                f"{what} can't move curves whose spline_weight is computed from other parameters (pruning, weight "
                "norm, parametrisation); make it a plain parameter first"
            )

    def _check_samples(self, x: Tensor, what: str) -> None:
        if not isinstance(x, Tensor) or not x.dim() or x.is_complex() or x.layout != torch.strided:
            got = f"{x.dtype} {tuple(x.shape)} of layout {x.layout}" if isinstance(x, Tensor) else f"{x!r:.80}"
            raise TypeError(f"{what} expected samples (..., {self.in_features}) in a dense tensor, got {got}")
        if x.device != self.grid.device:
            raise ValueError(
                f"{what} got samples on {x.device}, the layer is on {self.grid.device}; move them together"
            )


def update_all(
    reached: Mapping[GridLayer, Tensor],
    *,
    eps: float | None = None,
    margin: float | None = 0.0,
    trim: float = 0.0,
    group: ProcessGroup | None = None,
) -> None:
    """`update_grid` of several layers, with the samples that reach each; after an error all are as they were."""
    tensors = [collectives.local(t) for layer in reached for t in (layer.grid, layer.spline_weight)]
    before = [t.detach().clone() for t in tensors]
    try:
        for layer, samples in reached.items():
            layer.update_grid(samples, eps=eps, margin=margin, trim=trim, group=group)
    except BaseException:
        with torch.no_grad():
            for t, old in zip(tensors, before, strict=True):
                t.copy_(old)
        raise


def refine_all(layers: Iterable[GridLayer], grid_size: int) -> None:
    """`refine_` of several layers; after an error all are as they were."""
    before = [(layer, layer.spline_weight, layer.spline_weight.data, layer.grid, layer.grid_size) for layer in layers]
    try:
        for layer, *_ in before:
            layer.refine_(grid_size)
    except BaseException:
        for layer, parameter, weight, knots, size in before:
            set_data(parameter, weight)
            layer.grid, layer.grid_size = knots, size
        raise
