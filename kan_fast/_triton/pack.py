"""Coefficients in blocks of ROWS rows, padded with zeros, so that tiles of them are aligned and contiguous."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kan_fast._triton.basis import ROWS

_ROWS = tl.constexpr(ROWS)


def blocks(rows: int) -> int:
    return -(-rows // ROWS)


def pack(spline_weight: Tensor, transposed: bool) -> tuple[Tensor, int, int]:
    """`(out, in, rows)` as `(blocks, out, in * ROWS)`, or `(blocks, in * ROWS, out)` if transposed.

    Returns the packed tensor and its strides along out and along in * ROWS. A parameter that is packed as it is, not
    transposed and with ROWS rows, is returned itself.
    """
    n_out, n_in, rows = spline_weight.shape
    strides = (1, n_out) if transposed else (n_in * ROWS, 1)
    if rows == ROWS and not transposed:
        return spline_weight, *strides
    packed = spline_weight.new_empty(blocks(rows) * n_out * n_in * ROWS)
    size = (16, 8) if packed.element_size() == 8 else (32, 8)
    grid = (triton.cdiv(n_out, size[0]) * triton.cdiv(n_in, size[1]), blocks(rows))
    pack_kernel[grid](spline_weight, packed, n_in, n_out, rows, *strides, *size, enable_fp_fusion=True)
    return packed, *strides


@triton.jit
def pack_kernel(
    spline_ptr,
    packed_ptr,
    n_in,
    n_out,
    rows,
    stride_out,
    stride_column,
    BO: tl.constexpr,
    BI: tl.constexpr,
):
    tiles = tl.cdiv(n_in, BI)
    o = ((tl.program_id(0) // tiles) * BO + tl.arange(0, BO)).to(tl.int64)[:, None]
    column = (tl.program_id(0) % tiles) * (BI * _ROWS) + tl.arange(0, BI * _ROWS)[None, :]
    block = tl.program_id(1).to(tl.int64)
    i, row = column // _ROWS, block * _ROWS + column % _ROWS
    inside = (o < n_out) & (i < n_in)
    value = tl.load(spline_ptr + (o * n_in + i) * rows + row, mask=inside & (row < rows), other=0.0)
    packed = packed_ptr + block * n_out * n_in * _ROWS + o * stride_out + column.to(tl.int64) * stride_column
    tl.store(packed, value, mask=inside)
