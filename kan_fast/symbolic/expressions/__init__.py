"""Formulas in sympy: their normal form, recognised constants, simplification, and source code."""
