"""Building large expressions without sympy's search for identities, which would take seconds."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice

import sympy

_SMALL = 40  # parts of an expression, up to which sympy's search for identities is quick
_Z = sympy.Dummy("z")


def call(function: Callable[[sympy.Expr], sympy.Expr], argument: sympy.Expr) -> sympy.Expr:
    """`function(argument)`."""
    if is_small(argument):
        return function(argument)
    form = function(_Z)
    with sympy.evaluate(False):
        return form.xreplace({_Z: argument})


def replace_numbers(expression: sympy.Expr, new: Callable[[float], sympy.Expr]) -> sympy.Expr:
    """The expression with `new(number)` for every Float that float64 holds."""
    return replace(expression, lambda part: new(float(part)) if is_float64(part) else None)


def replace(expression: sympy.Expr, new: Callable[[sympy.Expr], sympy.Expr | None]) -> sympy.Expr:
    """The expression with `new(part)` for every part for which that is not None; what holds such parts is evaluated."""
    done: dict[sympy.Expr, sympy.Expr] = {}

    def build(part: sympy.Expr) -> sympy.Expr:
        if part not in done:
            found = new(part)
            done[part] = compose(part) if found is None else found
        return done[part]

    def compose(part: sympy.Expr) -> sympy.Expr:
        parts = [build(child) for child in part.args]
        if parts == list(part.args):
            return part
        if isinstance(part, sympy.Function) and not all(map(is_small, parts)):
            return part.func(*parts, evaluate=False)
        whole = part.func(*parts)
        return whole.replace(sympy.re, lambda z: z) if isinstance(part, sympy.Abs) else whole  # |exp(x)| is exp(re(x))

    return build(expression)


def is_float64(part: sympy.Expr) -> bool:
    """Whether the expression is a Float that is neither too large nor too small for a number of Python."""
    return isinstance(part, sympy.Float) and math.isfinite(float(part)) and bool(float(part)) == bool(part)


def is_small(expression: sympy.Expr) -> bool:
    """Whether the expression has few parts."""
    return sum(1 for _ in islice(sympy.preorder_traversal(expression), _SMALL)) < _SMALL
