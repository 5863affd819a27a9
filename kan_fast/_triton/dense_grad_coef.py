"""The gradient in the coefficients: g transposed times a basis tile, summed over the batch without atomics."""

from __future__ import annotations

import triton
import triton.language as tl

from kan_fast._triton.basis import ROWS, base_function, tile

_ROWS = tl.constexpr(ROWS)


@triton.jit(do_not_specialize=["batch"])
def grad_coef_kernel(
    x_ptr,  # (batch, in)
    v_ptr,  # (batch, in) or None
    g_ptr,  # (batch, out)
    table_ptr,  # None: the base row instead of the spline rows
    gc_ptr,  # (splits, out, in, rows)
    batch,
    n_in,
    n_out,
    rows,
    splits,
    BLOCKS: tl.constexpr,
    ORDER: tl.constexpr,
    DEGREE: tl.constexpr,
    SIZE: tl.constexpr,
    DEPTH: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    BASE: tl.constexpr,
    SILU: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,  # outputs per tile
    BN: tl.constexpr,  # columns per tile: BN / ROWS inputs of the splines, BN of the base function
    BK: tl.constexpr,  # samples per step
):
    WIDTH: tl.constexpr = 1 if table_ptr is None else _ROWS
    BI: tl.constexpr = BN // WIDTH
    tiles_n = tl.cdiv(n_in, BI) * BLOCKS
    o = (tl.program_id(0) // tiles_n).to(tl.int64) * BM + tl.arange(0, BM)
    tile_n = tl.program_id(0) % tiles_n
    first, block = tile_n // BLOCKS * BI, tile_n % BLOCKS
    split = tl.program_id(1)
    compute: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    outputs = o < n_out
    acc = tl.zeros((BM, BN), compute)

    steps = tl.cdiv(batch, BK)
    start, stop = (
        (steps.to(tl.int64) * split // splits).to(tl.int32),
        (steps.to(tl.int64) * (split + 1) // splits).to(tl.int32),
    )
    # the basis of step t + 1 is made while the matrix product of step t runs
    a = _tile(
        x_ptr, v_ptr, table_ptr, start, first, block, batch, n_in, compute, ORDER, DEGREE, SIZE, DEPTH, EXTRAPOLATION,
        BASE, SILU, BI, BK,
    )  # fmt: skip
    for t in range(start, stop):
        b = t * BK + tl.arange(0, BK)
        g = tl.load(
            g_ptr + b.to(tl.int64)[None, :] * n_out + o[:, None],
            mask=outputs[:, None] & (b < batch)[None, :],
            other=0.0,
        )
        acc = tl.dot(g, a, acc, input_precision=PRECISION, out_dtype=compute)
        a = _tile(
            x_ptr, v_ptr, table_ptr, t + 1, first, block, batch, n_in, compute, ORDER, DEGREE, SIZE, DEPTH,
            EXTRAPOLATION, BASE, SILU, BI, BK,
        )  # fmt: skip

    column = tl.arange(0, BN)
    i, row = first + column // WIDTH, block * WIDTH + column % WIDTH
    out = gc_ptr + ((split.to(tl.int64) * n_out + o)[:, None] * n_in + i[None, :]) * rows + row[None, :]
    tl.store(out, acc.to(gc_ptr.dtype.element_ty), mask=outputs[:, None] & (i < n_in)[None, :] & (row < rows)[None, :])


@triton.jit
def _tile(
    x_ptr,
    v_ptr,
    table_ptr,
    t,
    first,
    block,
    batch,
    n_in,
    compute: tl.constexpr,
    ORDER: tl.constexpr,
    DEGREE: tl.constexpr,
    SIZE: tl.constexpr,
    DEPTH: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    BASE: tl.constexpr,
    SILU: tl.constexpr,
    BI: tl.constexpr,
    BK: tl.constexpr,
):
    b = t * BK + tl.arange(0, BK)
    i = first + tl.arange(0, BI)[None, :]
    inside = (b < batch)[:, None] & (i < n_in)
    at = b.to(tl.int64)[:, None] * n_in + i
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(compute)
    v = None
    if v_ptr is not None:
        v = tl.load(v_ptr + at, mask=inside, other=0.0).to(compute)
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    if table_ptr is None:
        value = base_function(x, BASE, ORDER, SILU)
        result = (value if v is None else value * v).to(dtype)
    else:
        i = tl.minimum(i, n_in - 1)
        result = tile(x, v, table_ptr, i, block, dtype, ORDER, DEGREE, SIZE, DEPTH, EXTRAPOLATION)
    return result
