"""Formulas as source code: C and numpy give the same values, names that a language has are refused or changed."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest
import sympy
import torch
from scipy.special import jv

from kan_fast.nn.functions import LIBRARY, add_symbolic
from kan_fast.symbolic.expressions.source import c_source, latex, numpy_function, numpy_source
from tests.helpers.compiled_library import Library, needs_gcc
from tests.helpers.formulas import assert_same, fixed, network, samples, x, y

pytestmark = pytest.mark.usefixtures("double")


@needs_gcc
@pytest.mark.parametrize("seed", range(2))
def test_c_and_numpy(seed, tmp_path):
    names = ["sin", "J0", "erf", "x^3", "log", "sgn", "gaussian", "x^0.3", "J1", "arctan"]
    model, points = network(names, seed), samples()
    formulas, symbols = model.symbolic_formula()
    expected = model(points).detach().numpy()
    result = Library(c_source(formulas, symbols, "f"), tmp_path, "f", ctypes.c_double, 2)(points.numpy())
    np.testing.assert_allclose(result, expected, rtol=1e-8, atol=1e-10)
    scope = {}
    exec(numpy_source(formulas, symbols, "f"), scope)
    np.testing.assert_allclose(scope["f"](points.numpy()), expected, rtol=1e-8, atol=1e-10)
    assert scope["f"](points.view(3, 100, 2).numpy()).shape == (3, 100, 2)
    assert scope["f"](points[0].tolist()).shape == (2,)
    with pytest.raises(ValueError, match="expected last dimension 2, got 3"):
        scope["f"](np.zeros((4, 3)))


@needs_gcc
@pytest.mark.parametrize("order", [0, 1])
def test_bessel_functions_without_scipy(order, tmp_path):
    z = np.concatenate([np.linspace(-80, 80, 1001), [1e5, -2e5]])
    expected, formula = jv(order, z)[:, None], [sympy.besselj(order, x)]
    np.testing.assert_allclose(numpy_function(formula, [x])(z[:, None]), expected, rtol=1e-9, atol=1e-14)
    library = Library(c_source(formula, [x], "f"), tmp_path, "f", ctypes.c_double, 1)
    np.testing.assert_allclose(library(z[:, None]), expected, rtol=1e-9, atol=1e-14)


def test_source_of_constants_and_recognised_numbers(tmp_path):
    function = numpy_function([sympy.pi * x + sympy.sqrt(2) + sympy.E, sympy.Float(2)], [x, y])
    np.testing.assert_allclose(function([[1.0, 0], [2, 0]])[:, 0], math.pi * np.array([1, 2]) + math.sqrt(2) + math.e)
    assert function([[1.0, 0]])[0, 1] == 2
    assert "M_" not in c_source([sympy.pi * x + sympy.E], [x])


def test_awkward_names_of_symbols():
    z = sympy.Symbol('lambda"""\n*/')
    for source in (c_source([z**2], [z]), numpy_source([z**2], [z])):
        assert '"""\n*/' not in source.replace('."""\n', "")
    assert numpy_function([z**2], [z])([3.0]) == 9


@needs_gcc
@pytest.mark.parametrize("name", ["sign", "bessel", "x", "t0", "order", "formula_sign"])
def test_names_of_sources(name, tmp_path):
    formulas = [sympy.sign(x) + sympy.besselj(1, y) + (x + y) ** 2 * sympy.sin(x + y)]
    points = np.random.default_rng(0).normal(size=(20, 2))
    expected = numpy_function(formulas, [x, y])(points)
    library = Library(c_source(formulas, [x, y], name), tmp_path, name, ctypes.c_double, 1)
    np.testing.assert_allclose(library(points), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("source", "name"), [(c_source, "double"), (c_source, "sin"), (numpy_source, "class")])
@pytest.mark.parametrize("value", [sympy.sin(x), sympy.erf(x)])
def test_names_of_sources_that_are_refused(source, name, value):
    with pytest.raises(ValueError, match=f"name must be .*, got '{name}'"):
        source([value], [x], name)
    if source is numpy_source:
        for used in ("np", "len", *(["bessel", "math"] if value.has(sympy.erf) else [])):
            with pytest.raises(ValueError, match="the module has no use for"):
                source([value], [x], used)


def test_latex_of_names_that_are_code_there():
    assert latex([sympy.Symbol("100%") + sympy.Symbol("a & b")]) in (
        r"y = \mathrm{100\%} + \mathrm{a \& b}",
        r"y = \mathrm{a \& b} + \mathrm{100\%}",
    )


def test_latex():
    assert latex([sympy.sqrt(x)]) == r"y = \sqrt{x}"
    assert latex([x, y**2]).splitlines() == [
        r"\begin{align*}",
        r"y_{1} &= x \\",
        r"y_{2} &= y^{2}",
        r"\end{align*}",
    ]


