"""Double-double arithmetic on tensors: numbers of 106 bits as sums of two float64.

Each operation is a sequence of float64 additions and multiplications whose rounding errors are found exactly, so that
results are the same on every processor. T. J. Dekker, "A floating-point technique for extending the available
precision" (1971); D. E. Knuth, The Art of Computer Programming 2, section 4.2.2. Numbers must be finite and below
2^900, and products above 2^-900 keep all their digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

SPLITTER = 2.0**27 + 1


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The rounded sum and its rounding error: they add up to a + b exactly."""
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


def two_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The rounded product and its rounding error: they add up to a * b exactly. No fused multiply-add is assumed."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _halves(a: Tensor) -> tuple[Tensor, Tensor]:
    """Two numbers of 26 bits, whose products float64 holds."""
    wide = SPLITTER * a
    high = wide - (wide - a)
    return high, a - high


@dataclass(frozen=True, slots=True)
class DoubleDouble:
    """high + low, with |low| at most half a unit in the last place of high. Broadcasts as tensors do."""

    high: Tensor
    low: Tensor

    @classmethod
    def of(cls, value: Any) -> DoubleDouble:
        """A number, tensor or DoubleDouble; fractions and long integers are rounded to 106 bits."""
        if isinstance(value, DoubleDouble):
            return value
        if isinstance(value, Tensor):
            return cls(value.double(), torch.zeros_like(value, dtype=torch.float64))
        high = float(value)
        parts = (high, float(Fraction(value) - Fraction(high)))
        return cls(*(torch.tensor(part, dtype=torch.float64) for part in parts))

    @property
    def shape(self) -> torch.Size:
        return self.high.shape

    def __getitem__(self, index: Any) -> DoubleDouble:
        return DoubleDouble(self.high[index], self.low[index])

    def __neg__(self) -> DoubleDouble:
        return DoubleDouble(-self.high, -self.low)

    def __add__(self, other: Any) -> DoubleDouble:
        other = DoubleDouble.of(other)
        high, error = two_sum(self.high, other.high)
        low, rest = two_sum(self.low, other.low)
        high, error = two_sum(high, error + low)
        return DoubleDouble(*two_sum(high, error + rest))

    def __sub__(self, other: Any) -> DoubleDouble:
        return self + -DoubleDouble.of(other)

    def __mul__(self, other: Any) -> DoubleDouble:
        other = DoubleDouble.of(other)
        high, error = two_product(self.high, other.high)
        return DoubleDouble(*two_sum(high, error + (self.high * other.low + self.low * other.high)))

    def __truediv__(self, other: Any) -> DoubleDouble:
        """By long division: each quotient of float64 is followed by that of what it leaves."""
        other = DoubleDouble.of(other)
        first = self.high / other.high
        rest = self - other * first
        second = rest.high / other.high
        third = (rest - other * second).high / other.high
        return DoubleDouble(*two_sum(*two_sum(first, second))) + third

    def abs(self) -> DoubleDouble:
        return self.map(lambda t: torch.where(self.high < 0, -t, t))

    def where(self, condition: Tensor) -> DoubleDouble:
        """The numbers where `condition` holds and 0 elsewhere."""
        return self.map(lambda t: torch.where(condition, t, 0.0))

    def map(self, function: Callable[[Tensor], Tensor]) -> DoubleDouble:
        """A function that rearranges tensors, of both parts."""
        return DoubleDouble(function(self.high), function(self.low))

    def sum(self, dim: int) -> DoubleDouble:
        """Along one dimension, by adding halves."""
        terms = self.map(lambda t: t.movedim(dim, 0))
        while (count := len(terms.high)) > 1:
            half = (count + 1) // 2
            folded = terms[: count - half] + terms[half:]
            terms = concatenate([folded, terms[count - half : half]], 0)  # the middle one if the count is odd
        return terms[0] if count else terms.map(lambda t: t.sum(0))

    def error_of(self, result: Tensor) -> Tensor:
        """`|result - self|`, rounded to float64 once the difference is taken."""
        return ((result.double() - self.high) - self.low).abs()


def concatenate(parts: Sequence[DoubleDouble], dim: int) -> DoubleDouble:
    """As torch.cat."""
    return DoubleDouble(torch.cat([p.high for p in parts], dim), torch.cat([p.low for p in parts], dim))


def stack(parts: Sequence[DoubleDouble]) -> DoubleDouble:
    """As torch.stack."""
    return concatenate([p[None] for p in parts], 0)


def exp(x: Tensor) -> DoubleDouble:
    """Of float64 numbers in [-700, 700]: 2^k exp(r / 256)^256, |r| <= log(2) / 2, to 1e-27 of it above exp(-600)."""
    doublings = (x / math.log(2)).round()
    rest = (DoubleDouble.of(x) - LOG_2 * doublings) * 2.0**-8
    value = DoubleDouble.of(torch.ones_like(rest.high))
    for n in range(11, 0, -1):  # the next term is below 2^-106
        value = rest * value * DoubleDouble.of(Fraction(1, n)) + 1.0
    for _ in range(8):
        value = value * value
    return value.map(lambda t: t * power_of_two(doublings))


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent, exact for whole exponents from -1022 to 1023: its bits, since no library's pow promises them."""
    return ((exponent.long() + 1023) << 52).view(torch.float64)


# log(2) to 106 bits, as float64 numbers.
LOG_2 = DoubleDouble(
    torch.tensor(float.fromhex("0x1.62e42fefa39efp-1"), dtype=torch.float64),
    torch.tensor(float.fromhex("0x1.abc9e3b39803fp-56"), dtype=torch.float64),
)
