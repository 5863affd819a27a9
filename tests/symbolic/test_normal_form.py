"""The normal form of formulas: equal things are merged, numbers are recognised, nothing else changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy
import torch

from kan_fast import KAN
from kan_fast.nn.functions import LIBRARY, find
from kan_fast.symbolic.expressions.constants import recognised
from kan_fast.symbolic.expressions.normal import Combination, applied, product
from kan_fast.symbolic.expressions.simplify import expanded_terms, shortest
from kan_fast.symbolic.expressions.source import numpy_function
from tests.helpers.formulas import assert_same, fixed, samples, x, y

pytestmark = pytest.mark.usefixtures("double")


# Normal form


def phi(name, a=1.0, b=0.0, c=1.0, d=0.0):
    return applied(find(name), Combination.of(x).times(a).plus(b), c, d).expression()


def test_affine_parts_are_merged():
    assert phi("x^2", 2, 4, 3) == sympy.Float(12) * (x + 2.0) ** 2
    assert phi("x^3", -2) == sympy.Float(-8) * x**3
    assert phi("1/x", -4, 2) == sympy.Float(-0.25) / (x - 0.5)
    assert phi("sqrt", 4, 0, 3) == sympy.Float(6) * sympy.sqrt(x)
    assert phi("sqrt", -4, 4) == 2.0 * sympy.sqrt(1.0 - x)
    assert phi("abs", -2, 1) == 2.0 * sympy.Abs(x - 0.5)
    assert phi("sgn", -2, 1, 3) == -3.0 * sympy.sign(x - 0.5)
    assert phi("x", 2, 3, 4, 5) == 8.0 * x + 17.0
    assert phi("exp", 2, math.log(3)).as_coeff_Mul()[1] == sympy.exp(2.0 * x)
    assert phi("exp", 2, math.log(3)).as_coeff_Mul()[0] == pytest.approx(3)
    assert phi("exp", 1, 800) == sympy.exp(x + 800)
    assert phi("log", 2, 4, 3) == 3.0 * sympy.log(x + 2.0) + 3 * math.log(2)
    assert phi("log", -2, 4) == sympy.log(2.0 - x) + math.log(2)
    assert phi("tanh", -2, 1) == -sympy.tanh(2.0 * x - 1.0)
    assert phi("gaussian", -2, 1) == sympy.exp(-((2.0 * x - 1.0) ** 2))
    assert phi("arccos", -1, 0, 2) == -2.0 * sympy.acos(x) + 2 * math.pi
    assert phi("0", 1, 2, 3, 4) == sympy.Float(4)
    assert phi("sin", 0, 2, 3, 4) == pytest.approx(3 * math.sin(2) + 4)


def test_constants_that_are_much_larger_stay():
    """Else rounding to digits would lose what x does: 0.0009 (x + 33.3333)^2."""
    assert phi("x^2", 0.03, 1) == (0.03 * x + 1.0) ** 2
    assert phi("log", 0.03, -2, 3) == 3.0 * sympy.log(0.015 * x - 1.0) + 3 * math.log(2)
    assert fixed("x^2", (0.03, 1.0, 1, 0)).symbolic_formula(digits=2)[0][0].subs("x_1", 10) == pytest.approx(1.3**2)
    argument = Combination.of(0.001 * x + 2.0 * y)
    assert applied(find("sqrt"), argument).expression() == math.sqrt(2) * sympy.sqrt(0.0005 * x + y)
    factor = Combination.of(0.03 * x + 2)
    assert product([factor, Combination.of(y)]).expression() == 2.0 * y * (0.015 * x + 1.0)


def test_factors_of_exponentials_keep_their_digits():
    formula = fixed("exp", (10.0, -14, 1, 0)).symbolic_formula(digits=3)[0][0]
    assert float(formula.subs("x_1", 1.5)) == pytest.approx(math.exp(1), rel=1e-3)


def test_what_would_overflow_is_left_alone():
    for name in ("exp", "x^5", "1/x^5"):
        model = fixed(name, (1e-30 if name != "exp" else 1.0, 800.0, 1e-300, 0))
        points = 10 * samples(columns=1) - 800 * (name == "exp")
        assert_same(numpy_function(*model.symbolic_formula())(points.numpy()), model, points)


@pytest.mark.parametrize("name", LIBRARY)
def test_constants_that_are_not_finite_and_scales_that_are_extreme(name):
    phi(name, 1, math.nan), phi(name, 1e-200, 1e-200), phi(name, 1e200, -1e200)
    assert str(phi(name, 0, math.nan)) in ("nan", "1.0*nan") or name == "0"
    assert float(phi(name, 1, math.inf).subs(x, 0)) == pytest.approx(
        find(name).evaluate(torch.tensor(math.inf)).item(), nan_ok=True
    )


def test_phases():
    assert phi("sin", 1, 2 * math.pi) == sympy.sin(x)
    assert phi("sin", -1, math.pi) == sympy.sin(x)
    for name, f in (("sin", math.sin), ("cos", math.cos), ("tan", math.tan)):
        for a in (2.0, -2.0):
            for b in np.linspace(-10, 10, 41):
                formula = phi(name, a, float(b), 3, 1)
                assert float(formula.subs(x, 0.3)) == pytest.approx(3 * f(a * 0.3 + b) + 1)
                (wave,) = formula.atoms(sympy.sin, sympy.cos, sympy.tan)
                phase = wave.args[0].subs(x, 0)
                assert float(wave.args[0].coeff(x)) == 2
                assert abs(phase) <= (math.pi / 2 if name == "tan" else math.pi / 4) + 1e-9


def test_what_is_equal_is_merged():
    model = KAN([1, 2, 1])
    model.layers[0].fix_many([(0, 0), (1, 0)], ["sin", "cos"], torch.tensor([[1, math.pi / 2, 1, 0], [1, 0, 1, 0]]))
    model.layers[1].fix_many([(0, 0), (0, 1)], ["x", "x"])
    assert model.symbolic_formula()[0][0].atoms(sympy.cos) and not model.symbolic_formula()[0][0].atoms(sympy.sin)
    assert str(model.symbolic_formula(digits=8)[0][0]) == "2*cos(x_1)"


def test_products_are_scaled_and_not_expanded():
    p, q = Combination.of(-2.0 * x + 4), Combination.of(3.0 * y + 3)
    assert product([p, q]).expression() == sympy.Mul(-6.0, x - 2.0, y + 1.0)
    assert product([p, Combination(3.0)]).expression() == 12.0 - 6.0 * x


# Numbers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3.14159, "pi"),
        (-1.5708, "-pi/2"),
        (2.7183, "E"),
        (0.33334, "1/3"),
        (1.41421, "sqrt(2)"),
        (0.8660254, "sqrt(3)/2"),
        (0.31831, "1/pi"),
        (9.8696, "pi**2"),
        (-2.0004, "-2"),
        (100.0004, "100"),
    ],
)
def test_constants_are_recognised(value, expected):
    assert str(recognised(sympy.Float(value), 1e-3)) == expected


@pytest.mark.parametrize("value", [0.3338, 0.123456, 1e-9, 0.0])
def test_other_numbers_stay(value):
    assert recognised(sympy.Float(value), 1e-3) == sympy.Float(value)


def test_few_random_numbers_are_taken_for_constants():
    values = np.random.default_rng(0).uniform(-5, 5, 500)
    taken = [value for value in values if not recognised(sympy.Float(value), 1e-4).atoms(sympy.Float)]
    assert len(taken) < 10


def test_constants_in_formulas():
    model = fixed("sin", (3.1416, 0.7854, 0.50001, 0.6931))
    assert str(model.symbolic_formula(constants=True)[0][0]) == "sin(pi*x_1 + pi/4)/2 + 0.6931"
    assert "3.1416" in str(model.symbolic_formula(constants=1e-7)[0][0])


def test_simplify_keeps_terms_of_small_units():
    """1e-14*y**2 is no rounding error of x**2: it is what counts where y is 1e9. What cancels is one."""
    assert shortest((x + 1.0) * (x - 1.0) + 1.0 + 1e-14 * y**2) == x**2 + 1e-14 * y**2
    assert shortest(0.1 * (x + 0.3) ** 2 - 0.1 * x**2 - 0.06 * x - 0.009 + sympy.sin(x)) == sympy.sin(x)
    assert shortest(1e-20 * (x + y) ** 2 - 1e-20 * (x - y) ** 2) == 4e-20 * x * y


def test_simplify_finds_a_product_in_squares():
    model = KAN([2, 2, 1])
    model.layers[0].fix_many(
        [(0, 0), (0, 1), (1, 0), (1, 1)], ["x"] * 4, torch.tensor([[1.0, 0, 1, 0]] * 3 + [[1, 0, -1, 0]])
    )
    model.layers[1].fix_many([(0, 0), (0, 1)], ["x^2"] * 2, torch.tensor([[1, 0, 0.25, 0], [1, 0, -0.25, 0]]))
    assert str(model.symbolic_formula(simplify=True)[0][0]) == "x_1*x_2"
    assert model.symbolic_formula()[0][0].count_ops() > 4


@pytest.mark.parametrize(
    ("width", "names"),
    [
        ([2, 1, 1], [["1/x^4", "x^5"], ["sgn"]]),
        ([3, [0, 2], 1], [["x^4", "x^3", "x^2"] * 4, ["x^4", "x^3"]]),
    ],
)
def test_simplify_does_without_that_of_sympy(width, names, monkeypatch):
    """Which takes from ten seconds to minutes for these."""
    monkeypatch.setattr("sympy.simplify", lambda *args, **kwargs: pytest.fail("sympy.simplify is called"))
    model = KAN(width, dtype=torch.float64)
    for layer, functions in zip(model.layers, names, strict=True):
        edges = [(o, i) for o in range(layer.out_features) for i in range(layer.in_features)]
        layer.fix_many(edges, functions, 0.1 + torch.rand(len(edges), 4, dtype=torch.float64))
    (formula,), symbols = model.symbolic_formula(simplify=True)
    points = 0.5 + torch.rand(20, width[0], dtype=torch.float64)
    values = torch.from_numpy(numpy_function([formula], symbols)(points.numpy()))
    torch.testing.assert_close(values, model(points), rtol=1e-6, atol=0)


def test_expanded_terms_bound_what_expand_gives():
    for expression in ((x + 1.5) ** 3 * (y + 2) + x, sympy.exp((x + y + 0.5) ** 2) * (x + 1) ** 2, (x + 2) ** -2 + 1):
        expanded = sympy.expand(expression)
        longest = max(len(sympy.Add.make_args(part)) for part in sympy.preorder_traversal(expanded))
        assert longest <= expanded_terms(expression) <= 3 * longest
    assert expanded_terms((x + y + 1) ** 1000) == 501
