"""KAN.discover and what it consists of: formulas are found to the last digit, in any units, or it says so."""

import math
import warnings

import numpy as np
import pytest
import sympy
import torch
from scipy.optimize import least_squares

from kan_fast import KAN
from kan_fast.nn.functions import find, select
from kan_fast.optim import LevenbergMarquardt
from kan_fast.symbolic.curves.chains import chains
from kan_fast.symbolic.curves.descent import best_scale, descend
from kan_fast.symbolic.curves.pairs import pairs
from kan_fast.symbolic.discovery import _samples
from kan_fast.symbolic.expressions.constants import recognised
from kan_fast.symbolic.search import Data, rate, refit, simplify, thin


def samples(columns, low=-1.0, high=1.0, n=300):
    return low + (high - low) * torch.rand(n, columns, dtype=torch.float64)


def discovered(x, y, **options):
    """The formula with simple constants, and the network."""
    model = KAN.discover((x, y), progress=False, **options)
    return recognised(model.symbolic_formula(digits=5)[0][0], 1e-3), model


def test_a_sum_in_any_units_of_float32():
    x = samples(3, 0, 10)
    x[:, 1] += 200
    y = 1000 * (torch.sin(x[:, :1]) + 0.5 * x[:, 1:2]) - 50 * x[:, 2:] ** 2
    model = KAN.discover((x.float(), y.float()), progress=False)
    found = {i: (f.name, affine) for (_, i), f, affine in model.layers[0].symbolic.items()}
    assert {i: name for i, (name, _) in found.items()} == {0: "sin", 1: "x", 2: "x^2"}
    for i, expected in {0: 1000, 1: 500, 2: 50}.items():
        assert abs(found[i][1][2]) == pytest.approx(expected, rel=1e-4)
    assert (model(x) - y).abs().max() < 1e-6 * y.abs().max()
    assert model.width == [3, 1]
    assert not model.layers[0].has_splines()


def test_a_function_of_a_sum_without_the_inputs_that_have_no_part_in_it():
    x = samples(3)
    y = torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 2:] ** 2)
    formula, model = discovered(x, y)
    assert sympy.simplify(formula - sympy.sympify("exp(sin(pi*x_1) + x_3**2)")) == 0
    assert model.layers[0].kinds.present.tolist() == [[True, False, True]]
    assert (model(x) - y).abs().max() < 1e-9


def test_a_product_of_signs():
    x = samples(2)
    formula, model = discovered(x, x[:, :1] * x[:, 1:] + 2)
    assert sympy.simplify(formula - sympy.sympify("x_1*x_2 + 2")) == 0
    assert model.width == [2, [0, 1], 1]


def test_a_function_of_another_and_a_dict_whose_test_data_count_for_nothing():
    x = samples(1, -3, 3)
    data = {"train_input": x, "train_label": torch.log(1 + x**2), "test_input": "unused", "test_label": None}
    model = KAN.discover(data, progress=False)
    assert sympy.simplify(model.symbolic_formula(digits=5)[0][0] - sympy.sympify("log(1 + x_1**2)")) == 0


@pytest.mark.parametrize(
    ("expected", "width"), [("x_1 + sin(x_1)", [1, 2, 1]), ("x_1*exp(-x_1)", [1, [0, 1], 1])], ids=["sum", "product"]
)
def test_two_functions_of_one_input(expected, width):
    x = samples(1, 0, 5)
    truth = sympy.lambdify(sympy.Symbol("x_1"), expected, modules=torch)
    formula, model = discovered(x, truth(x))
    assert sympy.simplify(formula - sympy.sympify(expected)) == 0
    assert model.width == width
    assert (model(x) - truth(x)).abs().max() < 1e-12


def test_a_domain_that_ends_at_a_sample():
    x = samples(1, 0, 4)
    x[0] = 0
    formula, _ = discovered(x, torch.exp(-torch.sqrt(x)))
    assert sympy.simplify(formula - sympy.sympify("exp(-sqrt(x_1))")) == 0


