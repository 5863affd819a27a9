"""The library of functions: numbers and formulas agree, derivatives are right, names are found."""

import math

import numpy as np
import pytest
import sympy
import torch
from scipy.special import jv
from torch.autograd import gradcheck, gradgradcheck

from kan_fast.nn import functions
from kan_fast.nn.functions import add_symbolic, find, select

# fmt: off
PYKAN = [
    "x", "x^2", "x^3", "x^4", "x^5", "1/x", "1/x^2", "1/x^3", "1/x^4", "1/x^5", "sqrt", "x^0.5", "x^1.5", "1/sqrt(x)",
    "1/x^0.5", "exp", "log", "abs", "sin", "cos", "tan", "tanh", "sgn", "arcsin", "arccos", "arctan", "arctanh", "0",
    "gaussian",
]
# fmt: on
OTHERS = ["cosh", "sinh", "arccosh", "arcsinh", "erf", "sigmoid", "J0", "J1", "x^7", "1/x^6", "x^0.3"]


def arguments(function: functions.Function) -> torch.Tensor:
    """Away from the ends of the domain and from kinks."""
    start, end = np.clip(function.domain, -2, 3)
    return torch.linspace(start + 0.05, end - 0.06, 12, dtype=torch.float64)


@pytest.mark.parametrize("name", PYKAN + OTHERS)
def test_numbers_and_formula_agree(name):
    function, z = find(name), sympy.Symbol("x_1")
    x = arguments(function)
    formula = sympy.lambdify(z, function.formula(z), "scipy")(x.numpy())
    np.testing.assert_allclose(function.evaluate(x).numpy(), np.broadcast_to(formula, x.shape), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", PYKAN + OTHERS)
def test_derivatives(name):
    function = find(name)
    x = arguments(function).requires_grad_()
    assert gradcheck(function.evaluate, x)
    assert gradgradcheck(function.evaluate, x)
    single, several = function.evaluate(x), torch.func.vmap(function.evaluate)(x)
    torch.testing.assert_close(several, single)


@pytest.mark.parametrize("name", PYKAN + OTHERS)
def test_symmetry_and_domain(name):
    function = find(name)
    x = torch.linspace(0.1, 0.8, 5, dtype=torch.float64)
    if function.parity:
        torch.testing.assert_close(function.evaluate(-x), function.parity * function.evaluate(x))
    if function.period is not None:
        torch.testing.assert_close(function.evaluate(x + function.period), function.evaluate(x))
    start, end = function.domain
    outside = torch.tensor([start - 0.1, end + 0.1], dtype=torch.float64)
    assert not function.evaluate(outside[outside.isfinite()]).isfinite().any()
    assert function.evaluate(torch.tensor(math.nan)).isnan()


@pytest.mark.parametrize("order", [0, 1])
def test_bessel_is_exact_where_torch_is_not(order):
    z = torch.linspace(-60, 60, 5001, dtype=torch.float64)
    function = (functions.bessel_j0, functions.bessel_j1)[order]
    np.testing.assert_allclose(function(z).numpy(), jv(order, z.numpy()), rtol=0, atol=1e-14)
    far = z[z.abs() > 25]
    np.testing.assert_allclose(functions._hankel(far, order).numpy(), jv(order, far.numpy()), rtol=0, atol=1e-14)


def test_bessel_at_zero():
    zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(functions.bessel_j1, zero)
    assert gradgradcheck(functions.bessel_j0, zero)


def test_aliases():
    assert find("x^0.5") is find("sqrt")
    assert find("asin") is find("arcsin")
    assert find("x^1") is find("x")


def test_own_function(library):
    add_symbolic("sinc", torch.special.sinc, 4, lambda z: sympy.sinc(sympy.pi * z))
    add_symbolic("f", torch.sin, domain=(0, 1))
    z = sympy.Symbol("z")
    assert find("sinc").formula(z) == sympy.sinc(sympy.pi * z)
    assert find("f").formula(z) == sympy.Function("f")(z)
    assert [f.name for f in select(["f", "sin", "f"])] == ["f", "sin"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find("sine"), "unknown function 'sine'; allowed: 0, x"),
        (lambda: find("x^0"), "unknown function"),
        (lambda: select("sin"), r"write lib=\['sin'\]"),
        (lambda: select([]), "at least one"),
        (lambda: add_symbolic("x^2", torch.square), "not a power"),
        (lambda: add_symbolic("f", "sin"), "callable"),
        (lambda: add_symbolic("f", torch.sin, -1), "at least 0"),
        (lambda: add_symbolic("f", torch.sin, domain=(1, 0)), "start < end"),
    ],
)
def test_errors(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_names_are_never_evaluated(library):
    z = sympy.Symbol("z")
    for name in ("exec('raise SystemExit')", "__import__('os').abort", "(lambda", "sympify", "x y", "1+1"):
        formula = add_symbolic(name, torch.sin).formula(z)
        assert isinstance(formula.func, sympy.core.function.UndefinedFunction)
        assert str(formula.func) == name
    assert add_symbolic("sec", lambda x: 1 / torch.cos(x)).formula(z) == sympy.sec(z)


@pytest.mark.parametrize("name", ["x^1234567", "x^0.1234567", "1/x^0.00001", "x^1.00000001", "1/x^0.3"])
def test_powers_have_all_digits_in_their_names(name):
    """Files know functions by name: x^0.1234567 came back as x^0.123457, and x^1234567 not at all."""
    assert find(name).name == name
    assert find(find(name).name) is find(name)


@pytest.mark.parametrize("name", ["x^" + "9" * 400, "1/x^" + "9" * 20, "x^0." + "0" * 400 + "1"])
def test_powers_that_floats_lack_are_unknown(name):
    with pytest.raises(ValueError, match="unknown function"):
        find(name)
