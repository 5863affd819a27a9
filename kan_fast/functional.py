"""The functional interface. It validates shapes, dtypes, devices and autocast, so that nothing below has to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from kan_fast._support import torch_internals
from kan_fast.ops import autograd, dispatch, reference
from kan_fast.ops.arguments import BASES as BASES
from kan_fast.ops.arguments import check_options, grid_dtype
from kan_fast.ops.contract import Coefficients, Rows, Spec
from kan_fast.ops.per_sample import spread

__all__ = ["edge_magnitude", "kan_linear"]

Base = str | Callable[[Tensor], Tensor]


def kan_linear(
    x: Tensor,
    spline_weight: Tensor,
    base_weight: Tensor | None,
    grid: Tensor,
    bias: Tensor | None = None,
    *,
    spline_order: int,
    base: Base = "silu",
    extrapolation: str = "zero",
    backend: str | None = None,
    symbolic: Callable[[Tensor], Tensor] | None = None,
    splines: bool = True,
) -> Tensor:
    """Apply a KAN layer, `y_o = bias_o + sum_i base_weight_oi base(x_i) + sum_ir spline_weight_oir B_ir(x_i)`.

    The B-splines `B_ir` have degree `spline_order` on the knots `grid[i]` (arXiv 2404.19756, Eq. 2.10-2.12).

    Args:
        x: input `(..., in)`; any leading dimensions.
        spline_weight: B-spline coefficients `(out, in, G + k)`.
        base_weight: weights of the base function `(out, in)`; None for no base function.
        grid: knots `(in, G + 2k + 1)`, strictly increasing (not checked) and without gradient; float32 for 16-bit
            weights, else of the weights' dtype.
        bias: `(out,)` or None.
        spline_order: degree k of the splines, 0 to 5.
        base: "silu", "identity", "zero" or a callable that acts on each element (evaluated unfused).
        extrapolation: outside the grid range the splines fade out over k spans ("zero", as in the paper), continue
            with value and slope ("linear") or with their last value ("clamp"). The base function is evaluated at x
            everywhere.
        backend: "triton", "cuda", "cpu" or "reference" to force one; None chooses (see `kan_fast.explain`).
        symbolic: a callable that maps x `(batch, in)` to `(batch, out)`, the sums of edges that are no splines; they
            are added to the output. None for no such edges.
        splines: False skips the splines and base functions, for layers in which all of them have weight 0.

    Returns:
        `(..., out)`, in the dtype of x, or of autocast where that is on.

    Raises:
        TypeError: x is not floating point, or dtypes differ.
        ValueError: shapes or devices do not fit, or an option is unknown.
    """
    spec, chosen, autocast = _check(
        x, spline_weight, base_weight, grid, bias, spline_order, base, extrapolation, backend
    )
    flat, result_dtype = x.dim() == 2, x.dtype
    if autocast and x.dtype != torch.float64:  # autocast leaves float64 alone
        result_dtype = torch.get_autocast_dtype(x.device.type)
        x = x.to(spline_weight.dtype)
    samples = x if flat else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])

    extra = None if symbolic is None else symbolic(samples)
    if callable(base):
        if base_weight is not None and splines:
            unfused = F.linear(base(samples), base_weight)
            extra = unfused if extra is None else extra + unfused
        base_weight, spec = None, spec._replace(base="zero")
    elif base == "zero":
        base_weight = None
    if not splines:
        count, out = samples.shape[0], spline_weight.shape[0]
        y = samples.new_zeros(count, out) if bias is None else spread(bias, count).T.expand(count, -1)
    else:
        c, rows = Coefficients(spline_weight, base_weight), Rows(grid, 0, spec)
        if _exported():  # to where there are no operators of ours
            y = reference.forward(samples, None, c, bias, rows)
        else:
            y = autograd.forward(samples, None, c, bias, rows, chosen)
    if extra is not None:
        y = y + extra
    if not flat:
        y = y.reshape(*x.shape[:-1], y.shape[-1])
    return y if y.dtype == result_dtype else y.to(result_dtype)


def edge_magnitude(
    x: Tensor,
    spline_weight: Tensor,
    base_weight: Tensor | None,
    grid: Tensor,
    *,
    spline_order: int,
    base: Base = "silu",
    extrapolation: str = "zero",
    backend: str | None = None,
) -> Tensor:
    """Mean absolute activation `mean_b |phi_oi(x_bi)|` of every edge (arXiv 2404.19756, Eq. 2.17).

    Arguments are those of `kan_linear`; leading dimensions of x all count as batch. Memory is O(out * in).

    Returns:
        `(out, in)`, non-negative; 0 for an empty batch. Differentiable once in x and the weights.
    """
    spec, chosen, _ = _check(x, spline_weight, base_weight, grid, None, spline_order, base, extrapolation, backend)
    samples = x.to(spline_weight.dtype).reshape(math.prod(x.shape[:-1]), spline_weight.shape[1])
    if callable(base):
        if base_weight is not None:
            return reference.edge_magnitude(samples, Coefficients(spline_weight, base_weight), Rows(grid, 0, spec))
        spec = spec._replace(base="zero")
    elif base == "zero":
        base_weight = None
    return autograd.edge_magnitude(samples, Coefficients(spline_weight, base_weight), Rows(grid, 0, spec), chosen)


def _check(
    x: Tensor,
    spline_weight: Tensor,
    base_weight: Tensor | None,
    grid: Tensor,
    bias: Tensor | None,
    degree: int,
    base: Base,
    extrapolation: str,
    backend: str | None,
) -> tuple[Spec, str, bool]:
    """Validate the arguments that all functions share; return the spec, the backend, and whether autocast is on."""
    check_options(degree, base, extrapolation)
    try:
        dense = x.layout is spline_weight.layout is grid.layout is torch.strided
    except AttributeError:
        dense = False
    if not dense:
        _refuse_layouts(input=x, spline_weight=spline_weight, grid=grid)
    if not x.is_floating_point():
        raise TypeError(f"expected a floating point input, got {x.dtype}; convert it, for example with x.float()")
    if spline_weight.dim() != 3:
        raise ValueError(
            f"spline_weight must have the shape (out, in, grid_size + spline_order), got {_shape(spline_weight)}"
        )
    out_features, in_features, rows = spline_weight.shape
    if not x.dim() or x.shape[-1] != in_features:
        got = x.shape[-1] if x.dim() else "a scalar"
        raise ValueError(f"expected last dimension {in_features}, got {got} (input shape {_shape(x)})")
    if grid.shape != (in_features, rows + degree + 1) or rows <= degree:
        raise ValueError(
            f"grid must have the shape (in, grid_size + 2 * spline_order + 1) with grid_size >= 1; for spline_weight "
            f"{_shape(spline_weight)} and spline_order {degree} that is ({in_features}, {rows + degree + 1}), "
            f"got {_shape(grid)}"
        )
    dtype, device = spline_weight.dtype, spline_weight.device
    if base_weight is not None:
        _check_like("base_weight", base_weight, (out_features, in_features), dtype, device)
    if bias is not None:
        _check_like("bias", bias, (out_features,), dtype, device)
    kind = device.type
    autocast = kind != "meta" and torch.is_autocast_enabled(kind)
    if x.dtype != dtype and (torch.float64 in (x.dtype, dtype) or not autocast):
        raise TypeError(f"input has dtype {x.dtype}, the weights have {dtype}; convert one of them")
    knots = grid_dtype(dtype)
    if grid.dtype != knots:
        raise TypeError(f"grid must have dtype {knots} for weights of dtype {dtype}, got {grid.dtype}")
    if grid.requires_grad:
        raise ValueError("knots have no gradient: call grid.detach(); update_grid moves them to where the samples are")
    if x.device != device or grid.device != device:
        raise ValueError(f"input is on {x.device}, grid on {grid.device}, weights on {device}; move them together")
    return Spec(degree, base, extrapolation), dispatch.chosen(kind, dtype, backend), autocast


def _exported() -> bool:
    """Whether a graph is recorded that other programs run: TorchScript by tracing, or ONNX."""
    return torch.onnx.is_in_onnx_export() if torch.compiler.is_compiling() else torch_internals.tracing()


def _refuse_layouts(**tensors: Any) -> NoReturn:
    """Raise a TypeError that names the first argument that is not a dense tensor."""
    for name, given in tensors.items():
        if not isinstance(given, Tensor) or given.layout is not torch.strided:
            what = f"a tensor of layout {given.layout}" if isinstance(given, Tensor) else type(given).__name__
            remedy = "convert it, for example with torch.as_tensor"
            if isinstance(given, Tensor):
                remedy = "convert it with .to_dense()"
            if isinstance(given, torch.fx.Proxy):
                remedy = "let is_leaf_module of your torch.fx.Tracer take KANLinear as a leaf, as nn.Linear is one"
            raise TypeError(f"expected a dense tensor as {name}, got {what}; {remedy}")
    raise AssertionError("all are dense tensors")


def _check_like(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    """Compare a tensor with its shape, and with the dtype and the device of spline_weight."""
    if getattr(tensor, "layout", None) is not torch.strided:
        _refuse_layouts(**{name: tensor})
    if tensor.shape != shape:
        raise ValueError(f"{name} must have the shape {shape}, got {_shape(tensor)}")
    if tensor.dtype != dtype:
        raise TypeError(f"{name} has dtype {tensor.dtype}, spline_weight has {dtype}; convert one of them")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, spline_weight on {device}; move them together")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