def test_what_a_network_learnt_of_an_equation():
    """y' = -y, y(0) = 1."""
    x, zero = samples(1, 0, 5, 200), torch.zeros(1, 1, dtype=torch.float64)
    net = KAN([1, 1], grid=20, grid_range=(0, 5), seed=0, dtype=torch.float64)
    optimizer = LevenbergMarquardt(net)

    def residuals():
        t = x.clone().requires_grad_()
        y = net(t)
        return torch.autograd.grad(y.sum(), t, create_graph=True)[0] + y, net(zero) - 1

    for _ in range(10):
        optimizer.step(residuals)
    (formula,), _ = KAN.discover((x, net(x)), progress=False).symbolic_formula(digits=3)
    assert sympy.simplify(formula - sympy.sympify("exp(-x_1)")) == 0


def test_noise_is_not_fitted():
    x = samples(1, -3, 3)
    truth = torch.sin(x)
    y = truth + 0.1 * torch.randn_like(truth)
    model = KAN.discover((x, y), lib=["x", "x^2", "x^3", "exp", "sin", "tanh"], progress=False)
    assert model.layers[0].symbolic.names == ["sin"]
    assert (model(x) - truth).square().mean().sqrt() < 0.03


def test_a_constant_is_a_formula():
    formula, model = discovered(samples(2, n=60), torch.full((60, 1), 3.25, dtype=torch.float64))
    assert formula == sympy.Rational(13, 4)
    assert not model.layers[0].kinds.present.any()


@pytest.mark.parametrize("lib", [["x"], ["0"]])
@pytest.mark.parametrize("varies", [True, False])
def test_few_functions_and_an_input_that_never_changes(lib, varies):
    x = samples(1, 0.5, 2.5, n=60)
    y = torch.sin(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = KAN.discover((x if varies else torch.ones_like(x), y), lib=lib, progress=False)
    error = (model(x if varies else torch.ones_like(x)) - y).square().mean()
    assert error <= 1.1 * y.var()


def test_without_a_formula_it_says_so():
    x = samples(1, 0, 1)
    y = (x + (5 * x).floor() / 3) * torch.sin(9 * x)
    with pytest.warns(UserWarning, match="no formula was found that explains the data as splines do"):
        model = KAN.discover((x, y), lib=["x", "x^2", "exp"], progress=False)
    assert model(x).isfinite().all()
    assert len(model.symbolic_formula()[0]) == 1


def test_an_interrupt_ends_the_search(monkeypatch):
    steps = []

    def interrupt(*arguments):
        steps.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(LevenbergMarquardt, "step", interrupt)
    x = samples(2)
    with pytest.raises(KeyboardInterrupt):
        KAN.discover((x, x[:, :1]), progress=False)
    assert len(steps) == 1


def test_it_is_reproducible_and_leaves_random_numbers_alone():
    x = samples(2, n=80)
    state = torch.get_rng_state()
    first, second = (KAN.discover((x, x.sum(1, keepdim=True)), seed=3, progress=False) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ((torch.rand(100, 2), torch.rand(100, 2)), "one formula"),
        ((torch.rand(20, 2), torch.rand(20, 1)), "at least 40 samples"),
        ((torch.rand(100, 2), torch.rand(90, 1)), "row per sample"),
        ((torch.rand(100, 2) / 0, torch.rand(100, 1)), "NaN|infinite|infinity"),
        ({"train_input": torch.rand(100, 2)}, "train_label"),
        (torch.rand(100, 2), "pair"),
        ((torch.rand(100, 2).double(), torch.rand(100).double() * 1e-200), r"y reaches \S+e-201 in column 0; numbers"),
        ((torch.rand(100, 2).double(), torch.rand(100).double() * 1e200), r"y reaches \S+e\+199 in column 0; numbers"),
        (
            (torch.rand(100, 2).double() * 1e-200, torch.rand(100)),
            r"x reaches .*1e-100 to 1e\+100, .*: change the unit",
        ),
    ],
)
def test_bad_data_are_refused(dataset, message):
    with pytest.raises((TypeError, ValueError), match=message):
        KAN.discover(dataset, progress=False)


def test_labels_may_be_a_vector():
    y = torch.rand(100)
    assert torch.equal(_samples((torch.rand(100, 2), y))[1], y[:, None].double())


