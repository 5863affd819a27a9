"""Formulas: they evaluate to the network's values, in normal form, as sympy, LaTeX, C and numpy; and their report."""

from __future__ import annotations

import copy
import ctypes
import math

import numpy as np
import pytest
import sympy
import torch
from scipy.special import jv

from kan_fast import KAN
from kan_fast.nn.functions import LIBRARY, add_symbolic, find
from kan_fast.symbolic.expressions.constants import recognised, rounded
from kan_fast.symbolic.expressions.normal import Combination, applied, product
from kan_fast.symbolic.expressions.simplify import expanded_terms
from kan_fast.symbolic.expressions.source import c_source, latex, numpy_function, numpy_source
from tests.helpers.compiled_library import Library, needs_gcc

x, y = sympy.symbols("x y")


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)  # conftest puts it back


def samples(n=300, columns=2):
    return torch.rand(n, columns, generator=torch.Generator().manual_seed(1)) * 2 - 1


def network(functions=("sin", "x^2", "exp", "cosh", "x", "tanh"), seed=0):
    """Every edge symbolic with some affine parameters; a product of two sums among the nodes."""
    model = KAN([2, [2, 1], 2], seed=seed)
    make = torch.Generator().manual_seed(seed)
    for layer in model.layers:
        edges = [(o, i) for o in range(layer.out_features) for i in range(layer.in_features)]
        affine = torch.rand(len(edges), 4, generator=make) * 3 - 1.5
        layer.fix_many(edges, [functions[n % len(functions)] for n in range(len(edges))], affine)
        torch.nn.init.uniform_(layer.bias, -1, 1, generator=make)
    return model


def fixed(function, affine, inputs=1):
    """A network of one edge for each input."""
    model = KAN([inputs, 1])
    model.layers[0].fix_many([(0, i) for i in range(inputs)], [function] * inputs, torch.tensor([affine] * inputs))
    return model


def by_lambdify(formulas, symbols, points):
    return np.stack([np.broadcast_to(sympy.lambdify(symbols, f, "scipy")(*points.T), len(points)) for f in formulas], 1)


def assert_same(result, model, points):
    expected = model(points).detach().numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-10 * np.nanmax(abs(expected)))


# Values


@pytest.mark.parametrize("seed", range(3))
def test_formulas_evaluate_to_the_model(seed):
    model, points = network(seed=seed), samples()
    formulas, symbols = model.symbolic_formula()
    assert list(map(str, symbols)) == ["x_1", "x_2"] and len(formulas) == 2
    assert_same(by_lambdify(formulas, symbols, points.numpy()), model, points)
    assert_same(numpy_function(formulas, symbols)(points.numpy()), model, points)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", [*LIBRARY, "x^7", "x^0.3", "1/x^2.5"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_function_in_every_position(name, seed):
    """Also outside of its domain: NaN in the model is NaN in the formula."""
    make = torch.Generator().manual_seed(seed)
    model, points = KAN([2, 2, 1]), samples()
    model.layers[0].fix_many(
        [(0, 0), (0, 1), (1, 0), (1, 1)], [name, "x", "x", name], torch.randn(4, 4, generator=make) * 2
    )
    model.layers[1].fix_many([(0, 0), (0, 1)], [name, "x"], torch.randn(2, 4, generator=make) * 0.5)
    formulas, symbols = model.symbolic_formula()
    expected = model(points).detach().numpy()
    found = numpy_function(formulas, symbols)(points.numpy())
    finite = np.isfinite(expected) & np.isfinite(found)
    assert finite.mean() > 0.98 * np.isfinite(expected).mean() - 1e-9
    assert finite.mean() > 0.98 * np.isfinite(found).mean() - 1e-9
    error = abs(found - expected)[finite] / (1 + abs(expected[finite]))
    assert not len(error) or np.quantile(error, 0.98) < 1e-9  # near poles and steps rounding counts


def test_large_formulas():
    """Beyond the size up to which sympy is asked for identities."""
    model, points = KAN([3, 4, 3, 1]), samples(columns=3)
    names, make = ["sin", "x^2", "exp", "tanh", "gaussian", "sqrt"], torch.Generator().manual_seed(0)
    for layer in model.layers:
        edges = [(o, i) for o in range(layer.out_features) for i in range(layer.in_features)]
        affine = torch.rand(len(edges), 4, generator=make) * 0.4 + torch.tensor([0.1, 0.5, 0.1, 0])
        layer.fix_many(edges, [names[n % len(names)] for n in range(len(edges))], affine)
    formulas, symbols = model.symbolic_formula()
    assert_same(numpy_function(formulas, symbols)(points.numpy()), model, points)
    assert_same(by_lambdify(formulas, symbols, points.numpy()), model, points)
    found = numpy_function(*model.symbolic_formula(digits=12))(points.numpy())
    np.testing.assert_allclose(found, model(points).detach().numpy(), rtol=1e-9)


