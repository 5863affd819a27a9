"""Formulas of networks: they evaluate to the values of the network, under the names that were given."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy
import torch

from kan_fast import KAN
from kan_fast.nn.functions import LIBRARY
from kan_fast.symbolic.expressions.source import c_source, numpy_function
from tests.helpers.formulas import assert_same, fixed, network, samples, x

pytestmark = pytest.mark.usefixtures("double")


def by_lambdify(formulas, symbols, points):
    return np.stack([np.broadcast_to(sympy.lambdify(symbols, f, "scipy")(*points.T), len(points)) for f in formulas], 1)


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
    for one in (2, np.float32(2), torch.tensor(2.0)):
        formulas = model.symbolic_formula(normalizer=(0, one))[0]
        assert formulas == model.symbolic_formula(normalizer=([[0, 0]], [2.0, 2.0]))[0]
