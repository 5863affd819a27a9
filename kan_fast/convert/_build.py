"""Layers and networks from given tensors, without drawing initial parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kan_fast._support.checks import integer
from kan_fast.functional import BASES, Base
from kan_fast.model import KAN
from kan_fast.nn import grids
from kan_fast.nn.linear import KANLinear
from kan_fast.nn.nodes import Nodes

NAMED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "leaky_relu": F.leaky_relu,
    "softplus": F.softplus,
}


def base_function(activation: Base | None) -> Base:
    """The `base` of a KANLinear for an activation: by its name where kernels have it, so that it is fused."""
    if activation is None or activation == "identity" or isinstance(activation, nn.Identity):
        return "identity"
    if isinstance(activation, str):
        if activation not in BASES and activation not in NAMED:
            raise ValueError(
                f"unknown activation {activation!r}; allowed: {', '.join([*BASES, *NAMED])}, a callable, or None"
            )
        return NAMED.get(activation, activation)
    if not callable(activation):
        raise TypeError(f"activation must be a name, a callable or None, got {activation!r}")
    if activation is F.silu or isinstance(activation, nn.SiLU):
        return "silu"
    return copy.deepcopy(activation)


@torch.no_grad()
def layer(
    spline_weight: Tensor,
    base_weight: Tensor | None,
    grid: Tensor,
    bias: Tensor | None = None,
    *,
    degree: int,
    base: Base,
    extrapolation: str = "zero",
    **options: Any,
) -> KANLinear:
    """A KANLinear with copies of these tensors; shapes as in `kan_fast.functional.kan_linear`.

    Raises:
        ValueError: shapes do not fit, or the knots are not finite or do not increase strictly.
    """
    _check_shapes(spline_weight, base_weight, grid, bias, degree)
    grids.check_knots(grid)
    out_features, in_features, rows = spline_weight.shape
    new = KANLinear(
        in_features,
        out_features,
        bias is not None,
        grid_size=rows - degree,
        spline_order=degree,
        grid_range=(float(grid[:, degree].min()), float(grid[:, -1 - degree].max())),
        base=base,
        extrapolation=extrapolation,
        device="meta",
        dtype=spline_weight.dtype,
        **options,
    ).to_empty(device=spline_weight.device)
    new.spline_weight.copy_(spline_weight)
    new.grid.copy_(grid)
    if new.base_weight is not None and base_weight is not None:
        new.base_weight.copy_(base_weight)
    if new.bias is not None and bias is not None:
        new.bias.copy_(bias)
    return new


def _check_shapes(
    spline_weight: Tensor, base_weight: Tensor | None, grid: Tensor, bias: Tensor | None, degree: int
) -> None:
    """Refuse tensors whose shapes don't fit: a copy would broadcast some of them."""
    for one in (spline_weight, grid, *(t for t in (base_weight, bias) if t is not None)):
        if not isinstance(one, Tensor) or not one.is_floating_point() or one.layout != torch.strided or one.is_meta:
            raise TypeError(f"a layer is made of dense floating point tensors, got {one!r:.80}")
    shape, degree = tuple(spline_weight.shape), integer("the degree", degree, 0)
    if len(shape) != 3 or shape[2] <= degree:
        raise ValueError(f"spline weights must have the shape (out, in, G + {degree}) with G >= 1, got {shape}")
    expected = {"knots": (grid, (shape[1], shape[2] + degree + 1)), "base weights": (base_weight, shape[:2])}
    for name, (tensor, allowed) in {**expected, "bias": (bias, shape[:1])}.items():
        if tensor is not None and tuple(tensor.shape) != allowed:
            raise ValueError(f"{name} must have the shape {allowed}, got {tuple(tensor.shape)}")


def network(layers: Sequence[KANLinear], nodes: Sequence[Nodes] | None = None) -> KAN:
    """A KAN of these layers, which have one grid size and degree; without `nodes`, all their outputs are sums."""
    first = layers[0]
    levels = [Nodes(layer.out_features) for layer in layers] if nodes is None else list(nodes)
    width: list[int | list[int]] = [first.in_features, *([level.sums, len(level.arities)] for level in levels)]
    arities = [[], *(level.arities for level in levels)]
    model = KAN(width, first.grid_size, first.spline_order, mult_arity=arities, device="meta")
    model.layers = nn.ModuleList(layers)  # type: ignore[assignment]  # it has no type for its items
    return model