# Chains


@pytest.mark.parametrize("beyond", [0, 1e-5, 4e-4, 2e-3, 7e-3, 0.1])
def test_chains_of_two_functions(beyond):
    """The domain of the inner one ends where the samples do, or further on."""
    functions = select(["x^2", "x^3", "sqrt", "exp", "log", "sin", "tanh", "1/x", "arctan"])
    x = torch.linspace(-1, 1, 200, dtype=torch.float64)
    y = 3 + 50 * torch.exp(-torch.sqrt(x + 1 + beyond))
    best, second = chains(x, y, functions, 2)
    assert (best.outer.name, best.inner.name) == ("exp", "sqrt")
    assert best.error < 1e-15 < second.error
    (a, b, c, d), (p, q, r, s) = best.inner_affine, best.outer_affine
    value = r * best.outer.evaluate(p * (c * best.inner.evaluate(a * x + b) + d) + q) + s
    torch.testing.assert_close(value, y, atol=1e-5, rtol=0)


# Sums and products


@pytest.mark.parametrize(
    ("names", "multiply", "f"),
    [
        ({"x^2", "sin"}, False, lambda x: x**2 + 0.3 * torch.sin(5 * x)),
        ({"exp", "sin"}, True, lambda x: 7 + 100 * torch.exp(-x) * torch.sin(5 * x)),
        ({"x", "exp"}, True, lambda x: (x - 0.3) * torch.exp(-2 * x)),
    ],
)
def test_pairs_of_functions(names, multiply, f):
    functions = select(["0", "x", "x^2", "x^3", "exp", "sin", "tanh", "1/x"])
    x = samples(1, n=200)[:, 0]
    best, second = pairs(x, f(x), functions, 2, multiply)
    assert {function.name for function in best.functions} == names

    def value(pair):
        parts = [
            c * function.evaluate(a * x + b) + d
            for function, (a, b, c, d) in zip(pair.functions, pair.affine.tolist(), strict=True)
        ]
        return (math.prod(parts) if multiply else sum(parts)) + pair.constant

    torch.testing.assert_close(value(best), f(x), atol=1e-6 * f(x).std().item(), rtol=0)
    assert (value(second) - f(x)).square().mean() > (value(best) - f(x)).square().mean()


# Descent


def test_best_scales_are_those_of_least_squares():
    f, target = torch.randn(5, 2, 30, dtype=torch.float64), torch.randn(5, 30, dtype=torch.float64)
    f[1, 0] = 3.0
    f[2, 1] = 2 * f[2, 0] + 1
    f[3] = 0
    f[4] += 1e3
    c, d = best_scale(f, target)
    for problem in range(5):
        columns = np.column_stack([f[problem].T, np.ones(30)])
        best = columns @ np.linalg.lstsq(columns, target[problem].numpy(), rcond=1e-10)[0]
        ours = (c[problem, :, None] * f[problem]).sum(0) + d[problem]
        np.testing.assert_allclose(ours.numpy(), best, atol=1e-8)
    assert c[1, 0] == c[2, 1] == 0


def test_descent_of_a_sum_agrees_with_scipy():
    """c exp(a x) + e sin(p x + q) + d of noisy data."""
    u = torch.linspace(-1, 1, 80, dtype=torch.float64)
    y = (torch.exp(1.3 * u) + 0.5 * torch.sin(6 * u + 1) + 0.1 * torch.randn_like(u))[None]

    def model(ends):
        z = torch.lerp(ends[:, ::2, None], ends[:, 1::2, None], (1 + u) / 2)
        slope = torch.stack([z[:, 0].exp(), z[:, 1].cos()], 1)
        share = torch.stack([(1 - u) / 2, (1 + u) / 2])
        return torch.stack([z[:, 0].exp(), z[:, 1].sin()], 1), (slope[:, :, None] * share).flatten(1, 2)

    bounds = torch.full((1, 4), -math.inf, dtype=torch.float64), torch.full((1, 4), math.inf, dtype=torch.float64)
    _, error = descend(model, y, torch.tensor([[-0.5, 0.5, -4.0, 6.0]], dtype=torch.float64), bounds, 30)
    x = u.numpy()
    best = least_squares(
        lambda p: p[0] * np.exp(p[1] * x) + p[2] * np.sin(p[3] * x + p[4]) + p[5] - y[0].numpy(), [1, 1, 0.5, 6, 1, 0]
    )
    assert error.item() == pytest.approx(2 * best.cost / 80, rel=1e-7)


