"""Fits of functions to curves: the truth is found wherever it lies, and scipy's curve_fit finds nothing better."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import curve_fit

from kan_fast.nn.functions import LIBRARY, Function, find, select
from kan_fast.symbolic.curves.single import fit_functions, held_out, plain

NAMES = [name for name in LIBRARY if name != "0"]
SAMPLES = 400
TEST = held_out(torch.arange(SAMPLES)[:, None], 0.2)
# Arguments (for the smallest and the largest x) that reach over what is special about a function
ARGUMENTS = {
    "sgn": [(-1, 0.6)],
    "abs": [(-1, 0.6), (2, -3)],
    "tan": [(-1.2, 1.4), (2, 4.4), (0.5, 0.2)],
    "sin": [(-1, 1), (0, 30), (2, -1.5)],
    "cos": [(-1, 1), (0, 30), (2, -1.5)],
    "J0": [(-20, 20), (0, 20), (3, -1)],
    "J1": [(-20, 20), (0, 20), (3, -1)],
    "arccosh": [(1, 5), (3, 1.02)],
    "gaussian": [(-2, 2), (-0.5, 4), (0, 1)],
}
HALF_LINE = [(0, 1), (5, 0.01), (1, 2)]
POLE = [(0.01, 1), (3, 0.5), (-0.5, -0.02)]
BOUNDED = [(-1, 1), (0.7, -0.99), (0, 0.5)]
LINE = [(-2, 3), (1.5, -0.5), (0.2, 1)]


def arguments(function):
    if function.name in ARGUMENTS:
        return ARGUMENTS[function.name]
    if function.domain == (-1, 1):
        inside = 0.999 if function.name == "arctanh" else 1
        return [(inside * first, inside * last) for first, last in BOUNDED]
    if function.pole is not None:
        return [pair for pair in POLE if min(pair) > function.domain[0]]
    return HALF_LINE if function.domain[0] == 0 else LINE


def curve(function, first, last, start=-3.0, end=7.0, scale=2.5, shift=-40.0):
    """x and `scale f(z) + shift` with z from `first` to `last`."""
    x = start + (end - start) * torch.rand(SAMPLES, dtype=torch.float64)
    x[:2] = torch.tensor([start, end])
    z = first + (last - first) * (x - start) / (end - start)
    return x, scale * function.evaluate(z.clamp(*sorted((first, last)))) + shift


def fit(function, x, y, **options):
    fits = fit_functions(x[:, None], y[:, None], [function], TEST, **options)
    return fits.affine[0, 0], fits.r2[0, 0].item(), fits.r2_held_out[0, 0].item()


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_is_found(name):
    function = find(name)
    for first, last in arguments(function):
        x, y = curve(function, first, last)
        (a, b, c, d), r2, r2_held_out = fit(function, x, y)
        between = name == "sgn"  # samples, where a held-out one may lie on the wrong side
        assert (0.9 if between else 1 - 1e-9) <= r2_held_out <= 1, f"{first} .. {last}"
        assert 1 - 1e-9 <= r2 <= 1
        predicted = c * function.evaluate(a * x + b) + d
        assert 1 - ((predicted - y)[TEST].square().mean() / y.var(correction=0)).item() == pytest.approx(r2_held_out)


def test_no_jump_elsewhere_is_better():
    x, function = torch.rand(SAMPLES, dtype=torch.float64).mul(10).round(decimals=2), find("sgn")  # some are equal
    y = 3 * function.evaluate(4.13 - x) + torch.randn(SAMPLES, dtype=torch.float64)
    _, r2, _ = fit(function, x, y)
    errors, variance = [], y.var(correction=0).item()
    x, y = x[~TEST], y[~TEST]
    for place in x.unique()[:-1]:
        left, right = y[x <= place], y[x > place]
        errors.append(((left - left.mean()).square().sum() + (right - right.mean()).square().sum()).item())
    assert 1 - r2 == pytest.approx(min(errors) / len(y) / variance)


@pytest.mark.parametrize("name", ["exp", "sqrt", "sin", "tanh", "gaussian", "1/x^2", "arctan", "sigmoid"])
def test_nothing_better_next_to_it_with_noise(name):
    """scipy's own Levenberg-Marquardt, started at our result, stays there."""
    function = find(name)
    x, y = curve(function, *arguments(function)[0])
    y += 0.05 * torch.randn(SAMPLES, dtype=torch.float64)
    affine, _, _ = fit(function, x, y)

    def model(x, a, b, c, d):
        with np.errstate(all="ignore"):
            return c * function.evaluate(torch.as_tensor(a * x + b)).nan_to_num(1e6).numpy() + d

    def error(parameters):
        return np.square(model(x[~TEST].numpy(), *parameters) - y[~TEST].numpy()).mean()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the covariance of redundant parameters is infinite
        better, _ = curve_fit(model, x[~TEST].numpy(), y[~TEST].numpy(), affine.numpy(), maxfev=5000)
    assert error(affine.numpy()) <= error(better) * (1 + 1e-6)


def test_many_curves_are_those_one_by_one():
    functions = select(["x^2", "sin", "log", "exp"])
    columns = [curve(function, *arguments(function)[0], start=s) for s, function in enumerate(functions)]
    x, y = (torch.stack(part, 1) for part in zip(*columns, strict=True))
    together = fit_functions(x, y, functions, TEST)
    for n in range(len(columns)):
        alone = fit_functions(x[:, [n]], y[:, [n]], functions, TEST)
        torch.testing.assert_close(together.r2[n], alone.r2[0], rtol=1e-6, atol=1e-9)
        assert together.r2_held_out[n].argmax() == n


