"""Kernels that evaluate the rows of a layer for samples and inputs, and that sum rows with given factors.

Tiles are (inputs, samples): a warp holds samples of one input, so what it looks up lies in one or two cache lines.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kan_fast import dense
from kan_fast._triton import table
from kan_fast._triton.basis import ROWS, base_function, block_of_rows, local, silu_polynomials
from kan_fast.reference import Spec

_ROWS = tl.constexpr(ROWS)
INPUTS, SAMPLES = 8, 64  # of a program


class Basis:
    """Implements `kan_fast.dense.Basis`."""

    def __init__(self, grid: Tensor, order: int, spec: Spec) -> None:
        self.rows = grid.shape[1] - spec.degree - 1
        self.steep = dense.steep(self.rows, order, spec)
        self._table = table.build(grid, order, spec)
        self._constants = constants(grid, order, spec) | {"enable_fp_fusion": True, "num_warps": 4}

    def evaluate(self, x: Tensor, v: Tensor | None, inputs: slice, needs: dense.Needs, split: bool) -> list[Tensor]:
        (batch, n_in), count = x.shape, len(range(*inputs.indices(x.shape[1])))
        splines = [x.new_empty(batch, count * self.rows) for _ in range((1 + split) * needs[0])]
        base = [x.new_empty(batch, count) for _ in range(needs[1])]
        high, low = (*splines, None, None)[:2]
        grid, tile = self._grid(batch, count)
        rows_kernel[grid](
            x, v, self._table, high, low, base[0] if base else None, batch, n_in, inputs.start or 0, count,
            **self._constants, **tile,
        )  # fmt: skip
        return [*splines, *base]

    def contract(self, x: Tensor, splines: Tensor | None, base: Tensor | None, gx: Tensor) -> None:
        grid, tile = self._grid(*x.shape)
        contract_kernel[grid](x, splines, base, self._table, gx, *x.shape, **self._constants, **tile)

    def _grid(self, batch: int, inputs: int) -> tuple[tuple[int], dict[str, Any]]:
        samples = min(SAMPLES, max(16, triton.next_power_of_2(batch)))
        return (triton.cdiv(batch, samples) * triton.cdiv(inputs, INPUTS),), {"BM": samples, "BI": INPUTS}


def constants(grid: Tensor, order: int, spec: Spec) -> dict[str, Any]:
    """What the kernels that look rows up know when they are compiled."""
    size = grid.shape[1] - 2 * spec.degree - 1
    return {
        "ORDER": order,
        "DEGREE": spec.degree,
        "SIZE": size,
        "DEPTH": table.pieces(size, spec).bit_length() - 1,
        "EXTRAPOLATION": spec.extrapolation,
        "BASE": spec.base,
        "SILU": silu_polynomials(order),
    }


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
    tiles = tl.cdiv(count, BI)
    i = tl.program_id(0) % tiles * BI + tl.arange(0, BI)
    m = (tl.program_id(0) // tiles).to(tl.int64) * BM + tl.arange(0, BM)
    inside = (i < count)[:, None] & (m < batch)[None, :]
    at = m[None, :] * n_in + (first + i)[:, None]
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
        r = tl.arange(0, _ROWS)[None, None, :]
        edges = ((m < batch)[:, None] & (i < count)[None, :])[:, :, None]
        out = (m[:, None] * count + i[None, :])[:, :, None] * COUNT + r
        dtype: tl.constexpr = spline_ptr.dtype.element_ty
        for block in range((COUNT + _ROWS - 1) // _ROWS):
            rows = block_of_rows(start - block * _ROWS, values, other, v, DEGREE)
            high = rows.to(dtype)
            mask = edges & (block * _ROWS + r < COUNT)
            tl.store(spline_ptr + out + block * _ROWS, high, mask=mask)
            if low_ptr is not None:
                tl.store(low_ptr + out + block * _ROWS, (rows - high.to(compute)).to(dtype), mask=mask)


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
    tiles = tl.cdiv(n_in, BI)
    i = tl.program_id(0) % tiles * BI + tl.arange(0, BI)
    m = (tl.program_id(0) // tiles).to(tl.int64) * BM + tl.arange(0, BM)
    inside = (i < n_in)[:, None] & (m < batch)[None, :]
    at = m[None, :] * n_in + i[:, None]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(compute)
    gx = tl.zeros((BI, BM), compute)
    if base_ptr is not None:
        factor = tl.load(base_ptr + at, mask=inside, other=0.0).to(compute)
        gx += factor * base_function(x, BASE, ORDER, SILU)

    if spline_ptr is not None:
        inputs = tl.minimum(i, n_in - 1)[:, None]
        start, values, other = local(x, table_ptr, inputs, ORDER, DEGREE, SIZE, DEPTH, EXTRAPOLATION)
        r = tl.arange(0, _ROWS)[None, None, :]
        edges = ((m < batch)[:, None] & (i < n_in)[None, :])[:, :, None]
        source = (m[:, None] * n_in + i[None, :])[:, :, None] * COUNT + r
        total = tl.zeros((BM, BI), compute)
        for block in range((COUNT + _ROWS - 1) // _ROWS):
            mask = edges & (block * _ROWS + r < COUNT)
            factors = tl.load(spline_ptr + source + block * _ROWS, mask=mask, other=0.0).to(compute)
            total += tl.sum(factors * block_of_rows(start - block * _ROWS, values, other, None, DEGREE), 2)
        gx += tl.trans(total)
    tl.store(gx_ptr + at, gx.to(gx_ptr.dtype.element_ty), mask=inside)
