"""Formulas of models of tables, written in several languages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import sympy
from sympy.printing.mathml import MathMLPresentationPrinter

from kan_fast.symbolic.expressions.simplify import without_rounding
from kan_fast.symbolic.expressions.source import c_source, escaped, latex, numpy_function, numpy_source

DIGITS = 5  # digits of numbers in formulas that are to be read
SAME = 1e-9  # change of values, in units of their deviation, that counts as none


class Formulas(NamedTuple):
    """The formulas of a model."""

    exact: list[sympy.Expr]
    symbols: list[sympy.Symbol]
    names: list[str]  # name of each formula
    points: npt.NDArray[Any]  # (n, symbols), typical features

    @property
    def brief(self) -> list[sympy.Expr]:
        """The formulas for readers: without terms that are rounding errors, if that keeps the values; few digits."""
        return [_short(self._tidy(expression)) for expression in self.exact]

    def _tidy(self, expression: sympy.Expr) -> sympy.Expr:
        tidy = expression.replace(lambda part: part.is_Add, without_rounding)
        before, after = (numpy_function([form], self.symbols)(self.points) for form in (expression, tidy))
        return tidy if np.allclose(after, before, 0, SAME * np.nanstd(before), equal_nan=True) else expression


def _short(expression: sympy.Expr) -> sympy.Expr:
    return expression.xreplace({number: _few_digits(number) for number in expression.atoms(sympy.Float)})


def _few_digits(number: sympy.Float) -> sympy.Expr:
    short = float(f"{float(number):.{DIGITS - 1}e}")
    return sympy.Integer(short) if short == round(short) and abs(short) < 10**DIGITS else sympy.Float(number, DIGITS)


def text(found: Formulas) -> str:
    """A line for each formula."""
    return "\n".join(f"{name} = {brief}" for name, brief in zip(found.names, found.brief, strict=True))


def mathml(expression: sympy.Expr) -> str:
    """The formula as MathML, without the enclosing `<math>` and `</math>`."""
    return _MathML().doprint(expression)


class _MathML(MathMLPresentationPrinter):
    """sympy's printer, except that an underscore in a name does not lower the rest of the name."""

    def _print_Symbol(self, symbol: sympy.Symbol, style: str = "plain") -> Any:
        name = self.dom.createElement("mi")
        name.appendChild(self.dom.createTextNode(symbol.name))
        return name


def _latex(found: Formulas) -> str:
    return latex(found.brief, [rf"\text{{{escaped(name)}}}" for name in found.names])


def _python(found: Formulas) -> str:
    return numpy_source(found.exact, found.symbols)


def _c(found: Formulas) -> str:
    return c_source(found.exact, found.symbols)


FORMATS: dict[str, Callable[[Formulas], str]] = {"text": text, "latex": _latex, "python": _python, "c": _c}
