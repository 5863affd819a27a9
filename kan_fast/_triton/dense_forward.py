"""The forward contraction as a matrix product: a basis tile made in registers times packed coefficients."""

from __future__ import annotations

import triton
import triton.language as tl

from kan_fast._triton.basis import ROWS, base_function, product, tile

_ROWS = tl.constexpr(ROWS)


@triton.jit(do_not_specialize=["batch"])
def forward_kernel(
    x_ptr,  # (batch, in)
    v_ptr,  # (batch, in) or None
    spline_ptr,  # (blocks, out, in, ROWS), or None
    base_ptr,  # (out, in) or None
    bias_ptr,  # (out,) or None
    table_ptr,
    y_ptr,  # (splits, batch, out)
    batch,
    n_in,
    n_out,
    splits,
    BLOCKS: tl.constexpr,  # blocks of ROWS spline rows
    ORDER: tl.constexpr,
    DEGREE: tl.constexpr,
    SIZE: tl.constexpr,
    DEPTH: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    BASE: tl.constexpr,
    SILU: tl.constexpr,
    PRECISION: tl.constexpr,
    SPLIT: tl.constexpr,  # spline rows as a sum of two numbers of the tensors' dtype
    BM: tl.constexpr,  # samples per tile
    BN: tl.constexpr,  # outputs per tile
    BK: tl.constexpr,  # columns per step: BK / ROWS inputs of the splines, BK of the base function
):
    tiles_n = tl.cdiv(n_out, BN)
    m = (tl.program_id(0) // tiles_n).to(tl.int64) * BM + tl.arange(0, BM)
    n = (tl.program_id(0) % tiles_n).to(tl.int64) * BN + tl.arange(0, BN)
    split = tl.program_id(1)
    samples, outputs = m < batch, n < n_out
    compute: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    acc = tl.zeros((BM, BN), compute)

    if spline_ptr is not None:
        BI: tl.constexpr = BK // _ROWS
        row_dtype: tl.constexpr = compute if SPLIT else dtype
        k = tl.arange(0, BK)
        steps = tl.cdiv(n_in, BI) * BLOCKS
        start, stop = steps * split // splits, steps * (split + 1) // splits
        # the basis of step t + 1 is made while the matrix product of step t runs
        a = _spline_tile(
            x_ptr, v_ptr, table_ptr, m, samples, start, n_in, compute, row_dtype, BLOCKS, ORDER, DEGREE, SIZE,
            DEPTH, EXTRAPOLATION, BI,
        )  # fmt: skip
        for t in range(start, stop):
            column = k + t // BLOCKS * BK
            weight = spline_ptr + (t % BLOCKS * n_out + n)[None, :] * (n_in * _ROWS) + column[:, None]
            w = tl.load(weight, mask=outputs[None, :] & (column < n_in * _ROWS)[:, None], other=0.0)
            acc = product(a, w, acc, PRECISION, SPLIT)
            a = _spline_tile(
                x_ptr, v_ptr, table_ptr, m, samples, t + 1, n_in, compute, row_dtype, BLOCKS, ORDER, DEGREE,
                SIZE, DEPTH, EXTRAPOLATION, BI,
            )  # fmt: skip

    if base_ptr is not None:
        steps = tl.cdiv(n_in, BK)
        for t in range(steps * split // splits, steps * (split + 1) // splits):
            i = t * BK + tl.arange(0, BK)
            inside = samples[:, None] & (i < n_in)[None, :]
            row = base_function(
                tl.load(x_ptr + m[:, None] * n_in + i[None, :], mask=inside, other=0.0).to(compute), BASE, ORDER, SILU
            )
            if v_ptr is not None:
                row *= tl.load(v_ptr + m[:, None] * n_in + i[None, :], mask=inside, other=0.0).to(compute)
            w = tl.load(
                base_ptr + n[None, :] * n_in + i[:, None], mask=outputs[None, :] & (i < n_in)[:, None], other=0.0
            )
            acc = product(row, w, acc, PRECISION, False)

    if bias_ptr is not None:
        bias = tl.load(bias_ptr + n, mask=outputs, other=0.0).to(compute)
        acc += tl.where(split == 0, bias, 0.0)[None, :]
    y = y_ptr + (split.to(tl.int64) * batch + m)[:, None] * n_out + n[None, :]
    tl.store(y, acc.to(y_ptr.dtype.element_ty), mask=samples[:, None] & outputs[None, :])


@triton.jit
def _spline_tile(
    x_ptr,
    v_ptr,
    table_ptr,
    m,
    samples,
    t,
    n_in,
    compute: tl.constexpr,
    row_dtype: tl.constexpr,
    BLOCKS: tl.constexpr,
    ORDER: tl.constexpr,
    DEGREE: tl.constexpr,
    SIZE: tl.constexpr,
    DEPTH: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    BI: tl.constexpr,
):
    i = (tl.arange(0, BI) + t // BLOCKS * BI)[None, :]
    inside = samples[:, None] & (i < n_in)
    x = tl.load(x_ptr + m[:, None] * n_in + i, mask=inside, other=0.0).to(compute)
    v = None
    if v_ptr is not None:
        v = tl.load(v_ptr + m[:, None] * n_in + i, mask=inside, other=0.0).to(compute)
    return tile(
        x, v, table_ptr, tl.minimum(i, n_in - 1), t % BLOCKS, row_dtype, ORDER, DEGREE, SIZE, DEPTH, EXTRAPOLATION
    )  # fmt: skip
