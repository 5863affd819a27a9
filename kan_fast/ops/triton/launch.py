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
from kan_fast.ops.reference import Spec, edge_shape
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
def forward(
    x: Tensor,
    v: Tensor | None,
    spline_weight: Tensor | None,
    base_weight: Tensor | None,
    bias: Tensor | None,
    grid: Tensor,
    order: int,
    spec: Spec,
) -> Tensor:
    x, v = x.contiguous(), _contiguous(v)
    return dense.forward(Basis(grid, order, spec), x, v, spline_weight, base_weight, bias)


@on_device_of_x
def grad_input(
    x: Tensor,
    g: Tensor,
    spline_weight: Tensor | None,
    base_weight: Tensor | None,
    grid: Tensor,
    order: int,
    spec: Spec,
) -> Tensor:
    return dense.grad_input(Basis(grid, order, spec), x.contiguous(), g, spline_weight, base_weight)


@on_device_of_x
def grad_coef(
    x: Tensor,
    v: Tensor | None,
    g: Tensor,
    grid: Tensor,
    order: int,
    spec: Spec,
    needs: tuple[bool, bool] = (True, True),
) -> tuple[Tensor, Tensor]:
    return dense.grad_coef(Basis(grid, order, spec), x.contiguous(), _contiguous(v), g, needs)


@on_device_of_x
def backward(
    x: Tensor,
    v: Tensor | None,
    g: Tensor,
    spline_weight: Tensor | None,
    base_weight: Tensor | None,
    grid: Tensor,
    order: int,
    spec: Spec,
    needs: tuple[bool, bool, bool, bool] = (True, True, True, True),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, g = x.contiguous(), g.contiguous()
    gx = grad_input(x, g, spline_weight, base_weight, grid, order + 1, spec) if needs[0] else x.new_empty(0)
    gs, gb = grad_coef(x, v, g, grid, order, spec, (needs[1], needs[2]))
    gbias = g.sum(0) if needs[3] else x.new_empty(0)
    return gx, gs, gb, gbias


@on_device_of_x
def edge_magnitude(
    x: Tensor, spline_weight: Tensor | None, base_weight: Tensor | None, grid: Tensor, spec: Spec
) -> Tensor:
    shape = edge_shape(spline_weight, base_weight)
    if x.numel() * shape[0] == 0:
        return x.new_zeros(shape)
    return _edges(x, None, spline_weight, base_weight, grid, spec)[0]


@on_device_of_x
def edge_magnitude_backward(
    x: Tensor, gm: Tensor, spline_weight: Tensor | None, base_weight: Tensor | None, grid: Tensor, spec: Spec
) -> tuple[Tensor, Tensor, Tensor]:
    weights = (spline_weight, base_weight)
    if x.numel() * gm.shape[0] == 0:
        gs, gb = (
            x.new_empty(0) if c is None else torch.zeros_like(c, memory_format=torch.contiguous_format) for c in weights
        )
        return torch.zeros_like(x, memory_format=torch.contiguous_format), gs, gb
    gs, gb = _edges(x, gm, *weights, grid, spec)[1:]
    return _edge_grad_input(x, gm, *weights, grid, spec), gs, gb


def _edges(
    x: Tensor, gm: Tensor | None, spline_weight: Tensor | None, base_weight: Tensor | None, grid: Tensor, spec: Spec
) -> tuple[Tensor, Tensor, Tensor]:
    """The magnitudes, or the gradients in the coefficients for a given gm; what is not asked for is empty."""
    n_out, n_in = edge_shape(spline_weight, base_weight)
    device = plan.device(x.device)
    tile = plan.choose_tile(x.dtype, device)
    programs = n_in * triton.cdiv(n_out, tile.outputs)
    splits = plan.choose_splits(programs, triton.cdiv(len(x), tile.samples), device.processors)
    sizes = (
        [n_out * n_in, 0, 0]
        if gm is None
        else [0, *(0 if c is None else c.numel() for c in (spline_weight, base_weight))]
    )
    results = [_workspace(x, splits, size) for size in sizes]
    edge_magnitude_kernel[(programs, splits)](
        x.T.contiguous(), _contiguous(spline_weight), _contiguous(base_weight),
        None if spline_weight is None else table.build(grid, 0, spec), _contiguous(gm), *results,
        len(x), n_in, n_out, splits, **_edge_options(tile, x.dtype, spline_weight, base_weight, grid, spec),
    )  # fmt: skip
    m, gs, gb = (_finish(part, x) if size else x.new_empty(0) for part, size in zip(results, sizes, strict=True))
    if gm is None:
        return m.view(n_out, n_in), gs, gb
    return (
        m,
        gs if spline_weight is None else gs.view_as(spline_weight),
        gb if base_weight is None else gb.view(n_out, n_in),
    )


def _edge_grad_input(
    x: Tensor, gm: Tensor, spline_weight: Tensor | None, base_weight: Tensor | None, grid: Tensor, spec: Spec
) -> Tensor:
    n_out, n_in = edge_shape(spline_weight, base_weight)
    tile = plan.choose_tile(x.dtype, plan.device(x.device))
    tables = [None if spline_weight is None else table.build(grid, order, spec) for order in (0, 1)]
    gx = x.new_empty(n_in, len(x))
    edge_grad_input_kernel[(n_in * triton.cdiv(len(x), tile.samples),)](
        x.T.contiguous(), gm.contiguous(), _contiguous(spline_weight), _contiguous(base_weight), *tables, gx,
        len(x), n_in, n_out, SILU_SLOPE=silu_polynomials(1),
        **_edge_options(tile, x.dtype, spline_weight, base_weight, grid, spec),
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


def _edge_options(
    tile: plan.Tile,
    dtype: torch.dtype,
    spline_weight: Tensor | None,
    base_weight: Tensor | None,
    grid: Tensor,
    spec: Spec,
) -> dict[str, Any]:
    rows = (0 if spline_weight is None else spline_weight.shape[2]) + (base_weight is not None)
    options = constants(grid, 0, spec)
    del options["ORDER"]
    return options | {
        "PRECISION": "tf32" if dense.arithmetic(dtype) == "tf32" else "ieee",
        "SPLIT": dtype.itemsize == 2,  # else signs would be wrong where phi is small
        "WIDTH": max(16, triton.next_power_of_2(rows)),
        "BM": tile.samples,
        "BN": tile.outputs,
        "num_warps": 4,
        "num_stages": 1,
        "enable_fp_fusion": True,
    }
