"""Problems that the parity suites share: awkward shapes, grids and inputs, and the rule for their tolerances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kan_fast import grids
from kan_fast.reference import Spec
from yardstick import DoubleDouble


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
    """At most twice the error of plain torch, plus one rounding unit of the result's own scale.

    `plain` is the reference in the result's dtype and `exact` what `yardstick.exact_for` this dtype gives. The rounding
    unit is there since plain torch can be exact by luck where there are few numbers. The rule holds for the root mean
    square of the errors, and for the largest one; but the largest is a matter of luck too, so that it may always be
    three times the root mean square that is allowed.
    """
    exact = DoubleDouble.of(exact)
    assert result.dtype == plain.dtype, f"{what}: plain torch is {plain.dtype}, expected {result.dtype}"
    assert result.shape == exact.shape, f"{what}: shape {tuple(result.shape)}, expected {tuple(exact.shape)}"
    assert result.isfinite().all(), f"{what}: {(~result.isfinite()).sum()} of {result.numel()} numbers are not finite"
    if not result.numel():
        return
    unit = torch.finfo(result.dtype).eps * exact.high.abs().max()
    error, plain_error = exact.error_of(result), exact.error_of(plain)
    rms, plain_rms = (e.square().mean().sqrt() for e in (error, plain_error))
    largest, plain_largest = error.max(), plain_error.max()
    allowed_rms = 2 * plain_rms + unit
    allowed = torch.maximum(2 * plain_largest + unit, 3 * allowed_rms)
    assert rms <= allowed_rms, f"{what}: rms error {rms:.3g}, plain torch {plain_rms:.3g}, unit {unit:.3g}"
    assert largest <= allowed, f"{what}: error {largest:.3g}, plain torch {plain_largest:.3g}, unit {unit:.3g}"
