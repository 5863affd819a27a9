"""Tables of grids whose spans are beyond 10^+-105, where h^-q and h^q leave float64."""

from __future__ import annotations

import pytest
import torch

from kan_fast.ops import dispatch, reference
from kan_fast.ops.contract import Coefficients, Rows
from tests.helpers.problems import make_problem


@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
@pytest.mark.parametrize("exponent", [-900, 900])
@pytest.mark.parametrize("degree", [3, 5])
def test_results_scale(degree: int, exponent: int, extrapolation: str) -> None:
    p = make_problem(16, 2, 5, 4, degree, base="zero", extrapolation=extrapolation, dtype=torch.float64)
    scale = 2.0**exponent
    triton, c = dispatch.module("triton"), Coefficients(p.spline_weight, None)
    y = triton.forward(p.x * scale, None, c, None, Rows(p.grid * scale, 0, p.spec))
    gx = triton.grad_input(p.x * scale, p.g, c, Rows(p.grid * scale, 1, p.spec)) * scale
    torch.testing.assert_close(y, reference.forward(p.x, None, c, None, p.rows()))
    torch.testing.assert_close(gx, reference.grad_input(p.x, p.g, c, p.rows(1)))