def test_descent_agrees_with_scipy():
    """c exp(a x + b) + d of noisy data, by variable projection and by scipy on all four parameters."""
    u = torch.linspace(-1, 1, 60, dtype=torch.float64)
    y = (torch.exp(1.3 * u) + 0.2 * torch.randn_like(u))[None]

    def model(ends):
        z = torch.lerp(ends[:, :1], ends[:, 1:], (1 + u) / 2)
        return z.exp()[:, None], torch.stack([z.exp() * (1 - u) / 2, z.exp() * (1 + u) / 2], 1)

    bounds = torch.full((1, 2), -math.inf, dtype=torch.float64), torch.full((1, 2), math.inf, dtype=torch.float64)
    _, error = descend(model, y, torch.tensor([[-0.5, 0.5]], dtype=torch.float64), bounds, 20)
    best = least_squares(lambda p: p[0] * np.exp(p[1] * u.numpy()) + p[2] - y[0].numpy(), [1, 1, 0])
    assert error.item() == pytest.approx(2 * best.cost / 60, rel=1e-9)


def test_descent_stays_within_bounds():
    u = torch.linspace(-1, 1, 50, dtype=torch.float64)
    y = (u + 1).sqrt()[None]

    def model(ends):
        z = torch.lerp(ends[:, :1], ends[:, 1:], (1 + u) / 2)
        slope = 0.5 / z.sqrt()
        return z.sqrt()[:, None], torch.stack([slope * (1 - u) / 2, slope * (1 + u) / 2], 1)

    bounds = torch.zeros(1, 2, dtype=torch.float64), torch.full((1, 2), math.inf, dtype=torch.float64)
    ends, error = descend(model, y, torch.tensor([[0.02, 1.5]], dtype=torch.float64), bounds, 20)
    assert ends[0, 0] == 0
    assert error.item() < 1e-25


# Search


def data_of(f, columns):
    x = samples(columns)
    y = f(x)
    y = (y - y.mean()) / y.std()
    return Data(x[:240], y[:240], x[240:], y[240:], 1e-20)


def test_thin_leaves_out_what_is_not_needed():
    """(x + a)(y + b) - a y - b x is x y for any a and b."""
    data = data_of(lambda x: x[:, :1] * x[:, 1:2] + x[:, 2:], 3)
    model = KAN([3, [1, 1], 1], grid=3, base="identity", extrapolation="linear", seed=1, dtype=torch.float64)
    model.layers[1].fix_many([(0, 0), (0, 1)], ["x", "x"])
    whole = refit(model, data, 40)
    assert whole.error < 1e-9
    thinned = thin(whole, data)
    assert thinned.model.layers[0].kinds.present.sum() <= 5
    assert thinned.error < 1e-9


def test_simplify_makes_lines_and_constants():
    data = data_of(lambda x: torch.sin(2 * x[:, :1]) + x[:, 1:2], 3)
    model = KAN([3, 1], seed=0, dtype=torch.float64)
    model.layers[0].fix_many([(0, 0), (0, 1), (0, 2)], ["sin", "tanh", "exp"])
    trial = simplify(refit(model, data._replace(price=0.5), 20), data._replace(price=0.5))
    assert {i: f.name for (_, i), f, _ in trial.model.layers[0].symbolic.items()} == {0: "sin", 1: "x", 2: "0"}
    assert trial.error < 1e-15


def test_undefined_networks_are_the_worst():
    data = data_of(lambda x: x[:, :1], 1)
    model = KAN([1, 1], seed=0, dtype=torch.float64)
    model.layers[0].fix(0, 0, find("log"), (1.0, 0.0, 1.0, 0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trial = refit(model, data, 5)
    assert trial.error == trial.cost == math.inf
    assert rate(model, data).error == math.inf
