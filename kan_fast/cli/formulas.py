"""Formulas of models of tables, written in several languages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy

from kan_fast.symbolic.code import c_source, latex, numpy_source

DIGITS = 5  # of numbers in formulas that are to be read

Formulas = tuple[list[Any], list[Any], list[str]]  # expressions, symbols, and what each expression is called


def short(expression: Any) -> Any:
    """An expression with fewer digits, to be read."""
    return expression.xreplace({number: sympy.Float(number, DIGITS) for number in expression.atoms(sympy.Float)})


def text(found: Formulas) -> str:
    """A line for each formula."""
    return "\n".join(f"{name} = {short(expression)}" for expression, name in zip(found[0], found[2], strict=True))


def _latex(found: Formulas) -> str:
    names = [rf"\text{{{name}}}".replace("_", r"\_") for name in found[2]]
    return latex([short(expression) for expression in found[0]], names)


def _python(found: Formulas) -> str:
    return numpy_source(found[0], found[1])


def _c(found: Formulas) -> str:
    return c_source(found[0], found[1])


FORMATS: dict[str, Callable[[Formulas], str]] = {"text": text, "latex": _latex, "python": _python, "c": _c}
