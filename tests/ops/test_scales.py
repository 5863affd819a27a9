"""Grids of any scale that their dtype has: results scale with them, and what is beyond is refused."""

from __future__ import annotations

import math

import pytest
import torch

from kan_fast import KANLinear
from kan_fast.nn import grids
from kan_fast.ops import dispatch, native, reference
from kan_fast.ops.contract import Coefficients, Rows
from tests.helpers.problems import Problem, make_problem

BACKENDS = [name for name, status in dispatch.backends().items() if status.available and name in ("cpu", "reference")]
EXPONENTS = {torch.float32: (-110, 110), torch.float64: (-1000, -350, 350, 1000)}


compiled = pytest.mark.skipif(native.unavailable_reason() is not None, reason=str(native.unavailable_reason()))


@compiled
@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
@pytest.mark.parametrize("degree", range(6))
@pytest.mark.parametrize("dtype", list(EXPONENTS), ids=str)
def test_results_scale(dtype: torch.dtype, degree: int, extrapolation: str) -> None:
    """Values are the same and derivatives 2^-e times as large, for many outputs and for few, in any grid."""
    for shape in ((40, 2, 40, 5), (200, 2, 2, 5), (40, 2, 3, 40)):
        p = make_problem(*shape, degree, base="zero", extrapolation=extrapolation, adaptive=True, dtype=dtype)
        for isa in native.isas():
            with native.use_isa(isa):
                y, (gx, gs, *_) = _values(p.x, p.grid, p)
                for exponent in EXPONENTS[dtype]:
                    scale = 2.0**exponent
                    scaled_y, (scaled_gx, scaled_gs, *_) = _values(p.x * scale, p.grid * scale, p)
                    for got, wanted in ((scaled_y, y), (scaled_gx * scale, gx), (scaled_gs, gs)):
                        allowed = 4 * torch.finfo(dtype).eps * wanted.abs().max()
                        assert (got - wanted).abs().max() <= allowed  # only what is nearly 0 underflows


def _values(x: torch.Tensor, grid: torch.Tensor, p: Problem) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    c, rows = Coefficients(p.spline_weight, None), Rows(grid, 0, p.spec)
    return native.forward(x, None, c, None, rows), native.backward(x, None, p.g, c, rows)


@compiled
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("exponent", [-100, 100])
def test_higher_orders_scale(order: int, exponent: int) -> None:
    p = make_problem(70, 3, 9, base="zero", dtype=torch.float64)
    scale, c = 2.0**exponent, Coefficients(p.spline_weight, None)
    for function in ("forward", "grad_input"):
        between = (None, c, None) if function == "forward" else (p.g, c)
        results = [
            getattr(module, function)(p.x * s, *between, Rows(p.grid * s, order, p.spec)) * s**order
            for module, s in ((native, scale), (reference, 1.0))
        ]
        torch.testing.assert_close(*results, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [1e-300, 1e-105, 1e105, 1e300])
def test_layers_of_such_scales_work(backend: str, width: float) -> None:
    layer = KANLinear(2, 3, grid_range=(-width, width), dtype=torch.float64, backend=backend, base="identity")
    x = (torch.rand(50, 2, dtype=torch.float64) * 2 - 1) * width
    for step in (lambda: None, lambda: layer.update_grid(x), lambda: layer.refine_(9)):
        step()
        y = layer(x)
        assert y.isfinite().all()
        assert y.abs().max() > 1e-3 * width


@pytest.mark.parametrize(
    ("grid_range", "dtype"),
    [
        ((0, 1e-38), torch.float32),
        ((-3e38, 3e38), torch.float32),
        ((0, 1e-40), torch.bfloat16),
        ((-1e308, 1e308), torch.float64),
        ((0, 1e-308), torch.float64),
    ],
)
@pytest.mark.parametrize("degree", [0, 3])
def test_other_scales_are_refused(grid_range: tuple[float, float], dtype: torch.dtype, degree: int) -> None:
    with pytest.raises(
        ValueError, match=r"need knots within .* of 0 and at least .* apart.*; scale the data or take a"
    ):
        KANLinear(2, 3, grid_range=grid_range, dtype=dtype, spline_order=degree)


def test_weights_that_overflow_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights that suit grid_range .* overflow torch.float16; scale the data"):
        KANLinear(2, 3, grid_range=(-1e7, 1e7), dtype=torch.float16)


def test_knots_move_within_the_limits_only() -> None:
    layer = KANLinear(1, 1)
    before = layer.grid.clone()
    with pytest.raises(ValueError, match=r"knots around them overflow torch.float32; scale the data"):
        layer.update_grid(torch.tensor([[-3e38], [1e38]]))
    narrow = KANLinear(1, 1, grid_range=(0, 1e-36))
    with pytest.raises(ValueError, match="can't tell apart the knots of 1000 spans"):
        narrow.refine(1000)
    assert torch.equal(layer.grid, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, 1e38, 1e-45])
def test_knots_are_checked(bad: float) -> None:
    grid = grids.uniform_grid(2, 3, 1, (-1, 1)).float()
    grids.check_knots(grid)
    grid[1, 3:] = grid[1, 2] * 0 + bad
    with pytest.raises(ValueError, match=r"must increase strictly, within .* those of input 1 are"):
        grids.check_knots(grid)
