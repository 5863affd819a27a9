"""Formulas in few digits: as many as keep the values that a formula has on samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import sympy
import torch

from kan_fast._support import samples
from kan_fast.symbolic.expressions.large import is_float64, replace, replace_numbers
from kan_fast.symbolic.expressions.source import numpy_function

_ALL = 17  # significant digits that tell each float64 from all others
_NOISE = 1e-12  # change of values, in units of their deviation, that may be rounding of their computation
_ROWS = 1000  # samples that are enough to measure a change
_LONG = 1e15  # whole numbers from which on a power of ten is shorter, and what sympy prints
_SIZES = 12  # powers of ten up to which inputs count where nothing is known of them
_INFINITE = sympy.oo, -sympy.oo, sympy.zoo, sympy.nan, sympy.AccumBounds
_FOLDS = 5  # times that sympy may make new numbers of rounded ones


def rounded(
    expression: sympy.Expr,
    digits: int,
    symbols: Sequence[sympy.Symbol] = (),
    points: npt.NDArray[Any] | None = None,
    *,
    places: bool = False,
) -> sympy.Expr:
    """The expression with every Float in few digits, and as an Integer if it is whole then; other numbers stay.

    With points, the values there change by at most `10^(1 - digits)`, or 1e-12 if that is more: the root of the mean
    squared change, in units of the standard deviation of the values (of the largest value, if all are the same). Where
    the expression has a value, the result has one. To that end

    * terms of sums go if all of them together count less than half a unit of the digit after the last one;
    * a number keeps more than `digits` significant digits if fewer would change values by more than half of the above.

    Without points, or if the expression has no values there, each number keeps `digits` significant digits, whatever
    that does to values. Of terms only numbers go, and only if they count less than that for all inputs from 1e-12 to
    1e12, as the rounding errors of an exact fit do: other tiny numbers may matter, since units are not known.

    Args:
        expression: a formula.
        digits: significant digits, at least 1.
        symbols: symbols of the columns of `points`, all that the expression has.
        points: samples `(n, len(symbols))`; up to 1,000 of them, evenly spread, are looked at.
        places: whether numbers above 1 keep `digits` digits after the decimal point.
    """
    allowed = max(10.0 ** (1 - digits), _NOISE)
    values = None if points is None else _Values.near(expression, symbols, points)
    if values is None:
        return _blindly(expression, digits, places, allowed / 20)
    for finer in range(_ALL):
        tolerance = allowed / 2 / 10**finer
        form = _in_few_digits(_without_small_terms(expression, values, tolerance / 10), values, digits, tolerance)
        if values.change(values.values, _evaluated(form, symbols, values.points)) <= allowed:
            return form
    return expression


def _blindly(expression: sympy.Expr, digits: int, places: bool, tolerance: float) -> sympy.Expr:
    """The expression with so many digits, without terms that change no value by more than `tolerance` of it."""
    values = _Values.anywhere(expression)
    if values is not None:
        some = tolerance / math.sqrt(len(values.values))
        expression = _without_small_terms(expression, values, some, numbers_alone=True)
    for _ in range(_FOLDS):
        expression = replace_numbers(expression, lambda number: _short(number, _digits(number, digits, places)))
    return expression


def _digits(number: float, digits: int, places: bool) -> int:
    """Significant digits of a number, with at least `digits` places after the point if `places`."""
    above = math.floor(math.log10(abs(number))) + 1 if places and abs(number) >= 1 else 0
    return max(1, digits + above)


def _short(number: float, digits: int) -> sympy.Expr:
    """The number in this many significant digits; as it is where that is beyond the largest number."""
    near = float(f"{number:.{digits - 1}e}")
    if math.isinf(near):
        return sympy.Float(number)
    return sympy.Integer(near) if near == round(near) and abs(near) < _LONG else sympy.Float(near)


class _Values(NamedTuple):
    """Points, and the values of a formula there, by which changes are measured."""

    symbols: Sequence[sympy.Symbol]
    points: npt.NDArray[Any]  # (n, symbols), those where the formula has a value
    values: npt.NDArray[Any]  # (n,)
    unit: npt.NDArray[Any] | float  # of changes

    @classmethod
    def near(cls, expression: sympy.Expr, symbols: Sequence[sympy.Symbol], points: npt.NDArray[Any]) -> _Values | None:
        """Changes in units of the deviation; None if the formula has no value, or only 0, at these points."""
        points = points[samples.evenly(len(points), _ROWS).numpy()]
        values = _evaluated(expression, symbols, points)
        points, values = points[np.isfinite(values)], values[np.isfinite(values)]
        if not values.any():
            return None
        constant = samples.are_constant(torch.from_numpy(values.copy())[:, None]).item()
        largest = float(abs(values).max())
        return cls(symbols, points, values, largest if constant else largest * float(np.std(values / largest)))

    @classmethod
    def anywhere(cls, expression: sympy.Expr) -> _Values | None:
        """Changes in units of each value, at inputs of all sizes; None if the formula has no value but 0 there."""
        symbols, random = sorted(expression.free_symbols, key=str), np.random.default_rng(0)
        points = 10 ** random.uniform(-_SIZES, _SIZES, (_ROWS, len(symbols)))
        points[::2] *= random.choice([-1, 1], points[::2].shape)
        values = _evaluated(expression, symbols, points)
        some = np.isfinite(values) & (values != 0)
        return cls(symbols, points[some], values[some], values[some]) if some.any() else None

    def change(self, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> float:
        """The root mean square of the change from some values `(n,)` to others; infinite if some are no numbers."""
        with np.errstate(all="ignore"):
            change = float(np.sqrt(np.mean(((after - before) / self.unit) ** 2)))
        return math.inf if math.isnan(change) else change


def _evaluated(expression: sympy.Expr, symbols: Sequence[sympy.Symbol], points: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values at points; NaN if they are no real numbers, or the formula has a function that numpy doesn't know."""
    try:
        values = numpy_function([expression], symbols)(points)[:, 0]
    except (NameError, TypeError, ValueError):
        values = np.full(len(points), np.nan)
    return values if np.isrealobj(values) else np.full(len(points), np.nan)


