"""The library of functions of one variable that edges can be fixed to; `add_symbolic` extends it."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kan_fast._support.checks import listed

if TYPE_CHECKING:
    import sympy

__all__ = ["LIBRARY", "Function", "add_symbolic", "find", "power"]


@dataclass(frozen=True)
class Function:
    """A function `f(z)` of one real variable, as numbers and as a formula.

    Attributes:
        name: how users, tables and saved networks call it.
        evaluate: acts on each element of a tensor, twice differentiable almost everywhere; NaN or infinite outside
            of the domain.
        expression: the same function for sympy: text in the symbol z such as "sin(z)", which sympy evaluates as code,
            or a callable from one sympy expression to another.
        complexity: cost of the function in a formula, at least 0; that of x is 1.
        domain: arguments for which the function is real, `(start, end)`, ends included.
        pole: the argument in the domain near which the function grows without bound; None if there is none.
        parity: 1 if even, -1 if odd, 0 if neither.
        period: length of the period; None if there is none.
        degree: n if `f(s z) = s^n f(z)` plus a constant for all s > 0; the scale of the argument is then redundant.
            None for other functions.
        translates: whether `f(z + t)` is `f(z)` times a constant plus a constant for all t; the origin of the argument
            is then redundant.
        jump: the argument at which a step function jumps from one constant to another; None for other functions.
    """

    name: str
    evaluate: Callable[[Tensor], Tensor]
    expression: str | Callable[[Any], Any]
    complexity: float
    domain: tuple[float, float] = (-math.inf, math.inf)
    pole: float | None = None
    parity: int = 0
    period: float | None = None
    degree: float | None = None
    translates: bool = False
    jump: float | None = None

    @property
    def price(self) -> float:
        """Complexity; plus 1 if both scale and origin of the argument matter, which is a parameter more to fit."""
        return self.complexity + (self.degree is None and not self.translates)

    def formula(self, argument: sympy.Expr) -> sympy.Expr:
        """`f(argument)` as a sympy expression, for real numbers."""
        import sympy  # takes half a second, and few programs need formulas

        given = self.expression
        formula = given(argument) if callable(given) else sympy.sympify(given, locals={"z": argument})
        return formula.replace(sympy.re, lambda z: z)  # sympy's |exp(x)| is exp(re(x))


def _bessel(z: Tensor, order: int) -> Tensor:
    sine = torch.sin((torch.arange(16, dtype=z.dtype, device=z.device) + 0.5) * (math.pi / 32))
    phase = z.clamp(-25, 25)[..., None] * sine
    near = (sine * phase.sin() if order else phase.cos()).mean(-1)
    exporting = torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export()  # ONNX has no Bessel functions
    far = _hankel(z, order) if exporting else (torch.special.bessel_j0, torch.special.bessel_j1)[order](z)
    return torch.where(z.abs() > 25, far, near)


class _Bessel(torch.autograd.Function):
    """Bessel functions of the first kind, J_0 and J_1.

    torch has no derivatives of them, and its values are wrong by up to 5e-7 around z = 5 in every dtype. Up to 25 these
    are means over the circle, cos(z sin t) and sin(t) sin(z sin t), which 16 points in a quadrant give to rounding
    (the trapezoidal rule for Bessel's integral; the error is of the order of J_64); beyond it torch is exact.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, order: int) -> Tensor:
        return _bessel(z, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        z, ctx.order = inputs
        ctx.save_for_backward(z)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        function = _Bessel.apply if torch.is_grad_enabled() else _bessel  # the latter is faster
        if ctx.order == 0:
            return -gradient * function(z, 1), None
        at_zero = z == 0
        slope = function(z, 0) - function(z, 1) / torch.where(at_zero, 1, z)
        return gradient * torch.where(at_zero, 0.5, slope), None


def _hankel(z: Tensor, order: int) -> Tensor:
    """Bessel functions for |z| > 25, by the first 18 terms of the series for large arguments (DLMF 10.17.3)."""
    r = z.abs().clamp_min(25)
    terms = [1.0]
    for k in range(1, 18):
        terms.append(terms[-1] * (4 * order**2 - (2 * k - 1) ** 2) / (8 * k))
    even, odd = r * 0 + terms[-2], r * 0 + terms[-1]
    step = -1 / (r * r)
    for k in reversed(range(8)):  # Horner's scheme
        even, odd = even * step + terms[2 * k], odd * step + terms[2 * k + 1]
    phase = r - (order / 2 + 0.25) * math.pi
    value = torch.sqrt(2 / (math.pi * r)) * (even * phase.cos() - odd / r * phase.sin())
    return value * z.sign() if order else value


def bessel_j0(z: Tensor) -> Tensor:
    """Bessel function of the first kind of order 0; differentiable."""
    return _Bessel.apply(z, 0)


def bessel_j1(z: Tensor) -> Tensor:
    """Bessel function of the first kind of order 1; differentiable."""
    return _Bessel.apply(z, 1)


@functools.cache
def power(exponent: float) -> Function:
    """`z^n`, for negative n as `1/z^-n`; real for z >= 0 alone unless n is an integer."""
    n = int(exponent) if exponent == int(exponent) else exponent
    digits = f"{Decimal(repr(abs(n))):f}"  # all of them: files know the function by its name
    name = f"1/x^{digits}" if n < 0 else f"x^{digits}"
    return Function(
        {"x^1": "x", "1/x^1": "1/x"}.get(name, name),
        lambda z: z**n,
        f"z**({n})" if isinstance(n, int) else lambda z: z ** _exact(n),
        abs(n) + (n < 0) if isinstance(n, int) else abs(n) + 1.5,
        (-math.inf if isinstance(n, int) else 0.0, math.inf),
        pole=0.0 if n < 0 else None,
        parity=(-1) ** n if isinstance(n, int) else 0,
        degree=n,
        translates=n == 1,
    )


def _exact(number: float) -> sympy.Expr:
    import sympy

    return sympy.nsimplify(number, rational=True)


_ALIASES = {
    "x^0.5": "sqrt",
    "1/x^0.5": "1/sqrt(x)",
    "sign": "sgn",
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "atanh": "arctanh",
    "acosh": "arccosh",
    "asinh": "arcsinh",
}
_EXPONENTS = 2.0**53  # from here on not all whole numbers are floats
_POWER = re.compile(r"(1/)?x\^(-?\d+(?:\.\d+)?)")

LIBRARY: dict[str, Function] = {
    function.name: function
    for function in (
        Function("0", lambda z: 0 * z, "0*z", 0, parity=1, degree=0),
        *(power(n) for n in (1, 2, 3, 4, 5, -1, -2, -3, -4, -5)),
        Function("sqrt", torch.sqrt, "sqrt(z)", 2, (0, math.inf), degree=0.5),
        power(1.5),
        Function("1/sqrt(x)", torch.rsqrt, "1/sqrt(z)", 3, (0, math.inf), pole=0, degree=-0.5),
        Function("exp", torch.exp, "exp(z)", 2, translates=True),
        Function("log", torch.log, "log(z)", 2, (0, math.inf), pole=0, degree=0),
        Function("abs", torch.abs, "Abs(z)", 3, parity=1, degree=1),
        Function("sgn", lambda z: torch.where(z.isnan(), z, torch.sign(z)), "sign(z)", 3, parity=-1, degree=0, jump=0),
        Function("sin", torch.sin, "sin(z)", 2, parity=-1, period=2 * math.pi),
        Function("cos", torch.cos, "cos(z)", 2, parity=1, period=2 * math.pi),
        Function("tan", torch.tan, "tan(z)", 3, pole=math.pi / 2, parity=-1, period=math.pi),
        Function("arcsin", torch.arcsin, "asin(z)", 4, (-1, 1), parity=-1),
        Function("arccos", torch.arccos, "acos(z)", 4, (-1, 1)),
        Function("arctan", torch.arctan, "atan(z)", 4, parity=-1),
        Function("sinh", torch.sinh, "sinh(z)", 3, parity=-1),
        Function("cosh", torch.cosh, "cosh(z)", 3, parity=1),
        Function("tanh", torch.tanh, "tanh(z)", 3, parity=-1),
        Function("arcsinh", torch.arcsinh, "asinh(z)", 4, parity=-1),
        Function("arccosh", torch.arccosh, "acosh(z)", 4, (1, math.inf)),
        Function("arctanh", torch.arctanh, "atanh(z)", 4, (-1, 1), parity=-1),
        Function("gaussian", lambda z: torch.exp(-(z**2)), "exp(-z**2)", 3, parity=1),
        Function("sigmoid", torch.sigmoid, "1/(1 + exp(-z))", 3),
        Function("erf", torch.erf, "erf(z)", 4, parity=-1),
        Function("J0", bessel_j0, "besselj(0, z)", 5, parity=1),
        Function("J1", bessel_j1, "besselj(1, z)", 5, parity=-1),
    )
}


def add_symbolic(
    name: str,
    fun: Callable[[Tensor], Tensor],
    c: float = 1,
    expression: str | Callable[[Any], Any] | None = None,
    *,
    domain: tuple[float, float] = (-math.inf, math.inf),
) -> Function:
    """Add a function to the library, or replace one. A network that has the function can be loaded only afterwards.

    Args:
        name: any text but a power such as "x^7" (the library has all powers). It is never evaluated as code.
        fun: acts on each element of a tensor; differentiable.
        c: complexity, at least 0.
        expression: the same function for sympy, see `Function`; None takes sympy's own function `name`, or else an
            undefined function of that name.
        domain: see `Function`.

    Returns:
        The entry of the library.

    Raises:
        TypeError, ValueError: an argument has a wrong type or value; the message says what is allowed.
    """
    if not isinstance(name, str) or not name or _POWER.fullmatch(name):
        raise ValueError(f"name must be text that is not a power of x, got {name!r}")
    if not callable(fun):
        raise TypeError(f"fun must be a callable that acts on a tensor, got {fun!r}")
    if not c >= 0:
        raise ValueError(f"c, the complexity, must be at least 0, got {c}")
    if not domain[0] < domain[1]:
        raise ValueError(f"domain must be (start, end) with start < end, got {domain}")
    expression = functools.partial(_named, name) if expression is None else expression
    LIBRARY[name] = Function(name, fun, expression, c, (domain[0], domain[1]))
    return LIBRARY[name]


def _named(name: str, argument: sympy.Expr) -> sympy.Expr:
    """sympy's own function of this name, or an undefined one; a name is never evaluated as code."""
    import sympy

    own = getattr(sympy, name, None)
    return own(argument) if isinstance(own, sympy.FunctionClass) else sympy.Function(name)(argument)


def find(name: str | Function) -> Function:
    """The function of the library that has this name. Every power is in the library: "x^7", "1/x^2", "x^0.3".

    Raises:
        TypeError: `name` is not text.
        ValueError: the library has no function of this name.
    """
    if isinstance(name, Function):
        return name
    if not isinstance(name, str):
        raise TypeError(f"a function is given by its name, got {name!r}")
    name = _ALIASES.get(name, name)
    if name in LIBRARY:
        return LIBRARY[name]
    match = _POWER.fullmatch(name)
    if match is None or not 0 < abs(float(match[2])) < _EXPONENTS:
        raise ValueError(
            f"unknown function {name!r}; allowed: {', '.join(LIBRARY)}, powers such as 'x^7'; add_symbolic adds others"
        )
    function = power(-float(match[2]) if match[1] else float(match[2]))
    return LIBRARY.get(function.name, function)


def select(lib: Iterable[str | Function] | None) -> list[Function]:
    """The functions of these names, each once, in this order; None for the whole library.

    Raises:
        TypeError, ValueError: `lib` is a single name, not a list, or empty, or a name in it is unknown.
    """
    if isinstance(lib, str):
        raise TypeError(f"lib must be a list of names, got {lib!r}; write lib=[{lib!r}]")
    functions = list(LIBRARY.values()) if lib is None else [find(name) for name in listed("lib", lib)]
    if not functions:
        raise ValueError("lib must have at least one function")
    return list({function.name: function for function in functions}.values())
