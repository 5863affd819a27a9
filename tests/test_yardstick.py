"""The yardstick itself: against exact fractions and mpmath, and that the rule notices a kernel that is worse."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import pytest
import torch
from torch import Tensor

from kan_fast.ops import reference
from tests.helpers import contract
from tests.helpers.problems import Problem, assert_as_accurate, make_problem
from yardstick import DoubleDouble, contractions, exact_for
from yardstick.double_double import exp, power_of_two
from yardstick.products import matmul

TOLERANCE = Fraction(1, 10**26)  # of the largest number of a result; float64 leaves 1e-16


def fraction(number: DoubleDouble) -> Fraction:
    return Fraction(float(number.high)) + Fraction(float(number.low))


def entries(tensor: Tensor) -> list[Fraction]:
    return [Fraction(t) for t in tensor.flatten().tolist()]


def numbers(tensor: DoubleDouble) -> list[Fraction]:
    return [a + b for a, b in zip(entries(tensor.high), entries(tensor.low), strict=True)]


def spread(count: int, seed: int) -> Tensor:
    """Numbers of either sign and of very different size."""
    make = torch.Generator().manual_seed(seed)
    size = torch.randint(-30, 30, (count,), generator=make)
    return torch.randn(count, generator=make, dtype=torch.float64) * power_of_two(size)


@pytest.mark.parametrize("name", ["__add__", "__sub__", "__mul__", "__truediv__"])
def test_arithmetic_against_fractions(name: str) -> None:
    a, b = (DoubleDouble.of(spread(200, s)) + spread(200, s + 1) * 2.0**-60 for s in (0, 2))
    for x, y, got in zip(numbers(a), numbers(b), numbers(getattr(a, name)(b)), strict=True):
        exact = getattr(x, name)(y)
        assert abs(got - exact) <= abs(exact) * Fraction(1, 2**100)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
def test_sums_against_fractions(count: int) -> None:
    terms = spread(3 * count, 5).reshape(3, count)
    for row, got in zip(terms, numbers(DoubleDouble.of(terms).sum(1)), strict=True):
        assert abs(got - sum(entries(row))) <= sum(map(abs, entries(row))) * Fraction(1, 2**100)


def test_exp_against_mpmath() -> None:
    x = torch.cat([torch.linspace(-600, 600, 57, dtype=torch.float64), spread(60, 6).clamp(-600, 600)])
    with mpmath.workdps(60):
        for z, high, low in zip(x.tolist(), exp(x).high.tolist(), exp(x).low.tolist(), strict=True):
            exact = mpmath.exp(z)
            assert abs(mpmath.mpf(high) + mpmath.mpf(low) - exact) <= exact * mpmath.mpf(10) ** -27


@pytest.mark.parametrize("inner", [0, 1, 9, 1000])
def test_products_of_matrices_against_fractions(inner: int) -> None:
    """Each number to 2^-80 of its row's and its column's largest, however different rows and columns are in size."""
    a = (DoubleDouble.of(spread(3 * inner, 1)) + spread(3 * inner, 2) * 2.0**-60).map(lambda t: t.reshape(3, inner))
    b = (DoubleDouble.of(spread(2 * inner, 3)) + spread(2 * inner, 4) * 2.0**-60).map(lambda t: t.reshape(inner, 2))
    product = matmul(a, b)
    assert product.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            row, column = numbers(a[i]), numbers(b[:, j])
            largest = max(map(abs, row), default=0) * max(map(abs, column), default=0)
            exact = sum((x * y for x, y in zip(row, column, strict=True)), Fraction(0))
            assert abs(fraction(product[i, j]) - exact) <= largest * Fraction(1, 2**80)


def exact_splines(x: Fraction, knots: list[Fraction], degree: int, order: int) -> list[Fraction]:
    """The definition: Cox-de Boor, and derivatives as differences of the degree below."""
    rows = len(knots) - degree - 1
    if order and not degree:
        return [Fraction(0)] * rows
    if not degree:
        return [Fraction(knots[r] <= x < knots[r + 1]) for r in range(rows)]
    lower = exact_splines(x, knots, degree - 1, max(order - 1, 0))
    values = []
    for r in range(rows):
        left, right = lower[r] / (knots[r + degree] - knots[r]), lower[r + 1] / (knots[r + degree + 1] - knots[r + 1])
        values.append(degree * (left - right) if order else (x - knots[r]) * left + (knots[r + degree + 1] - x) * right)
    return values


@pytest.mark.parametrize("degree", range(6))
def test_splines_against_fractions(degree: int) -> None:
    p = make_problem(24, 2, 1, 6, degree, adaptive=True, dtype=torch.float64)
    for order in range(degree + 2):
        got = contractions.bspline(p.x, p.grid, degree, order)
        exact = []
        for x in p.x.tolist():
            for value, knots in zip(x, p.grid.tolist(), strict=True):
                if value != knots[-1 - degree]:  # where the closed range ends, the definition has the next span
                    exact += exact_splines(Fraction(value), [Fraction(t) for t in knots], degree, order)
        there = (p.x != p.grid[:, -1 - degree])[..., None].expand(got.shape)
        scale = max(map(abs, exact))
        assert all(abs(a - b) <= scale * TOLERANCE for a, b in zip(numbers(got[there]), exact, strict=True))


@pytest.mark.parametrize("degree", range(4))
def test_the_range_is_closed(degree: int) -> None:
    """At its end, splines and their derivatives are the limits from the left."""
    grid = make_problem(1, 1, 1, 3, degree, adaptive=True, dtype=torch.float64).grid
    end = grid[:, -1 - degree]
    before = end - 2.0**-40
    for order in range(degree + 1):
        at, left = (contractions.bspline(x[None], grid, degree, order).high for x in (end, before))
        torch.testing.assert_close(at, left, rtol=0, atol=2.0**-40 * 100 * float(at.abs().max()))
        assert at.any()


@pytest.mark.parametrize("order", range(7))
def test_silu_against_mpmath(order: int) -> None:
    x = torch.cat([torch.linspace(-40, 40, 33, dtype=torch.float64), torch.tensor([-1e4, -750, 0, 750, 1e4])])
    got = contractions.base_function(x, "silu", order)
    with mpmath.workdps(80):
        exact = [mpmath.taylor(lambda z: z / (1 + mpmath.exp(-z)), z, order)[-1] for z in x.tolist()]
        exact = [value * math.factorial(order) for value in exact]
        for value, high, low in zip(exact, got.high.tolist(), got.low.tolist(), strict=True):
            assert abs(mpmath.mpf(high) + mpmath.mpf(low) - value) <= mpmath.mpf(10) ** -26 * max(1, abs(value))


def exact_edges(p: Problem, order: int) -> list[list[list[list[Fraction]]]]:
    """Rows of each sample and input as fractions: splines, then the identity as base function."""
    grid = [[Fraction(t) for t in knots] for knots in p.grid.tolist()]
    base = {0: Fraction, 1: lambda _: Fraction(1)}.get(order, lambda _: Fraction(0))
    return [
        [[*exact_splines(Fraction(z), grid[i], p.spec.degree, order), base(z)] for i, z in enumerate(x)]
        for x in p.x.tolist()
    ]


@pytest.mark.parametrize("order", [0, 1])
def test_contractions_against_fractions(order: int) -> None:
    """Every function of the contract, summed as docs/architecture.md has it."""
    p = make_problem(9, 2, 3, 4, 2, base="identity", adaptive=True, dtype=torch.float64)
    p.x = p.x.where(p.x != p.grid[:, -3], 0.3)
    weights = torch.cat([p.spline_weight, p.base_weight[..., None]], -1)
    c = [[[Fraction(w) for w in edge] for edge in node] for node in weights.tolist()]
    v, g, gm = ([[Fraction(t) for t in row] for row in tensor.tolist()] for tensor in (p.v, p.g, p.gm))
    bias, samples, inputs, nodes, rows = entries(p.bias), range(9), range(2), range(3), range(7)
    basis, slopes = exact_edges(p, order), exact_edges(p, order + 1)
    phi, slope = (
        [[[sum(c[o][i][r] * table[b][i][r] for r in rows) for b in samples] for i in inputs] for o in nodes]
        for table in (basis, slopes)
    )
    y = [[sum(phi[o][i][b] * v[b][i] for i in inputs) for o in nodes] for b in samples]
    gx = [[sum(g[b][o] * slope[o][i][b] for o in nodes) for i in inputs] for b in samples]
    gc = [[[sum(g[b][o] * v[b][i] * basis[b][i][r] for b in samples) for r in rows] for i in inputs] for o in nodes]

    def check(result: object, exact: object) -> None:
        flat = [exact]
        while isinstance(flat[0], list):
            flat = [number for part in flat for number in part]
        scale = max(map(abs, flat))
        got = numbers(result)
        assert all(abs(a - b) <= scale * TOLERANCE for a, b in zip(got, flat, strict=True))

    def splines(gradient: list) -> list:
        return [[edge[:-1] for edge in node] for node in gradient]

    def base(gradient: list) -> list:
        return [[edge[-1] for edge in node] for node in gradient]

    call = {name: contract.as_tuple(f(contractions, p, order)) for name, f in contract.CALLS.items()}
    check(call["forward_v"][0], y)
    plain = [[sum(phi[o][i][b] for i in inputs) + bias[o] for o in nodes] for b in samples]
    check(call["forward"][0], plain)
    for i, exact in enumerate([gx, splines(gc), base(gc), [sum(g[b][o] for b in samples) for o in nodes]]):
        check(call["backward"][i], exact)
    check(contractions.grad_input(p.x, p.g, p.c, p.rows(order + 1)), gx)
    for i, exact in enumerate([splines(gc), base(gc)]):
        check(call["grad_coef_v"][i], exact)
    if order:
        return
    check(call["edge_magnitude"][0], [[sum(map(abs, phi[o][i])) / 9 for i in inputs] for o in nodes])
    signs = [[[Fraction((t > 0) - (t < 0)) * gm[o][i] / 9 for t in phi[o][i]] for i in inputs] for o in nodes]
    gx = [[sum(signs[o][i][b] * slope[o][i][b] for o in nodes) for i in inputs] for b in samples]
    gc = [[[sum(signs[o][i][b] * basis[b][i][r] for b in samples) for r in rows] for i in inputs] for o in nodes]
    for i, exact in enumerate([gx, splines(gc), base(gc)]):
        check(call["edge_magnitude_backward"][i], exact)


@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
@pytest.mark.parametrize("base", ["silu", "identity", "zero"])
def test_the_reference_agrees_in_float64(base: str, extrapolation: str) -> None:
    p = make_problem(37, 3, 5, 4, base=base, extrapolation=extrapolation, adaptive=True, dtype=torch.float64)
    for order in (0, 2):
        for name, call in contract.CALLS.items():
            for plain, exact in zip(
                contract.as_tuple(call(reference, p, order)),
                contract.as_tuple(call(contractions, p, order)),
                strict=True,
            ):
                assert exact.error_of(plain).max() <= 1e-13 * exact.high.abs().max(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_the_rule_notices_a_kernel_that_is_worse(dtype: torch.dtype) -> None:
    """Of a sum of 2,000 products, one after the other, so that plain torch is off by more than a rounding unit."""
    p = make_problem(2000, 1, 400, base="identity", dtype=dtype)
    p.x.abs_()
    p.g.abs_()
    exact = DoubleDouble.of(contract.CALLS["grad_coef"](exact_for(dtype), p.to(torch.float64), 0)[1])
    plain = torch.zeros(400, 1, dtype=dtype)
    for g, x in zip(p.g, p.x, strict=True):
        plain += g[:, None] * x
    error = plain - exact.high.to(dtype)
    assert_as_accurate(plain, plain, exact)
    with pytest.raises(AssertionError, match="rms error"):
        assert_as_accurate(plain + 2 * error, plain, exact)  # three times as wrong
    one = plain.clone()
    one[7] += 9 * error.abs().max()
    with pytest.raises(AssertionError, match=": largest error"):
        assert_as_accurate(one, plain, exact)