def test_float32_networks():
    model, points = network().float(), samples().float()
    function = numpy_function(*model.symbolic_formula())
    np.testing.assert_allclose(function(points.numpy()), model(points).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_pykan_way_of_evaluating():
    formula = fixed("sin", (2.0, 0, 1, 0)).symbolic_formula()[0][0]
    assert float(formula.subs("x_1", 0.3)) == pytest.approx(math.sin(0.6))


def test_names_of_inputs():
    model = network()
    a, b = sympy.symbols("a b")
    assert model.symbolic_formula(["a", "b"])[1] == [a, b]
    formulas, given = model.symbolic_formula([a, sympy.log(b)])
    assert given == [a, sympy.log(b)] and formulas[0].free_symbols == {a, b}
    with pytest.raises(ValueError, match=r"var must have an entry for each of the 2 inputs, got 1: \['a'\]"):
        model.symbolic_formula(["a"])


@pytest.mark.parametrize(
    ("var", "message"),
    [
        (["a", "a"], "another symbol for every input, got a twice"),
        (["x", x], "another symbol for every input, got x twice"),
        ("ab", "var must be a list"),
        (["a", None], "names, symbols or expressions, got None"),
        (["a", ""], "names, symbols or expressions, got ''"),
    ],
)
def test_bad_names_of_inputs(var, message):
    with pytest.raises((TypeError, ValueError), match=message):
        network().symbolic_formula(var)


def test_pruned_inputs_keep_their_names():
    model = fixed("x", (1.0, 0, 1, 0), inputs=3)
    small = model.prune_input(active_inputs=[0, 2], x=samples(columns=3))
    formulas, symbols = small.symbolic_formula()
    assert list(map(str, symbols)) == ["x_1", "x_3"] and formulas[0].free_symbols == set(symbols)


def test_splines_have_no_formula():
    """pykan's is silently 0."""
    with pytest.raises(ValueError, match=r"\(0, 0, 0\), \(0, 1, 0\), \(0, 0, 1\).* and 7 more are splines; fix them"):
        KAN([2, 5, 1]).symbolic_formula()
    model = KAN([2, 1])
    model.layers[0].mask = torch.tensor([[False, True]])
    with pytest.raises(ValueError, match=r"\(0, 1, 0\) are splines"):
        model.symbolic_formula()
    model.layers[0].fix(0, 1, "x", (2, 0, 1, 0))
    assert str(model.symbolic_formula()[0][0]) == "2.0*x_2"


def test_a_network_without_edges():
    model = KAN([1, 1])
    model.layers[0].mask = torch.tensor([[False]])
    torch.nn.init.constant_(model.layers[0].bias, 0.25)
    assert model.symbolic_formula()[0] == [sympy.Float(0.25)]


@pytest.mark.parametrize("outer", ["abs", "x^2", "sgn"])
def test_the_modulus_of_an_exponential_function_is_one_of_real_numbers(outer):
    """sympy's |exp(x)| is exp(re(x)), which C doesn't know."""
    model, points = KAN([1, 1, 1]), samples(columns=1)
    model.layers[0].fix(0, 0, "exp")
    model.layers[1].fix(0, 0, outer)
    formulas, symbols = model.symbolic_formula()
    assert not formulas[0].has(sympy.re)
    assert "exp" in c_source(formulas, symbols)
    np.testing.assert_allclose(numpy_function(formulas, symbols)(points.numpy()), model(points).detach().numpy())


def test_normalizers():
    model, points = network(), samples()
    mean, std, scale = [0.3, -1], torch.tensor([2.0, 0.5]), (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    formulas, symbols = model.symbolic_formula(normalizer=(mean, std), output_normalizer=scale)
    raw = points * std + torch.tensor(mean)
    expected = (model(points) * scale[1] + scale[0]).detach().numpy()
    np.testing.assert_allclose(numpy_function(formulas, symbols)(raw.numpy()), expected, rtol=1e-10, atol=1e-8)
    with pytest.raises(ValueError, match="std > 0"):
        model.symbolic_formula(normalizer=([0, 0], [1, 0]))


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


def test_digits():
    formula = 1.0004 * sympy.sin(2.99951 * x + 0.0002) + 0.00021 * y + 0.5
    assert rounded(formula, 3) == sympy.sin(3 * x) + 0.5
    assert rounded(formula, 4) == 1.0004 * sympy.sin(2.9995 * x + 0.0002) + 0.0002 * y + 0.5
    model = fixed("x", (1.0, 0, 1e-9, 0.123456))
    assert model.symbolic_formula(digits=3)[0][0] == sympy.Float(0.123)
    assert model.symbolic_formula()[0][0].free_symbols


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


# Source code


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


# The report


def test_report_of_a_symbolic_network():
    model, points = network(), samples()
    label = model(points).detach() + 0.1
    report = model.formula_report(points, label)
    for output in report.outputs:
        assert output.formula.rmse == pytest.approx(0.1) and output.model.rmse == pytest.approx(0.1)
        assert output.formula.r2 == pytest.approx(output.model.r2) and output.formula.broken == 0
        assert output.complexity == output.expression.count_ops()
    deviation = label[:, 0].var(correction=0).item()
    assert report.outputs[0].model.r2 == pytest.approx(1 - 0.01 / deviation)
    assert report.samples == 300 and len(report.edges) == 8 + 6 and not report.splines
    text = str(report)
    assert "formula RMSE" in text and "y_1 = " in text and "what it cost to fix edges" in text


def test_report_of_rounded_formulas():
    model, points = network(), samples()
    output = model.formula_report(points, model(points).detach(), digits=1).outputs[0]
    assert output.model.rmse < 1e-9 < 1e-3 < output.formula.rmse


def test_report_names_the_edges_that_cost_most():
    model, points = KAN([2, 3, 1], seed=0), samples()
    label = torch.exp(torch.sin(3 * points[:, :1]) + points[:, 1:] ** 2)
    model.fit((points, label), steps=20, progress=False)
    before = model.formula_report(points, label)
    assert before.outputs[0].formula is None and len(before.splines) == 9 and "no formula: 9 edges" in str(before)
    for edge in ((0, 0, 0), (0, 1, 2), (1, 2, 0)):
        layer = model.layers[edge[0]]
        layer.fix(edge[2], edge[1], "x", (1, 0, 0.1 if edge[0] else 3.0, 0))
    report = model.formula_report(points, label)
    costs = [edge.cost for edge in report.edges]
    assert costs == sorted(costs, reverse=True) and len(costs) == 3
    for fixed in report.edges:
        other = copy.deepcopy(model)
        other.layers[fixed.edge.layer].unfix(*fixed.edge.place)
        rmse = (other(points) - label).square().mean().sqrt().item()
        assert fixed.cost == pytest.approx(report.outputs[0].model.rmse - rmse)


def test_report_counts_what_is_not_finite():
    model, points = KAN([2, 1, 1]), samples()
    model.layers[0].fix_many([(0, 0), (0, 1)], ["x", "log"], torch.tensor([[1.0, 0, 1, 0], [1, 0.5, 1, 0]]))
    model.layers[1].fix(0, 0, "sqrt", (1, 2, 1, 0))
    broken = int((points[:, 1] < -0.5).sum())
    roots = points[:, 0] + (points[:, 1] + 0.5).log() + 2 < 0
    report = model.formula_report(points, torch.zeros(300, 1))
    counts = {edge.function: edge.broken for edge in report.edges}
    assert counts == {"x": 0, "log": broken, "sqrt": int(roots.sum())}
    assert report.outputs[0].formula.broken == report.outputs[0].model.broken == broken + int(roots.sum())
    assert math.isfinite(report.outputs[0].formula.rmse)
    assert f"edge (0, 1, 0), log, for {broken} of them" in str(report)


def test_report_where_nothing_is_finite():
    model = fixed("log", (1.0, -5, 1, 0))
    report = model.formula_report(samples(columns=1), torch.zeros(300, 1))
    assert report.outputs[0].formula.broken == 300 and math.isnan(report.outputs[0].formula.rmse)
    str(report)


def test_a_pole_is_counted():
    model = fixed("1/x", (1.0, 0, 1, 0))
    report = model.formula_report(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [0.5]]))
    assert report.outputs[0].formula.broken == 1 and report.outputs[0].formula.rmse == pytest.approx(0)


def test_report_with_normalizers():
    model, points = network(), samples()
    scale = ([0.3, -1], [2.0, 0.5])
    raw = points * torch.tensor(scale[1]) + torch.tensor(scale[0])
    label = model(points).detach() * 2 + 1
    report = model.formula_report(raw, label, normalizer=scale, output_normalizer=([1.0], [2.0]))
    assert all(o.formula.rmse < 1e-8 and o.model.rmse < 1e-8 for o in report.outputs)


def test_report_checks_shapes():
    for label in (torch.zeros(300), torch.zeros(300, 3), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match=r"labels \(n, 2\), got"):
            network().formula_report(samples(), label)
