"""The six functions of the backend contract (docs/architecture.md): tensors to kernel launches.

No function reads a number back from the device, so all of them can be captured in a CUDA graph. Sums of edges that are
split over programs go to a workspace `(splits, ...)` and are added in a second step, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch
import triton
from torch import Tensor

from kan_fast.ops import dense
from kan_fast.ops.contract import ALL, Coefficients, Needs, NeedsCoef, Rows, composed_backward, or_empty
from kan_fast.ops.triton import plan, table
from kan_fast.ops.triton.basis import silu_polynomials
from kan_fast.ops.triton.edges import edge_grad_input_kernel, edge_magnitude_kernel
from kan_fast.ops.triton.rows import Basis, constants

F = TypeVar("F", bound=Callable[..., Any])


def on_device_of_x(function: F) -> F:
    """Triton launches on the current device, so that must be the one of the tensors."""

    @wraps(function)
    def call(x: Tensor, *args: Any) -> Any:
        with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
            return function(x, *args)

    return call  # type: ignore[return-value]


@on_device_of_x
def forward(x: Tensor, v: Tensor | None, c: Coefficients, bias: Tensor | None, rows: Rows) -> Tensor:
    return dense.forward(Basis(rows), x.contiguous(), _contiguous(v), c, bias)


@on_device_of_x
def grad_input(x: Tensor, g: Tensor, c: Coefficients, rows: Rows) -> Tensor:
    return dense.grad_input(Basis(rows), x.contiguous(), g, c)


@on_device_of_x
def grad_coef(
    x: Tensor, v: Tensor | None, g: Tensor, rows: Rows, needs: NeedsCoef = (True, True)
) -> tuple[Tensor, Tensor]:
    return dense.grad_coef(Basis(rows), x.contiguous(), _contiguous(v), g, needs)


_backward = composed_backward(grad_input, grad_coef)


@on_device_of_x
def backward(
    x: Tensor, v: Tensor | None, g: Tensor, c: Coefficients, rows: Rows, needs: Needs = ALL
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _backward(x.contiguous(), v, g.contiguous(), c, rows, needs)


@on_device_of_x
def edge_magnitude(x: Tensor, c: Coefficients, rows: Rows) -> Tensor:
    if x.numel() * c.edge_shape[0] == 0:
        return x.new_zeros(c.edge_shape)
    return _edges(x, None, c, rows)[0]


@on_device_of_x
def edge_magnitude_backward(x: Tensor, gm: Tensor, c: Coefficients, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    if x.numel() * gm.shape[0] == 0:
        gx, gs, gb = (None if t is None else t.new_zeros(t.shape) for t in (x, *c))
        return or_empty(gx, x), or_empty(gs, x), or_empty(gb, x)
    gs, gb = _edges(x, gm, c, rows)[1:]
    return _edge_grad_input(x, gm, c, rows), gs, gb


def _edges(x: Tensor, gm: Tensor | None, c: Coefficients, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """The magnitudes, or the gradients in the coefficients for a given gm; what is not asked for is empty."""
    n_out, n_in = c.edge_shape
    device = plan.device(x.device)
    tile = plan.choose_tile(x.dtype, device)
    programs = n_in * triton.cdiv(n_out, tile.outputs)
    splits = plan.choose_splits(programs, triton.cdiv(len(x), tile.samples), device.processors)
    sizes = [n_out * n_in, 0, 0] if gm is None else [0, *(0 if w is None else w.numel() for w in c)]
    results = [_workspace(x, splits, size) for size in sizes]
    edge_magnitude_kernel[(programs, splits)](
        x.T.contiguous(), _contiguous(c.spline), _contiguous(c.base),
        None if c.spline is None else table.build(rows), _contiguous(gm), *results,
        len(x), n_in, n_out, splits, **_edge_options(tile, x.dtype, c, rows),
    )  # fmt: skip
    m, gs, gb = (_finish(part, x) if size else x.new_empty(0) for part, size in zip(results, sizes, strict=True))
    if gm is None:
        return m.view(n_out, n_in), gs, gb
    return m, gs if c.spline is None else gs.view_as(c.spline), gb if c.base is None else gb.view(n_out, n_in)


def _edge_grad_input(x: Tensor, gm: Tensor, c: Coefficients, rows: Rows) -> Tensor:
    n_out, n_in = c.edge_shape
    tile = plan.choose_tile(x.dtype, plan.device(x.device))
    tables = [None if c.spline is None else table.build(r) for r in (rows, rows.derivative())]
    gx = x.new_empty(n_in, len(x))
    edge_grad_input_kernel[(n_in * triton.cdiv(len(x), tile.samples),)](
        x.T.contiguous(), gm.contiguous(), _contiguous(c.spline), _contiguous(c.base), *tables, gx,
        len(x), n_in, n_out, SILU_SLOPE=silu_polynomials(1),
        **_edge_options(tile, x.dtype, c, rows),
    )  # fmt: skip
    return gx.T.contiguous()


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _workspace(x: Tensor, splits: int, *shape: int) -> Tensor:
    """Results of every split, in the precision of the sums unless there is one split alone."""
    dtype = torch.float32 if splits > 1 and x.dtype.itemsize < 4 else x.dtype
    return torch.empty(splits, *shape, dtype=dtype, device=x.device)


def _finish(parts: Tensor, x: Tensor) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.sum(0).to(x.dtype)


def _edge_options(tile: plan.Tile, dtype: torch.dtype, c: Coefficients, rows: Rows) -> dict[str, Any]:
    width = rows.splines * (c.spline is not None) + (c.base is not None)
    options = constants(rows)
    del options["ORDER"]
    return options | {
        "PRECISION": "tf32" if dense.arithmetic(dtype) == "tf32" else "ieee",
        "SPLIT": dtype.itemsize == 2,  # else signs would be wrong where phi is small
        "WIDTH": max(16, triton.next_power_of_2(width)),
        "BM": tile.samples,
        "BN": tile.outputs,
        "num_warps": 4,
        "num_stages": 1,
        "enable_fp_fusion": True,
    }