class _Open:
    """A formula whose numbers are parameters, and whose sums have a factor for each term: 1, or 0 without the term.

    Args:
        expression: the formula.
        values: points, and the unit of changes.
        before: values from which changes are measured; None for those of the formula.
    """

    def __init__(self, expression: sympy.Expr, values: _Values, before: npt.NDArray[Any] | None = None) -> None:
        self.numbers: dict[sympy.Float, sympy.Dummy] = {}
        self.terms: dict[tuple[sympy.Expr, sympy.Expr], sympy.Dummy] = {}  # by sum and term; outer sums first
        self._values = values
        self._built: dict[sympy.Expr, sympy.Expr] = {}
        with sympy.evaluate(False):
            self._form = self._build(expression)
        self._given = {dummy: number for number, dummy in self.numbers.items()}
        self._given |= dict.fromkeys(self.terms.values(), sympy.Integer(1))
        self._rows = {dummy: len(values.symbols) + row for row, dummy in enumerate(self._given)}
        rows = [np.full(len(values.points), float(number)) for number in self._given.values()]
        self._table = np.stack([*values.points.T, *rows])  # (symbols and parameters, n)
        self._function = numpy_function([self._form], [*values.symbols, *self._given])
        self._before = self._function(self._table.T)[:, 0] if before is None else before

    def _build(self, part: sympy.Expr) -> sympy.Expr:
        if part not in self._built:
            self._built[part] = self._opened(part)
        return self._built[part]

    def _opened(self, part: sympy.Expr) -> sympy.Expr:
        if is_float64(part):
            return self.numbers.setdefault(part, sympy.Dummy("number"))
        if not part.args:
            return part
        if not part.is_Add:
            return part.func(*map(self._build, part.args))
        factors = [self.terms.setdefault((part, term), sympy.Dummy("term")) for term in part.args]
        return sympy.Add(*(sympy.Mul(f, self._build(term)) for f, term in zip(factors, part.args, strict=True)))

    def allows(self, dummy: sympy.Dummy, number: float, tolerance: float, keep: bool = False) -> bool:
        """Whether values change by at most `tolerance` with this number for a parameter; it stays if `keep`."""
        row = self._table[self._rows[dummy]]
        old = row[0]
        row[:] = number
        allowed = self._values.change(self._before, self._function(self._table.T)[:, 0]) <= tolerance
        if not (allowed and keep):
            row[:] = old
        return allowed

    def closed(self, new: Mapping[sympy.Dummy, sympy.Expr]) -> sympy.Expr:
        """The formula with these parameters, evaluated by sympy; other parameters are as they were."""
        return replace(self._form, (self._given | dict(new)).get)


def _without_small_terms(
    expression: sympy.Expr, values: _Values, tolerance: float, numbers_alone: bool = False
) -> sympy.Expr:
    """The formula without terms that, all together, change its values by at most `tolerance`."""
    while expression.has(sympy.Add):
        formula = _Open(expression, values, values.values)
        small = [
            factor
            for (_, term), factor in formula.terms.items()
            if not (numbers_alone and term.free_symbols) and formula.allows(factor, 0.0, tolerance, keep=True)
        ]
        rest = formula.closed(dict.fromkeys(small, sympy.Integer(0)))
        if not small or rest.has(*_INFINITE):  # numpy's arctan(1 / 0) is a number, sympy's is not
            break
        expression = rest
    return expression


def _in_few_digits(expression: sympy.Expr, values: _Values, digits: int, tolerance: float) -> sympy.Expr:
    """The formula with numbers in the fewest digits, at least `digits`, that change its values by at most `tolerance`.

    That is repeated where sympy makes other numbers of them, such as 1.5**2.
    """
    done: set[sympy.Float] = set()
    for _ in range(_FOLDS):
        if not set(filter(is_float64, expression.atoms(sympy.Float))) - done:
            break
        formula = _Open(expression, values)
        new = {}
        for number, dummy in formula.numbers.items():
            short = (_short(float(number), count) for count in range(digits, _ALL + 1))
            new[dummy] = next((one for one in short if formula.allows(dummy, float(one), tolerance)), number)
        done.update(number for number in new.values() if isinstance(number, sympy.Float))
        expression = formula.closed(new)
    return expression
