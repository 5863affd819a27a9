"""Device functions: basis rows, computed in registers from x and the piece tables of `table.py`.

Numbers are float32, or float64 for float64 tensors.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kan_fast.ops.reference import sigmoid_polynomial

ROWS = 8  # of a block
_ROWS = tl.constexpr(ROWS)
_WOVEN = tl.constexpr((0, 4, 2, 6, 1, 5, 3, 7))  # the order in which joined neighbours become 0 .. 7


@triton.jit
def block_of_rows(first, values, other, v, DEGREE: tl.constexpr):
    """Rows 0 .. ROWS - 1 of a basis given by `local` for a tile (inputs, samples), times v: (samples, inputs, ROWS)."""
    rows = ()
    for j in tl.static_range(_ROWS):
        rows = rows + (select(_WOVEN[j], first, values, other, v, DEGREE),)
    for level in tl.static_range(3):
        joined = ()
        for j in tl.static_range(_ROWS >> (level + 1)):
            joined = joined + (tl.join(rows[2 * j], rows[2 * j + 1]),)
        rows = joined
    return tl.permute(tl.reshape(rows[0], (first.shape[0], first.shape[1], _ROWS)), (1, 0, 2))


@triton.jit
def select(row: tl.constexpr, first, values, other, v, DEGREE: tl.constexpr):
    """Row `row` of a basis given by `local`, times v."""
    result = other
    for j in tl.static_range(DEGREE + 1):
        result = tl.where(first == row - j, values[j] if v is None else values[j] * v, result)
    return result


@triton.jit
def local(
    x,
    table,
    inputs,
    ORDER: tl.constexpr,
    DEGREE: tl.constexpr,
    SIZE: tl.constexpr,
    DEPTH: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
):
    """The k + 1 splines that can differ from 0 at x.

    table: pointer to the tables of all inputs, each of 2^DEPTH pieces; inputs: their numbers, to be broadcast to x.
    Returns (first, values, other): rows first .. first + k have these values, all others `other`: 0, or NaN at NaN.
    """
    table += inputs.to(tl.int64) * ((3 + (DEGREE + 1) * (DEGREE + 1)) << DEPTH)
    piece = tl.zeros(x.shape, tl.int32)  # binary search for the number of left ends <= x
    for bit in tl.static_range(DEPTH):
        step = (1 << DEPTH) >> (bit + 1)
        piece = tl.where(x >= tl.load(table + (piece + (step - 1))), piece + step, piece)
    if EXTRAPOLATION != "linear" or ORDER > 0:  # constant beyond the grid, at infinity too
        huge: tl.constexpr = 1e308 if x.dtype == tl.float64 else 1e38  # beyond all knots; less any of them still finite
        x = tl.minimum(x, huge, propagate_nan=tl.PropagateNan.ALL)
        x = tl.maximum(x, -huge, propagate_nan=tl.PropagateNan.ALL)
    lookup = table + piece
    u = (x - tl.load(lookup + (1 << DEPTH))) * tl.load(lookup + (2 << DEPTH))
    values = ()
    for j in tl.static_range(DEGREE + 1):
        value = tl.load(lookup + ((3 + j * (DEGREE + 1) + DEGREE) << DEPTH))
        for m in tl.static_range(1, DEGREE + 1):
            value = value * u + tl.load(lookup + ((3 + j * (DEGREE + 1) + DEGREE - m) << DEPTH))
        values = values + (value,)
    if EXTRAPOLATION == "zero":
        first = piece - (DEGREE + 1)
    else:
        first = tl.minimum(tl.maximum(piece - 1, 0), SIZE - 1)
    return first, values, x * 0.0


@triton.jit
def base_function(x, BASE: tl.constexpr, ORDER: tl.constexpr, SILU: tl.constexpr):
    """The base function or its derivative. SILU: `silu_polynomials(ORDER)`."""
    if BASE == "zero" or (BASE == "identity" and ORDER > 1):
        value = x * 0.0
    elif BASE == "identity":
        value = x if ORDER == 0 else x * 0.0 + 1.0
    elif ORDER == 0:
        value = x / (1.0 + tl.exp(-x))
    else:  # silu = x s, so silu^(n) = x s^(n) + n s^(n-1)
        e = tl.exp(-tl.abs(x))
        tail = e / (1.0 + e)
        t = tl.where(x < 0, tail - 0.5, 0.5 - tail)
        outer, inner = _polynomial(t, SILU, 0, ORDER), _polynomial(t, SILU, ORDER, ORDER)
        value = tail * (1.0 - tail) * (x * outer + inner)
        if ORDER == 1:
            value += tl.where(x < 0, tail, 1.0 - tail)
    return value


@triton.jit
def _polynomial(t, coefficients: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """The polynomial in t with the coefficients FIRST .. FIRST + COUNT - 1, lowest power first."""
    value = t * 0.0 + coefficients[FIRST + COUNT - 1]
    for j in tl.static_range(1, COUNT):
        value = value * t + coefficients[FIRST + COUNT - 1 - j]
    return value


def silu_polynomials(order: int) -> tuple[float, ...]:
    """Coefficients of Q_d, then of d Q_(d-1), d = `order`; see `kan_fast.ops.reference.sigmoid_polynomial`.

    silu^(d) = x s^(d) + d s^(d-1). Q_0 counts as 0: the kernel adds s itself. One tuple: versions of Triton before 3.7
    pass no part of a tuple of tuples on.
    """
    if order < 2:
        return 1.0, 0.0
    return *sigmoid_polynomial(order), *(order * c for c in sigmoid_polynomial(order - 1)), 0.0
