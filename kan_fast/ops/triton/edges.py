"""Edge magnitudes and their gradients: one matrix product per input, over its rows, in registers.

phi_oi(x) of a tile of samples and outputs is the basis `(samples, rows)` of input i times its coefficients
`(rows, outputs)`; the base function is one more row. Only sums over the batch, or over the outputs, are stored.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kan_fast.ops.triton.basis import base_function, local


@triton.jit
def _rows(
    x,
    table,
    i,
    base_ptr,
    ORDER: tl.constexpr,
    DEGREE: tl.constexpr,
    SIZE: tl.constexpr,
    DEPTH: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    BASE: tl.constexpr,
    SILU: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """All rows of one input for samples `x`, `(samples, WIDTH)`: splines, base function, zeros."""
    COUNT: tl.constexpr = 0 if table is None else SIZE + DEGREE
    row = tl.arange(0, WIDTH)[None, :]
    result = tl.zeros((x.shape[0], WIDTH), x.dtype)
    if table is not None:
        first, values, other = local(x, table, i, ORDER, DEGREE, SIZE, DEPTH, EXTRAPOLATION)
        result += other[:, None]
        for j in tl.static_range(DEGREE + 1):
            result = tl.where(row == first[:, None] + j, values[j][:, None], result)
    result = tl.where(row < COUNT, result, 0.0)
    if base_ptr is not None:
        result = tl.where(row == COUNT, base_function(x, BASE, ORDER, SILU)[:, None], result)
    return result


@triton.jit
def _coefficients(spline_ptr, base_ptr, o, i, n_in, n_out, COUNT: tl.constexpr, WIDTH: tl.constexpr):
    """Coefficients of input i, `(WIDTH, outputs)`, in the order of `_rows`."""
    row, edge = tl.arange(0, WIDTH)[:, None], o.to(tl.int64)[None, :] * n_in + i
    outputs = (o < n_out)[None, :]
    if spline_ptr is None:
        c = tl.load(base_ptr + edge + row * 0, mask=outputs & (row == 0), other=0.0)
    else:
        c = tl.load(spline_ptr + edge * COUNT + row, mask=outputs & (row < COUNT), other=0.0)
        if base_ptr is not None:
            c = tl.where(row == COUNT, tl.load(base_ptr + edge + row * 0, mask=outputs & (row == COUNT), other=0.0), c)
    return c


@triton.jit
def _product(rows, c, acc, PRECISION: tl.constexpr, SPLIT: tl.constexpr):
    """`acc + rows @ c`, with rows in the dtype of c or, if SPLIT, as a sum of two numbers of that dtype."""
    high = rows.to(c.dtype)
    acc = tl.dot(high, c, acc, input_precision=PRECISION, out_dtype=acc.dtype)
    if SPLIT:
        acc = tl.dot((rows - high.to(rows.dtype)).to(c.dtype), c, acc, input_precision=PRECISION, out_dtype=acc.dtype)
    return acc


@triton.jit
def _sign(phi):
    return tl.where(phi > 0, 1.0, tl.where(phi < 0, -1.0, phi * 0.0)).to(phi.dtype)


@triton.jit(do_not_specialize=["batch"])
def edge_magnitude_kernel(
    x_ptr,  # (in, batch)
    spline_ptr,  # (out, in, G + k) or None
    base_ptr,  # (out, in) or None
    table_ptr,  # None without splines
    gm_ptr,  # (out, in): the kernel computes gradients in the coefficients; None: it computes magnitudes
    m_ptr,  # (splits, out, in)
    gs_ptr,  # (splits, out, in, G + k)
    gb_ptr,  # (splits, out, in)
    batch,
    n_in,
    n_out,
    splits,
    DEGREE: tl.constexpr,
    SIZE: tl.constexpr,
    DEPTH: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    BASE: tl.constexpr,
    SILU: tl.constexpr,
    PRECISION: tl.constexpr,
    SPLIT: tl.constexpr,
    WIDTH: tl.constexpr,  # rows, base function included, rounded up to what a matrix product takes
    BM: tl.constexpr,  # samples per step
    BN: tl.constexpr,  # outputs per tile
):
    """Either m or, given gm, the gradients of sum gm m in the coefficients, of one input and a tile of outputs."""
    compute: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    COUNT: tl.constexpr = 0 if spline_ptr is None else SIZE + DEGREE
    i = (tl.program_id(0) % n_in).to(tl.int64)
    o = tl.program_id(0) // n_in * BN + tl.arange(0, BN)
    split = tl.program_id(1)
    c = _coefficients(spline_ptr, base_ptr, o, i, n_in, n_out, COUNT, WIDTH)
    if gm_ptr is None:
        total = tl.zeros((BM, BN), compute)
    else:
        total = tl.zeros((WIDTH, BN), compute)

    steps = tl.cdiv(batch, BM)
    for t in range(split, steps, splits):
        b = t * BM + tl.arange(0, BM)
        samples = b < batch
        x = tl.load(x_ptr + i * batch + b, mask=samples, other=0.0).to(compute)
        rows = _rows(x, table_ptr, i, base_ptr, 0, DEGREE, SIZE, DEPTH, EXTRAPOLATION, BASE, SILU, WIDTH)
        phi = _product(rows, c, tl.zeros((BM, BN), compute), PRECISION, SPLIT)
        phi = tl.where(samples[:, None], phi, 0.0)
        if gm_ptr is None:
            total += tl.abs(phi)
        else:
            total = _product(tl.trans(rows), _sign(phi).to(dtype), total, PRECISION, False)

    outputs, count = o < n_out, batch.to(compute)
    edge = (split.to(tl.int64) * n_out + o) * n_in + i
    if gm_ptr is None:
        tl.store(m_ptr + edge, (tl.sum(total, 0) / count).to(m_ptr.dtype.element_ty), mask=outputs)
    else:
        gm = tl.load(gm_ptr + o.to(tl.int64) * n_in + i, mask=outputs, other=0.0).to(compute)
        total = total * (gm / count)[None, :]
        row = tl.arange(0, WIDTH)[:, None]
        if spline_ptr is not None:
            out = gs_ptr + edge[None, :] * COUNT + row
            tl.store(out, total.to(gs_ptr.dtype.element_ty), mask=outputs[None, :] & (row < COUNT))
        if base_ptr is not None:
            out = gb_ptr + edge[None, :] + row * 0
            tl.store(out, total.to(gb_ptr.dtype.element_ty), mask=outputs[None, :] & (row == COUNT))


@triton.jit(do_not_specialize=["batch"])
def edge_grad_input_kernel(
    x_ptr,  # (in, batch)
    gm_ptr,  # (out, in)
    spline_ptr,
    base_ptr,
    table_ptr,  # of the splines
    slope_ptr,  # of their first derivatives
    gx_ptr,  # (in, batch)
    batch,
    n_in,
    n_out,
    DEGREE: tl.constexpr,
    SIZE: tl.constexpr,
    DEPTH: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    BASE: tl.constexpr,
    SILU: tl.constexpr,
    SILU_SLOPE: tl.constexpr,
    PRECISION: tl.constexpr,
    SPLIT: tl.constexpr,
    WIDTH: tl.constexpr,
    BM: tl.constexpr,  # samples per tile
    BN: tl.constexpr,  # outputs per step
):
    compute: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    COUNT: tl.constexpr = 0 if spline_ptr is None else SIZE + DEGREE
    i = (tl.program_id(0) % n_in).to(tl.int64)
    b = tl.program_id(0) // n_in * BM + tl.arange(0, BM)
    samples = b < batch
    x = tl.load(x_ptr + i * batch + b, mask=samples, other=0.0).to(compute)
    rows = _rows(x, table_ptr, i, base_ptr, 0, DEGREE, SIZE, DEPTH, EXTRAPOLATION, BASE, SILU, WIDTH)
    weighted = tl.zeros((BM, WIDTH), compute)  # sum over outputs of gm sign(phi) c
    for first in range(0, n_out, 2 * BN):
        part = tl.zeros((BM, WIDTH), compute)  # the error of a sum grows with its number of terms
        for half in range(2):
            o = first + half * BN + tl.arange(0, BN)
            c = _coefficients(spline_ptr, base_ptr, o, i, n_in, n_out, COUNT, WIDTH)
            gm = tl.load(gm_ptr + o.to(tl.int64) * n_in + i, mask=o < n_out, other=0.0)
            phi = _product(rows, c, tl.zeros((BM, BN), compute), PRECISION, SPLIT)
            g = (_sign(phi) * gm.to(compute)[None, :]).to(dtype)
            part = tl.dot(g, tl.trans(c), part, input_precision=PRECISION, out_dtype=compute)
        weighted += part
    slopes = _rows(x, slope_ptr, i, base_ptr, 1, DEGREE, SIZE, DEPTH, EXTRAPOLATION, BASE, SILU_SLOPE, WIDTH)
    gx = tl.sum(weighted * slopes, 1) / batch.to(compute)
    tl.store(gx_ptr + i * batch + b, gx.to(gx_ptr.dtype.element_ty), mask=samples)
