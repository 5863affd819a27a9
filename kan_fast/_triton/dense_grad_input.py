"""The gradient in the input: a matrix product of g with packed coefficients, times the basis, summed over rows."""

from __future__ import annotations

import triton
import triton.language as tl

from kan_fast._triton.basis import ROWS, base_function, tile

_ROWS = tl.constexpr(ROWS)


@triton.jit(do_not_specialize=["batch"])
def grad_input_kernel(
    x_ptr,  # (batch, in)
    g_ptr,  # (batch, out)
    spline_ptr,  # (blocks, out, in * ROWS) with strides, or None
    base_ptr,  # (out, in) or None
    table_ptr,
    gx_ptr,  # (splits, batch, in)
    batch,
    n_in,
    n_out,
    splits,
    stride_out,  # of spline_ptr
    stride_column,
    BLOCKS: tl.constexpr,
    ORDER: tl.constexpr,
    DEGREE: tl.constexpr,
    SIZE: tl.constexpr,
    DEPTH: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    BASE: tl.constexpr,
    SILU: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,  # samples per tile
    BN: tl.constexpr,  # columns per tile: BN / ROWS inputs
    BK: tl.constexpr,  # outputs per step
):
    BI: tl.constexpr = BN // _ROWS
    tiles_i = tl.cdiv(n_in, BI)
    first = tl.program_id(0) % tiles_i * BI
    m = (tl.program_id(0) // tiles_i).to(tl.int64) * BM + tl.arange(0, BM)
    i = first + tl.arange(0, BI)
    column = first * _ROWS + tl.arange(0, BN)
    split = tl.program_id(1)
    samples, inputs, columns = m < batch, i < n_in, column < n_in * _ROWS
    compute: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    steps = tl.cdiv(n_out, BK)
    start, stop = steps * split // splits, steps * (split + 1) // splits
    inside = samples[:, None] & inputs[None, :]
    gx = tl.zeros((BM, BI), compute)

    if spline_ptr is not None:
        for block in range(BLOCKS):
            acc = tl.zeros((BM, BN), compute)
            for t in range(start, stop):
                o = t * BK + tl.arange(0, BK)
                g = tl.load(
                    g_ptr + m[:, None] * n_out + o[None, :], mask=samples[:, None] & (o < n_out)[None, :], other=0.0
                )
                weight = (
                    spline_ptr
                    + (tl.cast(block, tl.int64) * n_out * n_in * _ROWS + o.to(tl.int64) * stride_out)[:, None]
                )
                w = tl.load(
                    weight + column.to(tl.int64)[None, :] * stride_column,
                    mask=(o < n_out)[:, None] & columns[None, :],
                    other=0.0,
                )
                acc = tl.dot(g, w, acc, input_precision=PRECISION, out_dtype=compute)
            x = tl.load(x_ptr + m[:, None] * n_in + i[None, :], mask=inside, other=0.0).to(compute)
            rows = tile(
                x, None, table_ptr, tl.minimum(i, n_in - 1)[None, :], block, compute, ORDER, DEGREE, SIZE, DEPTH,
                EXTRAPOLATION,
            )  # fmt: skip
            gx += tl.sum(tl.reshape(acc * rows, (BM, BI, _ROWS)), 2)

    if base_ptr is not None:
        acc = tl.zeros((BM, BI), compute)
        for t in range(start, stop):
            o = t * BK + tl.arange(0, BK)
            g = tl.load(
                g_ptr + m[:, None] * n_out + o[None, :], mask=samples[:, None] & (o < n_out)[None, :], other=0.0
            )
            w = tl.load(
                base_ptr + o.to(tl.int64)[:, None] * n_in + i[None, :],
                mask=(o < n_out)[:, None] & inputs[None, :],
                other=0.0,
            )
            acc = tl.dot(g, w, acc, input_precision=PRECISION, out_dtype=compute)
        x = tl.load(x_ptr + m[:, None] * n_in + i[None, :], mask=inside, other=0.0).to(compute)
        gx += acc * base_function(x, BASE, ORDER, SILU)

    out = gx_ptr + (split.to(tl.int64) * batch + m)[:, None] * n_in + i[None, :]
    tl.store(out, gx.to(gx_ptr.dtype.element_ty), mask=inside)