def test_functions_of_ones_own(library):
    add_symbolic("sinc", torch.special.sinc, 4, lambda z: sympy.sinc(sympy.pi * z))
    model, points = fixed("sinc", (2.0, 0, 1, 0)), samples(columns=1)
    formulas, symbols = model.symbolic_formula()
    assert_same(numpy_function(formulas, symbols)(points.numpy()), model, points)
    add_symbolic("mine", torch.sin)
    model = fixed("mine", (2.0, 0, 1, 0))
    formulas, symbols = model.symbolic_formula()
    assert str(formulas[0]) == "mine(2.0*x_1)"
    for language, source in (("C", c_source), ("numpy", numpy_source)):
        with pytest.raises(ValueError, match=rf"mine can't be written in {language}; .*expression='sin"):
            source(formulas, symbols)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: c_source([x], [x], "2f"), "C identifier"),
        (lambda: numpy_source([x], [x], "2f"), "Python identifier"),
        (lambda: c_source([x + y], [x]), r"not among \[x\]: \['y'\]"),
        (lambda: numpy_source([x], [x**2]), "must be sympy symbols"),
        (lambda: latex([x], ["a", "b"]), "for each of 1 formulas, got 2"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numbers_that_float64_lacks_are_infinite():
    for number in (sympy.Float("1e400"), sympy.Float("-1e400")):
        found = numpy_function([number * sympy.Symbol("x")], [sympy.Symbol("x")])([[1.0], [-2.0]])
        assert (found[:, 0] == [float(number), -float(number)]).all()


POSITIVE = sympy.symbols("a b", positive=True)
FUNCTIONS = {
    "Max": sympy.Max(*POSITIVE, 0.5),
    "Min": sympy.Min(*POSITIVE),
    "Piecewise": sympy.Piecewise((POSITIVE[0], POSITIVE[0] > POSITIVE[1]), (0.25, POSITIVE[1] > 0.6), (7, True)),
    "atan2": sympy.atan2(*POSITIVE),
    "beta": sympy.beta(*POSITIVE),
    "binomial": sympy.binomial(*POSITIVE),
    "besselj 0": sympy.besselj(0, POSITIVE[0]),
    "besselj 1": sympy.besselj(1, POSITIVE[0] - 0.5),
    **{
        name: getattr(sympy, name)(POSITIVE[0] - POSITIVE[1])
        for name in ("Abs", "sign", "Heaviside", "erf", "erfc", "gamma", "floor", "ceiling", "sinc", "sech", "acot")
    },
    **{name: getattr(sympy, name)(POSITIVE[0]) for name in ("loggamma", "factorial", "cbrt", "asec", "log", "coth")},
    **{f"edge {name}": function.expression for name, function in LIBRARY.items()},
}


def exact(formula, symbols, points):
    """Values in many digits, NaN where they are not real."""
    values = [sympy.N(formula.subs(dict(zip(symbols, map(sympy.Float, point), strict=True))), 30) for point in points]
    return np.array([float(value) if value.is_real else np.nan for value in values])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_source_runs_by_itself(name):
    formula, symbols = FUNCTIONS[name], list(POSITIVE)
    if name.startswith("edge"):
        formula = sympy.sympify(formula) if isinstance(formula, str) else formula(sympy.Symbol("z"))
        formula = formula.subs(sympy.Symbol("z"), POSITIVE[0])
    points = np.random.default_rng(0).uniform(0.1, 1.9, (20, 2))
    scope = {}
    exec(numpy_source([formula], symbols, "f"), scope)
    values = scope["f"](points)[:, 0]
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(values, exact(formula, symbols, points), rtol=1e-12, atol=1e-14)


def test_gamma_functions_at_their_poles_and_ends():
    points = np.array([0.0, -1, -2, 171, 172, 1e300, np.inf, np.nan])
    gamma, log_gamma = numpy_function([sympy.gamma(x), sympy.loggamma(x)], [x])(points[:, None]).T
    np.testing.assert_allclose(gamma, [np.nan] * 3 + [math.gamma(171)] + [np.inf] * 3 + [np.nan])
    assert log_gamma[0] == log_gamma[6] == np.inf and np.isnan(log_gamma[[1, 2, 7]]).all()
    assert log_gamma[5] == pytest.approx(math.lgamma(1e300))


@pytest.mark.parametrize(
    ("formula", "name"),
    [
        (sympy.zeta(x) + sympy.sin(x), "zeta"),
        (1 + sympy.besselj(2, x), "besselj"),
        (sympy.besselj(y, x), "besselj"),
        (sympy.Sum(x**y, (y, 0, 3)), "Sum"),
        (sympy.Integral(sympy.exp(-x * y), (y, 0, 1)), "Integral"),
        (sympy.hyper((1, 2), (3,), x), "hyper"),
        (sympy.digamma(x) + sympy.LambertW(x), "LambertW, polygamma"),
    ],
    ids=str,
)
def test_functions_that_numpy_lacks_are_named(formula, name):
    with pytest.raises(ValueError, match=rf"^{name} can't be written in numpy"):
        numpy_source([formula], [x, y])


@pytest.mark.parametrize(
    ("formula", "name"), [(sympy.besselj(2, x), "besselj"), (sympy.Sum(x**y, (y, 0, 3)), "Sum"), (sympy.I * x, "I")]
)
def test_functions_that_c_lacks_are_named(formula, name):
    with pytest.raises(ValueError, match=rf"^{name} can't be written in C"):
        c_source([formula], [x, y])


@needs_gcc
def test_whole_numbers_and_fractions_that_are_large(tmp_path):
    ten = sympy.Integer(10)
    formulas = [ten**30 * x, sympy.Rational(ten**60, 3) * x, x * sympy.Rational(1, 3) ** 500, ten**400 * x]
    expected = [[1e30 * v, 1e60 / 3 * v, v / 3.0**500, math.inf * v] for v in (1.5, -2.0)]
    np.testing.assert_allclose(numpy_function(formulas, [x])([[1.5], [-2.0]]), expected, rtol=1e-14)
    library = Library(c_source(formulas[:3], [x], "f"), tmp_path, "f", ctypes.c_double, 3)
    np.testing.assert_allclose(library(np.array([[1.5], [-2.0]])), np.array(expected)[:, :3], rtol=1e-14)
