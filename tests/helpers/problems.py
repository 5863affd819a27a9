"""Problems that the parity suites share: awkward shapes, grids and inputs, and the rule for their tolerances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kan_fast.nn import grids
from kan_fast.ops.contract import Coefficients, Rows, Spec
from yardstick import DoubleDouble, complaint


@dataclass
class Problem:
    """The arguments of the contractions, in one dtype."""

    x: Tensor
    v: Tensor
    g: Tensor
    gm: Tensor
    spline_weight: Tensor
    base_weight: Tensor
    bias: Tensor
    grid: Tensor
    spec: Spec

    @property
    def c(self) -> Coefficients:
        return Coefficients(self.spline_weight, self.base_weight)

    def rows(self, order: int = 0) -> Rows:
        return Rows(self.grid, order, self.spec)

    def to(self, dtype: torch.dtype) -> Problem:
        """The same numbers in another dtype, the grid too (a reference computes in the dtype of its grid)."""
        tensors = {k: t.to(dtype) for k, t in vars(self).items() if isinstance(t, Tensor)}
        return Problem(**tensors, spec=self.spec)

    def strided(self) -> Problem:
        """The same numbers in tensors of which none is contiguous."""
        tensors = {
            k: t.T.contiguous().T if t.dim() == 2 else t.permute(1, 2, 0).contiguous().permute(2, 0, 1)
            for k, t in vars(self).items()
            if isinstance(t, Tensor) and t.dim() > 1
        }
        return Problem(**tensors, bias=self.bias.repeat_interleave(2)[::2], spec=self.spec)


def make_problem(
    batch: int,
    in_features: int,
    out_features: int,
    grid_size: int = 5,
    degree: int = 3,
    *,
    base: str = "silu",
    extrapolation: str = "zero",
    adaptive: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Problem:
    """Random arguments; x lies inside of every cell, on knots, on the ends of the range and outside of it."""
    make = torch.Generator().manual_seed(seed)
    if adaptive:
        widths = torch.rand(in_features, grid_size, generator=make, dtype=torch.float64).mul(4).exp()
        inner = torch.cat([torch.zeros(in_features, 1, dtype=torch.float64), widths.cumsum(1)], 1)
        inner = 2 * inner / inner[:, -1:].clamp(min=1e-300) - 1
        grid = grids.extend(inner, degree)
    else:
        grid = grids.uniform_grid(in_features, grid_size, degree, (-1, 1))
    grid = grid.to(torch.float32 if dtype.itemsize < 4 else dtype)

    x = (torch.rand(batch, in_features, generator=make, dtype=torch.float64) * 2.6 - 1.3).to(grid.dtype)
    for row in range(batch if in_features else 0):
        left, right = (grid[:, (row // 5 + degree + side) % grid.shape[1]] for side in (0, 1))
        if row % 5 == 0:  # on knots, the ends of the range among them
            x[row] = left
        elif row % 5 < 3:  # between knots: the narrow cells of an adaptive grid get as many samples as the wide ones
            x[row] = left + (right - left) * torch.rand(in_features, generator=make)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=make, dtype=torch.float64) * scale).to(dtype)

    return Problem(
        x=x.to(dtype),
        v=normal(batch, in_features),
        g=normal(batch, out_features),
        gm=normal(out_features, in_features),
        spline_weight=normal(out_features, in_features, grid_size + degree),
        base_weight=normal(out_features, in_features),
        bias=normal(out_features),
        grid=grid,
        spec=Spec(degree, base, extrapolation),
    )


def assert_as_accurate(result: Tensor, plain: Tensor, exact: Tensor | DoubleDouble, what: str = "") -> None:
    """The rule of `yardstick.rule`."""
    wrong = complaint(result, plain, exact)
    assert wrong is None, f"{what}: {wrong}"
