"""The reference against independent oracles: scipy's B-splines, finite differences, and the paper's formulas."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from kan_fast.ops import reference
from kan_fast.ops.contract import Coefficients, Rows, Spec
from tests.helpers.problems import make_problem

EXTRAPOLATIONS = ("zero", "linear", "clamp")


def knots(grid_size: int, degree: int, uniform: bool) -> np.ndarray:
    if uniform:
        return np.linspace(-1, 1, grid_size + 2 * degree + 1)
    return np.random.default_rng(grid_size).exponential(size=grid_size + 2 * degree + 1).cumsum()


@pytest.mark.parametrize("uniform", [True, False], ids=["uniform", "adaptive"])
@pytest.mark.parametrize("grid_size", [1, 5, 50])
@pytest.mark.parametrize("degree", range(6))
def test_splines_match_scipy(degree: int, grid_size: int, uniform: bool) -> None:
    t = knots(grid_size, degree, uniform)
    inner = np.linspace(t[degree], t[-1 - degree], 203)
    x = np.concatenate([inner, t[degree : degree + grid_size + 1]])
    for order in range(degree + 2):
        mine = reference.bspline(torch.from_numpy(x)[:, None], torch.from_numpy(t)[None], degree, order)[:, 0].numpy()
        for r in range(grid_size + degree):
            spline = BSpline(t, np.eye(grid_size + degree)[r], degree)
            if order > degree:
                assert not mine.any()
                continue
            scipy = spline.derivative(order)(x) if order else spline(x)
            smooth = slice(None) if order < degree else slice(0, len(inner))  # at knots the k-th derivative jumps
            scale = max(1, np.abs(scipy).max())
            np.testing.assert_allclose(mine[smooth, r], scipy[smooth], atol=1e-12 * scale, rtol=0)


@pytest.mark.parametrize("degree", range(6))
def test_splines_sum_to_one_on_the_closed_range(degree: int) -> None:
    t = torch.from_numpy(knots(4, degree, uniform=False))[None]
    x = torch.cat([t[0, degree : t.shape[1] - degree], t[0, degree] + torch.rand(50).double()])[:, None]
    torch.testing.assert_close(reference.bspline(x, t, degree).sum(-1), torch.ones_like(x), atol=1e-14, rtol=0)


@pytest.mark.parametrize("degree", range(6))
def test_extrapolation(degree: int) -> None:
    t = torch.from_numpy(knots(3, degree, uniform=False))[None]
    start, end = t[:, degree], t[:, -1 - degree]
    for edge, outside in ((start, start - 1.7), (end, end + 1.7)):
        value = reference.basis(edge[None], t, degree)
        slope = reference.basis(edge[None], t, degree, 1)
        step = (outside - edge)[None, :, None]
        for order, linear, clamp in (
            (0, value + step * slope, value),
            (1, slope, 0 * slope),
            (2, 0 * slope, 0 * slope),
        ):
            got = reference.basis(outside[None], t, degree, order, "linear")
            torch.testing.assert_close(got, linear, atol=1e-12, rtol=1e-12)
            torch.testing.assert_close(reference.basis(outside[None], t, degree, order, "clamp"), clamp)
    far = torch.stack([t[:, 0] - 1, t[:, -1] + 1])
    assert not reference.basis(far, t, degree).any()


@pytest.mark.parametrize("order", range(8))
def test_silu_derivatives(order: int) -> None:
    x = torch.linspace(-6, 6, 41, dtype=torch.float64)
    with mpmath.workdps(60):
        exact = [mpmath.diff(lambda z: z / (1 + mpmath.exp(-z)), mpmath.mpf(z), order) for z in x.tolist()]
    exact = torch.tensor([float(z) for z in exact], dtype=torch.float64)
    unit = torch.finfo(torch.float64).eps * exact.abs().max().item()
    torch.testing.assert_close(reference.base_function(x, "silu", order), exact, atol=4 * unit, rtol=0)
    if order < 5:
        by_callable = reference.base_function(x, torch.nn.functional.silu, order)
        torch.testing.assert_close(by_callable, exact, atol=1e-13, rtol=1e-12)


def test_infinite_and_nan_inputs() -> None:
    t = torch.from_numpy(knots(3, 3, uniform=False))[None]
    x = torch.tensor([[-torch.inf], [torch.inf], [torch.nan], [float(t.mean())]], dtype=torch.float64)
    zero, linear, clamp = (reference.basis(x, t, 3, 0, e) for e in EXTRAPOLATIONS)
    assert not zero[:2].any()
    assert zero[2].isnan().all()
    edges = torch.stack([t[0, 3], t[0, -4]])[:, None]
    torch.testing.assert_close(clamp[:2], reference.basis(edges, t, 3))
    assert linear[:3].isnan().any(-1).all()
    for rows in (zero, clamp, linear):
        assert rows[3].isfinite().all()
    assert reference.basis(x, t, 3, 1, "linear")[:2].isfinite().all()


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize("base", ["silu", "identity", "zero", torch.sin], ids=str)
def test_contractions_are_their_own_derivatives(base: object, extrapolation: str) -> None:
    """Autograd through the plain formulas agrees with finite differences, once and twice."""
    p = make_problem(4, 3, 2, grid_size=3, extrapolation=extrapolation, dtype=torch.float64)
    x = p.x + 0.01  # off the knots, where finite differences would straddle two spans
    spec = Spec(p.spec.degree, base, extrapolation)
    args = [t.requires_grad_() for t in (x, p.v, *p.c, p.bias)]

    def call(x: Tensor, v: Tensor, spline: Tensor, base: Tensor, bias: Tensor) -> Tensor:
        return reference.forward(x, v, Coefficients(spline, base), bias, Rows(p.grid, 0, spec))

    assert gradcheck(call, args)
    assert gradgradcheck(call, args)


def test_contractions_agree_with_each_other() -> None:
    """All three are T_d(v, c, g; x) with one argument left out."""
    for order in range(5):
        p = make_problem(6, 4, 3, dtype=torch.float64)
        y = reference.forward(p.x, p.v, p.c, None, p.rows(order))
        gx = reference.grad_input(p.x, p.g, p.c, p.rows(order))
        gs, gb = reference.grad_coef(p.x, p.v, p.g, p.rows(order))
        total = (y * p.g).sum()
        torch.testing.assert_close((gx * p.v).sum(), total)
        torch.testing.assert_close((gs * p.spline_weight).sum() + (gb * p.base_weight).sum(), total)


def test_edge_magnitude_is_the_mean_absolute_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    p = make_problem(11, 4, 3, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (p.x, *p.c)]
    per_edge = [
        [
            reference.forward(
                p.x[:, [i]],
                None,
                Coefficients(p.spline_weight[[o]][:, [i]], p.base_weight[[o]][:, [i]]),
                None,
                Rows(p.grid[[i]], 0, p.spec),
            )
            for i in range(4)
        ]
        for o in range(3)
    ]
    expected = torch.stack([torch.stack([phi.abs().mean() for phi in row]) for row in per_edge])
    monkeypatch.setattr(reference, "MAX_CHUNK", 24)  # several chunks, the last one short
    with torch.no_grad():
        got = reference.edge_magnitude(p.x, p.c, p.rows())
        grads = reference.edge_magnitude_backward(p.x, p.gm, p.c, p.rows())
    torch.testing.assert_close(got, expected)
    for mine, theirs in zip(grads, torch.autograd.grad((expected * p.gm).sum(), leaves), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert not reference.edge_magnitude(p.x[:0], p.c, p.rows()).any()
