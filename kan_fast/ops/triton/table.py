"""Piece tables: every span of every grid, compiled once per call into polynomials that the other kernels look up.

The line is cut into pieces: the spans, and what lies beyond the first and the last of them. Piece p of input i has an
expansion point x0, a scale and k + 1 polynomials in (x - x0) * scale, one for each row that is not 0 there. Derivative
order and extrapolation are folded in, so no kernel branches on them. A table of input i is `(lines, pieces)`: the
pieces' left ends (NaN where there is none, for the search), x0, scale, and the (k + 1)^2 coefficients, by row, then by
power; equal quantities of neighbouring pieces lie side by side, so a warp that looks up pieces of one input reads one
or two cache lines.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kan_fast.ops.contract import Rows, Spec


def pieces(size: int, spec: Spec) -> int:
    """Pieces of a grid of `size` intervals, rounded up to a power of two."""
    spans = size + 2 * spec.degree if spec.extrapolation == "zero" else size
    return triton.next_power_of_2(spans + 2)


def build(rows: Rows) -> Tensor:
    """The tables of all inputs, `(in, 3 + (k + 1)^2, pieces)`."""
    grid, order, spec = rows
    k = spec.degree
    size = rows.splines - k
    table = torch.empty(len(grid), 3 + (k + 1) ** 2, pieces(size, spec), dtype=grid.dtype, device=grid.device)
    smooth = {"zero": -1, "clamp": 0, "linear": 1}[spec.extrapolation]
    block = max(1, 256 // table.shape[2])
    build_kernel[(triton.cdiv(len(grid), block),)](
        grid.contiguous(), table, len(grid),
        ORDER=order, DEGREE=k, SIZE=size, SMOOTH=smooth, PIECES=table.shape[2], BLOCK=block, enable_fp_fusion=True,
    )  # fmt: skip
    return table


@triton.jit
def build_kernel(
    grid_ptr,
    table_ptr,
    n_in,
    ORDER: tl.constexpr,
    DEGREE: tl.constexpr,
    SIZE: tl.constexpr,  # G
    SMOOTH: tl.constexpr,  # degree of the extrapolating polynomial; -1: none, the splines fade out
    PIECES: tl.constexpr,
    BLOCK: tl.constexpr,  # inputs per program
):
    FIRST: tl.constexpr = 0 if SMOOTH < 0 else DEGREE  # the knots that separate pieces: FIRST .. LAST
    LAST: tl.constexpr = SIZE + 2 * DEGREE - FIRST
    i = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)[:, None]
    inside = i < n_in
    piece = tl.arange(0, PIECES)[None, :]
    knots = grid_ptr + tl.minimum(i, n_in - 1) * (SIZE + 2 * DEGREE + 1)
    table = table_ptr + i * ((3 + (DEGREE + 1) * (DEGREE + 1)) * PIECES) + piece

    # lane p holds the left end of piece p + 1; the end of the grid range belongs to the span on its left
    end = FIRST + piece
    left = tl.load(knots + tl.minimum(end, LAST))
    left = tl.where(end == SIZE + DEGREE, _next_after(left), left)
    tl.store(table, tl.where(end <= LAST, left, float("nan")), mask=inside)

    real = (piece > 0) & (piece <= LAST - FIRST)  # a span, not what lies beyond
    span = tl.minimum(tl.maximum(FIRST + piece - 1, FIRST), LAST - 1)
    near = ()  # knots span - k .. span + k + 1
    for j in tl.static_range(2 * DEGREE + 2):
        near = near + (tl.load(knots + tl.minimum(tl.maximum(span - DEGREE + j, 0), SIZE + 2 * DEGREE)),)
    start = tl.load(knots + span)
    stop = tl.load(knots + span + 1)
    point = tl.where(real, start + (stop - start) * 0.5, tl.where(piece == 0, start, stop))
    scale = tl.where(real, 1.0 / (stop - start), 1.0)
    smooth = tl.where(real, DEGREE, min(SMOOTH, DEGREE))  # derivatives above this order are 0
    tl.store(table + PIECES, point, mask=inside)
    tl.store(table + 2 * PIECES, scale, mask=inside)

    # in float64: these are few numbers, and all results inherit their errors
    exact = ()
    for j in tl.static_range(2 * DEGREE + 2):
        exact = exact + (near[j].to(tl.float64),)
    rate = scale.to(tl.float64)
    power = rate * 0.0 + 1.0  # rate^ORDER / m!
    for _ in tl.static_range(ORDER if ORDER < DEGREE else DEGREE):
        power = power * rate
    for m in tl.static_range(DEGREE + 1):
        # min() of constants, or a variable that holds one, is no constant before Triton 3.6
        values = _taylor(exact, point.to(tl.float64), rate, ORDER + m if ORDER + m < DEGREE else DEGREE, DEGREE)
        for j in tl.static_range(DEGREE + 1):
            exists = (span - DEGREE + j >= 0) & (span - DEGREE + j < SIZE + DEGREE) & (ORDER + m <= smooth)
            line = 3 + j * (DEGREE + 1) + m
            tl.store(table + line * PIECES, tl.where(exists, values[j] * power, 0.0).to(point.dtype), mask=inside)
        power = power / (m + 1)


@triton.jit
def _taylor(near, x, rate, order: tl.constexpr, DEGREE: tl.constexpr):
    """Derivatives of the k + 1 splines of a span at x, by the Cox-de Boor recursion; junk for rows that don't exist.

    They are those in x * rate: with the reciprocal of the span's width no number is far from 1.
    near: the knots span - k .. span + k + 1.
    """
    zero = x * 0.0
    values = (zero + 1.0,)
    for p in tl.static_range(1, DEGREE + 1):
        scaled = (zero,)  # values[j - 1] / (t[span + j] - t[span + j - p]), and 0 at either end
        for j in tl.static_range(1, p + 1):
            width = near[DEGREE + j] - near[DEGREE + j - p]
            width = tl.where(width > 0, width, 1.0)
            if p > DEGREE - order:
                width = width * rate
            scaled = scaled + (values[j - 1] / width,)
        scaled = scaled + (zero,)
        values = ()
        for j in tl.static_range(p + 1):
            if p <= DEGREE - order:
                up, down = x - near[DEGREE + j - p], near[DEGREE + j + 1] - x
                values = values + (up * scaled[j] + down * scaled[j + 1],)
            else:
                values = values + (p * (scaled[j] - scaled[j + 1]),)
    return values


@triton.jit
def _next_after(x):
    """The next larger number."""
    if x.dtype == tl.float64:
        bits = x.to(tl.int64, bitcast=True)
    else:
        bits = x.to(tl.int32, bitcast=True)
    bits = tl.where(x > 0, bits + 1, tl.where(x < 0, bits - 1, 1))
    return bits.to(x.dtype, bitcast=True)
