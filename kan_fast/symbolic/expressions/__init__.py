"""Formulas in sympy: normal form, constants, shorter forms, source code."""
