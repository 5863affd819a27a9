"""Symbolic regression with KANs: functions for edges, formulas for networks."""

from kan_fast.symbolic.discovery import discover
from kan_fast.symbolic.formula import symbolic_formula
from kan_fast.symbolic.report import FormulaReport, formula_report
from kan_fast.symbolic.suggest import Suggestion, Suggestions, auto_symbolic, suggest_symbolic

__all__ = [
    "FormulaReport",
    "Suggestion",
    "Suggestions",
    "auto_symbolic",
    "discover",
    "formula_report",
    "suggest_symbolic",
    "symbolic_formula",
]
