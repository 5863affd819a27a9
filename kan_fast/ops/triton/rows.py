"""Kernels that evaluate the rows of a layer for samples and inputs, and that sum rows with given factors.

Tiles are (inputs, samples): a warp holds samples of one input, so what it looks up lies in one or two cache lines.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kan_fast.ops import dense, tuning
from kan_fast.ops.contract import Rows
from kan_fast.ops.triton import table
from kan_fast.ops.triton.basis import ROWS, base_function, block_of_rows, local, silu_polynomials

_ROWS = tl.constexpr(ROWS)


class Basis(dense.Basis):
    """Rows by the kernels below."""

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows)
        self._table = table.build(rows)
        self._constants = constants(rows) | {"enable_fp_fusion": True, "num_warps": 4}

    def write(
        self, x: Tensor, v: Tensor | None, inputs: range, high: Tensor | None, low: Tensor | None, base: Tensor | None
    ) -> None:
        (batch, n_in), count = x.shape, len(inputs)
        grid, tile = self._grid(batch, count)
        rows_kernel[grid](
            x, v, self._table, high, low, base, batch, n_in, inputs.start, count, **self._constants, **tile
        )

    def contract(self, x: Tensor, splines: Tensor | None, base: Tensor | None, gx: Tensor) -> None:
        grid, tile = self._grid(*x.shape)
        contract_kernel[grid](x, splines, base, self._table, gx, *x.shape, **self._constants, **tile)

    def _grid(self, batch: int, inputs: int) -> tuple[tuple[int], dict[str, Any]]:
        samples = min(tuning.SAMPLES, max(16, triton.next_power_of_2(batch)))
        return (triton.cdiv(batch, samples) * triton.cdiv(inputs, tuning.INPUTS),), {"BM": samples, "BI": tuning.INPUTS}


def constants(rows: Rows) -> dict[str, Any]:
    """What the kernels that look rows up know when they are compiled."""
    spec, size = rows.spec, rows.splines - rows.spec.degree
    return {
        "ORDER": rows.order,
        "DEGREE": spec.degree,
        "SIZE": size,
        "DEPTH": table.pieces(size, spec).bit_length() - 1,
        "EXTRAPOLATION": spec.extrapolation,
        "BASE": spec.base,
        "SILU": silu_polynomials(rows.order),
    }


@triton.jit
def _tile(batch, n_in, first, count, BM: tl.constexpr, BI: tl.constexpr):
    """The inputs i, counted from `first`, and the samples m of a program; then, `(inputs, samples)`, a mask of those
    that exist, and their offsets in x.
    """
    tiles = tl.cdiv(count, BI)
    i = tl.program_id(0) % tiles * BI + tl.arange(0, BI)
    m = (tl.program_id(0) // tiles).to(tl.int64) * BM + tl.arange(0, BM)
    return i, m, (i < count)[:, None] & (m < batch)[None, :], m[None, :] * n_in + (first + i)[:, None]


@triton.jit
def _block(i, m, batch, count, block, COUNT: tl.constexpr):
    """Offsets `(samples, inputs, rows)` of a block in a tensor (batch, count, COUNT), and which of them exist."""
    row = block * _ROWS + tl.arange(0, _ROWS)[None, None, :]
    exists = ((m < batch)[:, None] & (i < count)[None, :])[:, :, None] & (row < COUNT)
    return (m[:, None] * count + i[None, :])[:, :, None] * COUNT + row, exists


@triton.jit(do_not_specialize=["batch"])
def rows_kernel(
    x_ptr,  # (batch, n_in)
    v_ptr,  # (batch, n_in) or None
    table_ptr,
    spline_ptr,  # (batch, count, G + k) or None
    low_ptr,  # the same, for what rounding takes from the splines, or None
    base_ptr,  # (batch, count) or None
    batch,
    n_in,
    first,  # of the inputs
    count,
    ORDER: tl.constexpr,
    DEGREE: tl.constexpr,
    SIZE: tl.constexpr,
    DEPTH: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    BASE: tl.constexpr,
    SILU: tl.constexpr,
    BM: tl.constexpr,  # samples
    BI: tl.constexpr,  # inputs
):
    COUNT: tl.constexpr = SIZE + DEGREE
    compute: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    i, m, inside, at = _tile(batch, n_in, first, count, BM, BI)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(compute)
    v = None
    if v_ptr is not None:
        v = tl.load(v_ptr + at, mask=inside, other=0.0).to(compute)

    if base_ptr is not None:
        value = base_function(x, BASE, ORDER, SILU)
        if v is not None:
            value *= v
        tl.store(base_ptr + m[None, :] * count + i[:, None], value.to(base_ptr.dtype.element_ty), mask=inside)

    if spline_ptr is not None:
        inputs = tl.minimum(first + i, n_in - 1)[:, None]
        start, values, other = local(x, table_ptr, inputs, ORDER, DEGREE, SIZE, DEPTH, EXTRAPOLATION)
        dtype: tl.constexpr = spline_ptr.dtype.element_ty
        for block in range((COUNT + _ROWS - 1) // _ROWS):
            rows = block_of_rows(start - block * _ROWS, values, other, v, DEGREE)
            high = rows.to(dtype)
            out, mask = _block(i, m, batch, count, block, COUNT)
            tl.store(spline_ptr + out, high, mask=mask)
            if low_ptr is not None:
                tl.store(low_ptr + out, (rows - high.to(compute)).to(dtype), mask=mask)


@triton.jit(do_not_specialize=["batch"])
def contract_kernel(
    x_ptr,  # (batch, n_in)
    spline_ptr,  # factors (batch, n_in, G + k) or None
    base_ptr,  # factors (batch, n_in) or None
    table_ptr,
    gx_ptr,  # (batch, n_in)
    batch,
    n_in,
    ORDER: tl.constexpr,
    DEGREE: tl.constexpr,
    SIZE: tl.constexpr,
    DEPTH: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    BASE: tl.constexpr,
    SILU: tl.constexpr,
    BM: tl.constexpr,  # samples
    BI: tl.constexpr,  # inputs
):
    COUNT: tl.constexpr = SIZE + DEGREE
    compute: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    i, m, inside, at = _tile(batch, n_in, 0, n_in, BM, BI)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(compute)
    gx = tl.zeros((BI, BM), compute)
    if base_ptr is not None:
        factor = tl.load(base_ptr + at, mask=inside, other=0.0).to(compute)
        gx += factor * base_function(x, BASE, ORDER, SILU)

    if spline_ptr is not None:
        inputs = tl.minimum(i, n_in - 1)[:, None]
        start, values, other = local(x, table_ptr, inputs, ORDER, DEGREE, SIZE, DEPTH, EXTRAPOLATION)
        total = tl.zeros((BM, BI), compute)
        for block in range((COUNT + _ROWS - 1) // _ROWS):
            source, mask = _block(i, m, batch, n_in, block, COUNT)
            factors = tl.load(spline_ptr + source, mask=mask, other=0.0).to(compute)
            total += tl.sum(factors * block_of_rows(start - block * _ROWS, values, other, None, DEGREE), 2)
        gx += tl.trans(total)
    tl.store(gx_ptr + at, gx.to(gx_ptr.dtype.element_ty), mask=inside)