def test_symmetries_are_used_for_plain_numbers():
    x, y = curve(find("sin"), 20, 23, start=0, end=1)
    a, b, _, _ = fit(find("sin"), x, y)[0].tolist()
    assert a == pytest.approx(3)
    assert abs(b) <= math.pi
    x, y = curve(find("sqrt"), 0, 9, start=0, end=1, scale=2, shift=5)
    assert fit(find("sqrt"), x, y)[0].tolist() == pytest.approx([1, 0, 6, 5], abs=1e-5)
    x, y = curve(find("x"), 1, 7, start=0, end=2, scale=2, shift=1)
    assert fit(find("x"), x, y)[0].tolist() == pytest.approx([1, 0, 6, 3])
    x, y = curve(find("exp"), 1, 3, start=0, end=2, scale=2, shift=1)
    assert fit(find("exp"), x, y)[0].tolist() == pytest.approx([1, 0, 2 * math.e, 1])


@pytest.mark.parametrize("name", NAMES)
def test_plain_parameters_are_of_the_same_curve(name):
    function = find(name)
    x = torch.linspace(-0.2, 0.4, 7, dtype=torch.float64)
    for a in (0.3, -0.3):
        affine = torch.tensor([a, 1.2 if name == "arccosh" else 0.25, -2, 7], dtype=torch.float64)
        other = plain(function, affine)
        before, after = (c * function.evaluate(a * x + b) + d for a, b, c, d in (affine, other))
        torch.testing.assert_close(after, before)


@pytest.mark.parametrize("name", ["x", "exp", "sin", "1/x"])
def test_no_plain_parameter_is_minus_zero(name):
    for affine in ([-0.5, -0.25, 1, 0], [-0.5, -0.25, -0.0, 0], [0.5, -0.0, 1, -0.0]):
        signs = torch.signbit(other := plain(find(name), torch.tensor(affine, dtype=torch.float64)))
        assert not signs[other == 0].any()


def test_a_constant_is_fitted_by_anything():
    x = torch.rand(SAMPLES, 1, dtype=torch.float64)
    fits = fit_functions(x, torch.full_like(x, 3.25), select(None), TEST)
    assert (fits.r2 == 1).all()
    assert (fits.r2_held_out == 1).all()
    assert (fits.affine[..., 2] == 0).all()


@pytest.mark.parametrize("value", [3.25, -1e-30, 1e30, 1e-170])
def test_a_constant_is_one_also_with_rounding_errors(value):
    """Those of a single sample among many are no curve either."""
    x = torch.rand(SAMPLES, 1, dtype=torch.float64)
    y = torch.full_like(x, value)
    y[0] *= 1 + 4e-16
    fits = fit_functions(x, y, select(["x", "sin"]), TEST)
    assert (fits.r2 == 1).all() and (fits.affine[..., 2] == 0).all()


def test_constant_x_explains_nothing():
    y = torch.randn(SAMPLES, 1, dtype=torch.float64)
    fits = fit_functions(torch.full_like(y, 0.5), y, select(None), TEST)
    assert fits.affine[fits.r2.isfinite()].isfinite().all()
    assert (fits.r2 < 0.05).all()


def test_undefined_functions_say_so():
    nowhere = Function("nowhere", lambda z: z * math.nan, "nan", 1)
    x = torch.rand(SAMPLES, dtype=torch.float64)
    _, r2, r2_held_out = fit(nowhere, x, x)
    assert r2 == r2_held_out == -math.inf


def test_rounding_of_the_network_counts():
    """A line as the tail of a tanh with huge c and d is one in float64 alone."""
    x = torch.linspace(0, 1, SAMPLES, dtype=torch.float64)
    single, double = (fit(find("tanh"), x, torch.exp(-x), rounding=rounding)[2] for rounding in (6e-8, 1e-16))
    assert double > 1 - 1e-6
    assert single < double


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x.index_fill(0, torch.tensor(3), torch.nan), y), "NaN or infinity in x of curve 0"),
        (lambda x, y: (x, y / 0), "NaN or infinity in y of curve 0"),
        (lambda x, y: (x, y[:-1]), "one shape"),
    ],
)
def test_bad_samples_are_refused(change, message):
    x, y = change(torch.rand(SAMPLES, 2), torch.rand(SAMPLES, 2))
    with pytest.raises(ValueError, match=message):
        fit_functions(x, y, select(["x"]), TEST)


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="at least 8 samples"):
        fit_functions(torch.rand(2, 1), torch.rand(2, 1), select(["x"]), torch.zeros(2, dtype=torch.bool))


def test_held_out_samples_are_the_same_each_time():
    state = torch.get_rng_state()
    x = torch.linspace(0, 1, 100)[:, None]
    assert torch.equal(held_out(x, 0.3), held_out(x, 0.3))
    assert held_out(x, 0.3).sum() == 30
    assert torch.equal(torch.get_rng_state(), state)


def test_extremes_of_columns_are_not_held_out():
    x = torch.rand(50, 4)
    fitted = x[~held_out(x, 0.8)]
    assert len(fitted) == 10
    assert torch.equal(fitted.amin(0), x.amin(0))
    assert torch.equal(fitted.amax(0), x.amax(0))
    assert held_out(x[:4], 0.5).sum() == 2, "also where all are extremes"
