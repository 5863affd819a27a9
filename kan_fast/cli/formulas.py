"""Formulas of models of tables, written in several languages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy.typing as npt
import sympy
from sympy.printing.mathml import MathMLPresentationPrinter

from kan_fast.symbolic.expressions import source
from kan_fast.symbolic.expressions.rounding import rounded
from kan_fast.symbolic.expressions.source import c_source, escaped, latex, numpy_source

DIGITS = 5  # digits of numbers in formulas that are to be read


class Formulas(NamedTuple):
    """The formulas of a model."""

    exact: list[sympy.Expr]
    symbols: list[sympy.Symbol]
    names: list[str]  # name of each formula
    points: npt.NDArray[Any]  # (n, symbols), typical features

    @property
    def brief(self) -> list[sympy.Expr]:
        """The formulas for readers: few digits, and no terms that are too small to be seen in these."""
        return [rounded(expression, DIGITS, self.symbols, self.points) for expression in self.exact]


def text(found: Formulas) -> str:
    """A line for each formula."""
    return "\n".join(f"{name} = {source.text(brief)}" for name, brief in zip(found.names, found.brief, strict=True))


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
