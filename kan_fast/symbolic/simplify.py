"""Shorter forms of formulas by sympy, checked by numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import sympy

from kan_fast.symbolic.code import numpy_function

_CANCELLED = 1e-13  # coefficients that are smaller, relative to the largest, are what rounding leaves of 0
_SAME = 1e-9  # relative difference of values


def shortest(expression: sympy.Expr) -> sympy.Expr:
    """The shortest of an expression and what sympy's expand, factor_terms and simplify make of it.

    Forms that don't have its values, to nine digits, at 100 random points are left out.
    """
    expanded = without_rounding(sympy.expand(expression))
    forms = [expanded, sympy.factor_terms(expanded), sympy.simplify(expression), sympy.simplify(expanded)]
    forms = [
        form.xreplace({sympy.Float(1.0): sympy.Integer(1), sympy.Float(-1.0): sympy.Integer(-1)}) for form in forms
    ]
    symbols = sorted(expression.free_symbols, key=str)
    expected = values(expression, symbols)
    for form in sorted(forms, key=lambda form: form.count_ops()):
        if form.count_ops() >= expression.count_ops():
            break
        if np.isfinite(expected).any() and np.allclose(values(form, symbols), expected, _SAME, _SAME, equal_nan=True):
            return form
    return expression


def without_rounding(expression: sympy.Expr) -> sympy.Expr:
    """A sum without the terms whose coefficients are nothing but rounding errors."""
    parts = [part.as_coeff_Mul() for part in sympy.Add.make_args(expression)]
    largest = max(abs(number) for number, _ in parts)
    return sympy.Add(*(number * rest for number, rest in parts if abs(number) > _CANCELLED * largest))


def values(expression: sympy.Expr, symbols: list[sympy.Symbol]) -> npt.NDArray:
    """At 100 points, half of them with positive coordinates alone."""
    points = np.random.default_rng(0).uniform(-2, 2, (100, len(symbols)))
    points[::2] = abs(points[::2])
    return numpy_function([expression], symbols)(points)
