"""The normal form of formulas: linear combinations of functions whose redundant affine parts are merged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import sympy
import torch

from kan_fast.nn.functions import Function
from kan_fast.symbolic.expressions.large import call

_MUCH = 10.0
_LARGE = 230.0  # logarithm from which on numbers stay in the exponent, since they might overflow outside
_SUM_OF_REFLECTED = {"acos(z)": math.pi, "1/(1 + exp(-z))": 1.0}  # f(z) + f(-z)
_COFUNCTION = {"sin(z)": sympy.cos, "cos(z)": sympy.sin}


@dataclass
class Combination:
    """`constant + sum of coefficient * expression`; no expression is a sum or has a number as a factor."""

    constant: float = 0.0
    terms: dict[sympy.Expr, float] = field(default_factory=dict)

    @staticmethod
    def of(expression: sympy.Expr) -> Combination:
        """The parts of an expression."""
        result = Combination()
        for part in sympy.Add.make_args(expression):
            number, rest = part.as_coeff_Mul()
            if rest == 1 or rest.is_number:
                result.constant += float(part)
            else:
                result.terms[rest] = result.terms.get(rest, 0.0) + float(number)
        return result

    def times(self, factor: float) -> Combination:
        """The combination multiplied by a number; terms that become 0 are left out."""
        terms = {expression: factor * c for expression, c in self.terms.items()}
        return Combination(factor * self.constant, {e: c for e, c in terms.items() if c != 0})

    def over(self, divisor: float) -> Combination:
        """The combination divided by a number; a coefficient that equals the number becomes exactly 1."""
        return Combination(self.constant / divisor, {e: c / divisor for e, c in self.terms.items()})

    def plus(self, constant: float) -> Combination:
        """The combination plus a number."""
        return Combination(self.constant + constant, self.terms)

    @property
    def leading(self) -> float:
        """The coefficient of the expression that comes first in sympy's order."""
        return self.terms[min(self.terms, key=sympy.default_sort_key)]

    @property
    def scale(self) -> float:
        """The first coefficient that is not much smaller than the largest number of the combination, or the constant.

        After a division by it no number is large, so that rounding them changes little.
        """
        least = max(abs(self.constant), *map(abs, self.terms.values())) / _MUCH
        ordered = (self.terms[expression] for expression in sorted(self.terms, key=sympy.default_sort_key))
        return next((c for c in ordered if abs(c) >= least), self.constant)

    def expression(self) -> sympy.Expr:
        """The combination as one sympy expression."""
        parts = [(int(c) if c in (1, -1) else sympy.Float(c)) * e for e, c in self.terms.items()]
        return sympy.Add(*parts, *([sympy.Float(self.constant)] if self.constant or not parts else []))


def total(combinations: Iterable[Combination]) -> Combination:
    """The sum of combinations; equal expressions are merged."""
    result = Combination()
    for combination in combinations:
        result.constant += combination.constant
        for expression, coefficient in combination.terms.items():
            result.terms[expression] = result.terms.get(expression, 0.0) + coefficient
    return result.times(1.0)


def product(factors: Iterable[Combination]) -> Combination:
    """The product of combinations, not expanded; the leading coefficient of every factor is moved to the front."""
    coefficient, varying = 1.0, []
    for factor in factors:
        if factor.terms:
            coefficient *= factor.scale
            varying.append(factor.over(factor.scale))
        else:
            coefficient *= factor.constant
    if len(varying) == 1:
        return varying[0].times(coefficient)
    return Combination.of(sympy.Mul(*(factor.expression() for factor in varying))).times(coefficient)


def applied(function: Function, argument: Combination, c: float = 1.0, d: float = 0.0) -> Combination:
    """`c f(argument) + d` in normal form.

    Scales are moved out of homogeneous functions and logarithms, signs out of even and odd functions, summands out of
    the exponential function. Leading coefficients in arguments of functions with a symmetry are positive. The phases of
    sin and cos are between -pi/4 and pi/4 (a sine becomes a cosine, or the reverse, where needed), those of other
    functions with a period P between -P/2 and P/2.
    """
    if c == 0:
        return Combination(d)
    if not argument.terms or not math.isfinite(argument.constant):
        value = function.evaluate(torch.tensor(argument.constant, dtype=torch.float64)).item()
        return Combination(c * value + d)
    if argument.leading < 0:
        if function.parity:
            argument, c = argument.times(-1), c * function.parity
        elif function.expression in _SUM_OF_REFLECTED:
            argument, c, d = argument.times(-1), -c, d + c * _SUM_OF_REFLECTED[str(function.expression)]
    scale = abs(argument.scale)
    if function.expression == "log(z)":
        argument, d = argument.over(scale), d + c * math.log(scale)
    elif function.degree is not None and abs(function.degree * math.log(scale)) < _LARGE:
        argument, c = argument.over(scale), c * scale**function.degree
    formula: Callable[[sympy.Expr], sympy.Expr] = function.formula
    exact = sympy.Integer(0)
    if function.expression == "exp(z)":
        power = argument.constant + math.log(abs(c))
        if max(abs(power), abs(argument.constant)) < _LARGE:
            argument, c = argument.plus(-argument.constant), math.copysign(math.exp(power), c)
        else:  # sympy would move the number out itself if it were a Float
            exact, argument = sympy.Integer(round(power)), argument.plus(-argument.constant)
            c = math.copysign(math.exp(power - round(power)), c)
    elif function.period is not None:
        period = function.period
        argument = argument.plus(-period * math.ceil(argument.constant / period - 0.5))
        if function.expression in _COFUNCTION:
            quarter = round(argument.constant / (period / 4))  # sin(z + pi) = -sin(z), sin(z + pi / 2) = cos(z)
            argument = argument.plus(-quarter * period / 4)
            if quarter in (2, -2) or quarter == (-1 if function.expression == "sin(z)" else 1):
                c = -c
            if quarter in (1, -1):
                formula = _COFUNCTION[str(function.expression)]
    return total([Combination.of(call(formula, argument.expression() + exact)).times(c), Combination(d)])
