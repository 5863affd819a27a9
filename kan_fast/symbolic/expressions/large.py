"""Building large expressions without sympy's search for identities, which would take seconds."""

from __future__ import annotations

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


Numbers = Callable[[float], sympy.Expr]


def replace_numbers(expression: sympy.Expr, new: Numbers, exponential: Numbers | None = None) -> sympy.Expr:
    """The expression with `new(number)` for every Float, or `exponential(number)` if it is a factor of an exp(...)."""
    done: dict[sympy.Expr, sympy.Expr] = {}

    def build(part: sympy.Expr) -> sympy.Expr:
        if part not in done:
            done[part] = new(float(part)) if isinstance(part, sympy.Float) else compose(part)
        return done[part]

    def compose(part: sympy.Expr) -> sympy.Expr:
        parts = [build(child) for child in part.args]
        if exponential and part.is_Mul and part.args[0].is_Float and any(isinstance(p, sympy.exp) for p in part.args):
            parts[0] = exponential(float(part.args[0]))
        if parts == list(part.args):
            return part
        if isinstance(part, sympy.Function) and not all(map(is_small, parts)):
            return part.func(*parts, evaluate=False)
        return part.func(*parts)

    return build(expression)


def is_small(expression: sympy.Expr) -> bool:
    """Whether the expression has few parts."""
    return sum(1 for _ in islice(sympy.preorder_traversal(expression), _SMALL)) < _SMALL
