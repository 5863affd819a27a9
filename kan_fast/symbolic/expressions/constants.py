"""Recognising numbers in formulas that are a fraction, a root, or a multiple of pi or e."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import sympy

from kan_fast.symbolic.expressions.large import replace_numbers

_FACTORS = (  # and what a multiple of it costs
    (sympy.Integer(1), 1),
    (sympy.pi, 2),
    (sympy.sqrt(2), 2),
    (sympy.sqrt(3), 2),
    (sympy.E, 3),
    (1 / sympy.pi, 3),
    (sympy.sqrt(5), 3),
    (sympy.sqrt(sympy.pi), 3),
    (sympy.pi**2, 3),
)
_LARGEST_DENOMINATOR = 12


def recognised(expression: sympy.Expr, tolerance: float) -> sympy.Expr:
    """The expression with numbers replaced by p/q, or p/q times pi, e, 1/pi, pi^2 or the root of 2, 3, 5 or pi.

    A candidate has a cost: q, times 1 for a fraction, 2 for a multiple of pi or of a root of 2 or 3, and 3 for others.
    Of the candidates whose error is at most `tolerance / cost`, relative to the number or, for numbers above 1,
    absolute, the cheapest replaces the number. So 0.3333 is a third for the tolerance 1e-3, 0.3338 is not, and no
    number becomes 0.
    """
    return replace_numbers(expression, lambda number: _recognise(number, tolerance))


def _recognise(value: float, tolerance: float) -> sympy.Expr:
    if value == 0:
        return sympy.Float(value)
    bound = tolerance * min(1.0, abs(value))
    matches = [(cost, candidate) for cost, candidate, error in _candidates(value) if error <= bound / cost]
    return min(matches, key=lambda match: match[0])[1] if matches else sympy.Float(value)


def _candidates(value: float) -> Iterator[tuple[int, sympy.Expr, float]]:
    """Cost, number and error of the nearest multiples with small denominators."""
    for factor, cost in _FACTORS:
        unit = _number(factor)
        for q in range(1, _LARGEST_DENOMINATOR // cost + 1):
            p = round(value / unit * q)
            yield cost * q, factor * sympy.Rational(p, q), abs(value - p * unit / q)


@cache
def _number(factor: sympy.Expr) -> float:
    return float(factor)
