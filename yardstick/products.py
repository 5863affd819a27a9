"""Products of matrices in double-double arithmetic by float64 products that are exact in any order of summation.

Operands are cut into slices of so few bits that a product of slices and its sum over the inner dimension are whole
numbers below 2^53: no BLAS, however it sums, rounds them. K. Ozaki, T. Ogita, S. Oishi, S. M. Rump, "Error-free
transformations of matrix multiplication by using fast routines of matrix multiplication" (2012).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from yardstick.double_double import DoubleDouble, power_of_two

BITS = 96  # of each operand, relative to the largest number of its row (left) or column (right)


def matmul(a: Any, b: Any) -> DoubleDouble:
    """`a @ b`, to `inner * 2^-94` of the largest number of a row of a times the largest of a column of b.

    Args:
        a: `(..., m, inner)`, a tensor or DoubleDouble; finite.
        b: `(..., inner, n)`.
    """
    a, b = DoubleDouble.of(a), DoubleDouble.of(b)
    inner = a.shape[-1]
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    total = DoubleDouble.of(torch.zeros(*batch, a.shape[-2], b.shape[-1], dtype=torch.float64))
    if not total.high.numel() or not inner:
        return total
    width, count = _slicing(inner)
    left, left_scale = _slices(a, -1, width, count)
    right, right_scale = _slices(b, -2, width, count)
    for order in reversed(range(count)):  # the smallest first
        pairs = range(max(0, order - len(right) + 1), min(order + 1, len(left)))
        whole = sum((left[s] @ right[order - s] for s in pairs), torch.zeros_like(total.high))
        total = total + whole * 2.0 ** (-width * (order + 2))
    return total.map(lambda t: t * left_scale * right_scale)


def _slicing(inner: int) -> tuple[int, int]:
    """Bits of a slice and number of slices: `count * inner` products of two slices stay below 2^53."""
    count = 1
    while True:
        width = (53 - math.ceil(math.log2(count * inner))) // 2
        if width * count >= BITS:
            return width, count
        count += 1


def _slices(a: DoubleDouble, dim: int, width: int, count: int) -> tuple[list[Tensor], Tensor]:
    """Whole numbers n_s, none above 2^width, and a power of two with a = scale * sum_s n_s 2^(-width (s + 1))."""
    exponent = torch.frexp(a.high.abs().amax(dim, keepdim=True)).exponent.clamp(-1000, 1000)
    down = power_of_two(-exponent)
    rests = [part * down for part in (a.high, a.low) if part.any()]
    slices: list[Tensor] = []
    while len(slices) < count and any(rest.any() for rest in rests):
        slices.append(torch.zeros_like(a.high))
        for rest in rests:
            rest *= 2.0**width
            whole = rest.round()
            rest -= whole
            slices[-1] += whole
    return slices, power_of_two(exponent)
