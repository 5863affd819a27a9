"""Simplification of formulas: forms that are shorter once they are expanded, checked at random points."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import sympy

from kan_fast.symbolic.expressions.source import numpy_function

_CANCELLED = 1e-13  # coefficients below this share of what they are the sum of are rounding errors of 0
_SAME = 1e-9  # relative difference of values
_TERMS = 500  # of a sum, up to which products are expanded


def shortest(expression: sympy.Expr) -> sympy.Expr:
    """The shortest of three forms: the expression, its expanded form, and that with common factors collected.

    An expression with more than 500 terms after expansion is not expanded. (sympy's own simplify knows more rules, but
    can take minutes for a formula of ten operations.) A form counts only if it has the values of the expression, to
    nine digits, at 100 random points.
    """
    if expanded_terms(expression) > _TERMS:
        return expression
    expanded = _without_rounding(expression)
    forms = [
        form.xreplace({sympy.Float(1.0): sympy.Integer(1), sympy.Float(-1.0): sympy.Integer(-1)})
        for form in (expanded, sympy.factor_terms(expanded))
    ]
    symbols = sorted(expression.free_symbols, key=str)
    expected = values(expression, symbols)
    finite = expected[np.isfinite(expected)]
    tolerance = _SAME * abs(finite).max(initial=0)
    for form in sorted(forms, key=lambda form: form.count_ops()):
        if form.count_ops() >= expression.count_ops():
            break
        if finite.any() and np.allclose(values(form, symbols), expected, _SAME, tolerance, equal_nan=True):
            return form
    return expression


def expanded_terms(expression: sympy.Expr) -> int:
    """A bound for the terms of the longest sum in the expanded expression; 501 stands for more than 500."""
    most = 1

    def terms(part: sympy.Expr) -> int:
        nonlocal most
        counts = [terms(child) for child in part.args]
        if part.is_Add:
            count = sum(counts)
        elif part.is_Mul:
            count = math.prod(counts)
        elif part.is_Pow and part.exp.is_Integer:
            n = abs(int(part.exp))
            count = math.comb(counts[0] + n - 1, n)
        else:
            count = 1
        count = min(count, _TERMS + 1)
        most = max(most, count)
        return count

    terms(expression)
    return most


def _without_rounding(expression: sympy.Expr) -> sympy.Expr:
    """The expanded expression without the terms whose coefficients are rounding errors, as after x + y - x.

    Such a coefficient is far smaller than the sum of the sizes of what was added up. The coefficients of other terms
    don't tell: 1e-14*x**2 + y is no rounding error where x is in small units.
    """
    sizes = {rest: size for size, rest in _coefficients(_positive(expression))}
    parts = [(c, rest) for c, rest in _coefficients(expression) if abs(c) > _CANCELLED * sizes.get(rest, 0)]
    return sympy.Add(*(c * rest for c, rest in parts))


def _coefficients(expression: sympy.Expr) -> list[tuple[sympy.Expr, sympy.Expr]]:
    return [part.as_coeff_Mul() for part in sympy.Add.make_args(sympy.expand(expression))]


def _positive(expression: sympy.Expr) -> sympy.Expr:
    """The expression with the absolute values of the numbers that `sympy.expand` adds up."""
    if expression.is_Number:
        return abs(expression)
    power = expression.is_Pow and expression.exp.is_Integer and expression.exp > 0
    if expression.is_Add or expression.is_Mul:
        return expression.func(*map(_positive, expression.args))
    return _positive(expression.base) ** expression.exp if power else expression


def values(expression: sympy.Expr, symbols: list[sympy.Symbol]) -> npt.NDArray:
    """Values at 100 random points, half of them with positive coordinates alone."""
    points = np.random.default_rng(0).uniform(-2, 2, (100, len(symbols)))
    points[::2] = abs(points[::2])
    return numpy_function([expression], symbols)(points)
