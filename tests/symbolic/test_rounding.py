"""Formulas in few digits: short numbers, terms that count are there, and the values that were promised."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import sympy
import torch

from kan_fast import KAN
from kan_fast.nn.recording import Samples
from kan_fast.symbolic.expressions.rounding import _Values, _without_small_terms, rounded
from kan_fast.symbolic.expressions.source import numpy_function, text
from tests.helpers.formulas import fixed, network, samples, x, y

pytestmark = pytest.mark.usefixtures("double")
POINTS = np.random.default_rng(0).uniform(-1, 1, (500, 2))


def near(expression, digits=4, points=POINTS):
    return str(rounded(expression, digits, [x, y], points))


# With samples


@pytest.mark.parametrize("power", range(-12, 13, 3))
def test_units_do_not_matter(power):
    """Inputs of 10^power: the numbers beside them are small or large, and the terms count as much as ever."""
    unit = 10.0**power
    model, inputs = KAN([2, 1]), samples() * unit
    torch.nn.init.zeros_(model.layers[0].bias)
    model.layers[0].fix_many([(0, 0), (0, 1)], ["sin", "x^2"], torch.tensor([[3 / unit, 0, 1, 0], [1 / unit, 0, 1, 0]]))
    (formula,), symbols = model.symbolic_formula(digits=4, x=inputs)
    assert formula.has(sympy.sin) and len(formula.free_symbols) == 2
    assert model.symbolic_formula(digits=4)[0][0] == formula  # without samples nothing is lost either
    found = numpy_function([formula], symbols)(inputs.numpy())
    np.testing.assert_allclose(found, model(inputs).detach().numpy(), rtol=1e-12, atol=1e-12)


def test_small_units_are_printed_shortly():
    formula = sympy.Float(1.0000003e-12) * y**2 + sympy.sin(2.9999999e-6 * x)
    assert near(formula, points=1e6 * POINTS) == "1.0e-12*y**2 + sin(3.0e-6*x)"
    assert near(formula) == "sin(3.0e-6*x)"  # where y**2 does not count
    assert str(rounded(formula, 4)) == "1.0e-12*y**2 + sin(3.0e-6*x)"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (1.0004 * sympy.sin(2.99951 * x + 0.0002) + 0.00002 * y + 0.5, "sin(3*x + 0.0002) + 0.5"),
        (1.23456 * x + 2.00000001 * y, "1.235*x + 2*y"),
        (1e150 * x**2, "1.0e+150*x**2"),
        (1.23456e12 * x, "1235000000000*x"),
        (1.23456e-300 * x, "1.235e-300*x"),
        (8.123456e-7 * sympy.exp(14.00001 * x), "8.123e-7*exp(14*x)"),
        (1.2345678 * sympy.pi * x + y / 3, "1.235*pi*x + y/3"),
        (sympy.Float(0.123456), "0.1235"),
        (0.0 * x, "0"),
    ],
)
def test_numbers_are_short(expression, expected):
    assert text(rounded(expression, 4, [x, y], POINTS)) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (sympy.sin(1000.31234 * x), "sin(1000.312*x)"),  # sin(1000*x) is another function
        (sympy.exp(50.123456 * x), "exp(50.123*x)"),
        (1.23456 * (x - 1e6 + 0.5), "1.235*x - 1234559.383"),  # 1235000 is 300 deviations away
        (sympy.sin(3.14159 * x) + 1234567890.123, "sin(3.142*x) + 1234567890.123"),
        ((0.123456 * x + 1.0) ** 40, "(0.12346*x + 1)**40"),
    ],
)
def test_numbers_keep_the_digits_that_values_need(expression, expected):
    assert near(expression) == expected


def test_columns_far_from_0():
    """Seconds since 1970, over a day: all digits of the frequency count."""
    seconds = 1.7e9 + np.linspace(0, 86400, 300)[:, None]
    formula = sympy.sin(7.2722052166430e-5 * x + 0.4)
    short = rounded(formula, 4, [x], seconds)
    exact, found = (numpy_function([form], [x])(seconds) for form in (formula, short))
    assert np.sqrt(np.mean((found - exact) ** 2)) < 1e-3 * exact.std()
    assert "+ 0.4)" in str(short)


def test_terms_go_before_numbers_are_rounded():
    """Else tanh(5.361) - 1 is an offset, x - 4.4e-5, that was not there."""
    assert near(x + sympy.tanh(1e-3 * y + 5.3612345) - 0.99995576) == "x"
    assert near(-6.12345 * (x - 2.012345) * (1.0 + 1e-9 * y)) == near(-6.12345 * (x - 2.012345))
    assert near(x + 1e-9 * sympy.log(y + sympy.Float(1e-12))) == "x"


def test_no_term_goes_that_sympy_needs():
    """Without small terms this is arctan(1 / 0): a number for numpy, two limits for sympy."""
    formula = x + sympy.atan(1 / (1e-12 * x + 2e-13))
    assert np.isfinite(numpy_function([rounded(formula, 4, [x, y], abs(POINTS))], [x, y])(POINTS)).all()


def test_values_stay_numbers():
    """sqrt(x - 0.1235) has no value at the first sample."""
    inputs = np.linspace(0.12346, 1, 100)[:, None]
    short = rounded(sympy.sqrt(x - 0.123456789), 4, [x], inputs)
    assert np.isfinite(numpy_function([short], [x])(inputs)).all() and short != sympy.sqrt(x - 0.123456789)


def test_samples_without_a_value_do_not_count():
    assert near(1.23456 * sympy.sqrt(x)) == "1.2346*sqrt(x)"
    assert near(1.23456 * sympy.log(x - 2.0)) == "1.235*log(x - 2)"  # it has none at all
    assert near(1.23456 * x, points=np.empty((0, 2))) == "1.235*x"
    unknown = sympy.Function("unknown")
    assert near(1.23456 * unknown(x)) == "1.235*unknown(x)"


def held_out_change(formula, short, symbols, points):
    """The root mean square of the change, in deviations, by sympy and mpmath with 30 digits."""
    functions = [sympy.lambdify(symbols, form, "mpmath") for form in (formula, short)]
    with mpmath.workdps(30):
        exact, found = (np.array([float(f(*map(mpmath.mpf, row))) for row in points]) for f in functions)
    return np.sqrt(np.mean((found - exact) ** 2)) / exact.std()


@pytest.mark.parametrize("digits", [1, 2, 4, 7])
@pytest.mark.parametrize("seed", range(6))
def test_values_keep_the_promised_digits_on_other_samples(seed, digits):
    """Promised is 10^(1 - digits) on the samples given; others of the same kind may differ by twice as much."""
    make = torch.Generator().manual_seed(seed)
    scale = 10.0 ** (torch.rand(2, generator=make) * 12 - 6)
    model, inputs = network(seed=seed), samples() * scale
    for edge, (_, i) in enumerate(model.layers[0].symbolic.places):
        model.layers[0].symbolic.affine.data[edge, 0] /= scale[i]
    exact, symbols = model.symbolic_formula()
    short, _ = model.symbolic_formula(digits=digits, x=inputs)
    other = (2 * torch.rand(200, 2, generator=make) - 1) * scale
    for before, after in zip(exact, short, strict=True):
        assert held_out_change(before, after, symbols, other.tolist()) < 2 * 10.0 ** (1 - digits)
        assert len(str(after)) < len(str(before))


def test_samples_are_those_of_fit_in_the_units_of_the_formula():
    model = KAN([2, 1])
    torch.nn.init.zeros_(model.layers[0].bias)
    model.layers[0].fix_many([(0, 0), (0, 1)], ["x", "x"], torch.tensor([[1.0, 0, 1, 0], [1.0, 0, 1e-3, 0]]))
    assert "x_2" in str(model.symbolic_formula(digits=2)[0][0])
    model.last_inputs = Samples(samples())
    assert str(model.symbolic_formula(digits=2)[0][0]) == "x_1"
    assert str(model.symbolic_formula(digits=4)[0][0]) == "x_1 + 0.001*x_2"
    assert "x_2" in str(model.symbolic_formula(digits=2, x=samples() * torch.tensor([1e-3, 1]))[0][0])
    scaled = model.symbolic_formula(digits=2, normalizer=([0, 0], [1e-3, 1e3]))[0][0]
    assert str(scaled) == "1000*x_1"
    assert "b" in str(model.symbolic_formula(["a", sympy.Symbol("b") ** 2], digits=2)[0][0])


def test_a_report_without_a_fit_measures_on_its_own_samples():
    model, points = fixed("sin", (1000.31234, 0.0, 1.0, 0.0)), samples(columns=1)
    output = model.formula_report(points, model(points).detach(), digits=4).outputs[0]
    assert output.formula.rmse < 1e-3 and str(output.expression) == "sin(1000.312*x_1)"


def test_a_constant_is_printed_shortly():
    model = fixed("0", (1.0, 0.0, 1.0, 0.1234567))
    report = model.formula_report(samples(columns=1), torch.zeros(300, 1), digits=4)
    assert "y_0 = 0.1235\n" in str(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"digits": 0}, "digits must be at least 1, got 0"),
        ({"digits": 3, "x": torch.rand(5, 3)}, r"x must be samples \(n, 2\), got shape \(5, 3\)"),
        ({"digits": 3, "x": torch.rand(2)}, r"x must be samples \(n, 2\), got shape \(2,\)"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        network().symbolic_formula(**options)


# Without samples


def test_of_terms_only_rounding_errors_go():
    exact = sympy.exp((y - 9.9e-19) ** 2 + sympy.sin(3.14159265 * x - 1.7e-17)) + 1.1e-16
    assert str(rounded(exact, 5)) == "exp(y**2 + sin(3.1416*x))"
    for expression in (x + 1e-15 * y, x + 1e-12, 1e-30 * sympy.sin(x) + 1.0, sympy.tanh(1e-9 * x + 5.4) - 1.0):
        assert rounded(expression, 4).count_ops() == expression.count_ops()


def test_numbers_that_sympy_makes_of_rounded_ones_are_rounded():
    form = (sympy.Float(2.00001) * x + sympy.Float(1e-30)) ** 2.0 * sympy.Float(1.23456) ** sympy.Symbol("n")
    assert max(len(text(number)) for number in rounded(form, 3).atoms(sympy.Float)) <= 4


@pytest.mark.parametrize("power", [231.25, 347.3125, 1e5 + 0.3])
def test_large_exponents_are_whole(power):
    """exp(x + 347.3125) was exp(x + 5557/16): no power of two is left, and the values are the same."""
    model, points = fixed("exp", (1.0, power, 1e-100, 0.0)), samples(columns=1) - power + 230
    (formula,), (symbol,) = model.symbolic_formula()
    assert all(number.q == 1 for number in formula.atoms(sympy.Rational))
    found = numpy_function([formula], [symbol])(points.numpy())
    expected = 1e-100 * np.exp(points.numpy() + power)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert len(str(model.symbolic_formula(digits=3, x=points)[0][0])) < 30


def test_not_finite():
    assert rounded(sympy.nan * x, 3) is sympy.nan and rounded(x + sympy.oo, 3) == x + sympy.oo
    assert math.isclose(rounded(sympy.Float("1e400") * x, 3).subs(x, sympy.Float("1e-400")), 1)


@pytest.mark.parametrize("digits", [1, 2, 3, 17])
def test_numbers_that_would_round_to_infinity_keep_their_digits(digits):
    for number in (1.7976931348623157e308, -1.79e308):
        formula = number * x
        for found in (rounded(formula, digits), rounded(formula, digits, [x, y], np.abs(POINTS))):
            assert float(found.coeff(x)) == pytest.approx(number, rel=0.006)


def test_terms_that_go_count_less_than_promised_all_together():
    """Terms went one by one in pass after pass, each of which forgot what those before it had changed."""
    terms = [sympy.Float(0.6e-4) * sympy.sin(k * x + y) for k in range(1, 30)]
    values = _Values.near(sympy.Add(x, *terms), [x, y], POINTS)
    rest = _without_small_terms(sympy.Add(x, *terms), values, 1e-4)
    change = values.change(values.values, numpy_function([rest], [x, y])(values.points)[:, 0])
    assert 0 < change <= 1e-4
