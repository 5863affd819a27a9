"""Conversion from and to efficient-kan (github.com/Blealtan/efficient-kan)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kan_fast.convert import _build
from kan_fast.model import KAN
from kan_fast.nn.linear import KANLinear

_NAMES = ("grid", "base_weight", "spline_weight", "spline_order", "base_activation")


def from_efficient_kan(module: nn.Module) -> KANLinear | KAN:
    """Copy a layer or network of efficient-kan, `y = base_weight @ act(x) + (spline_weight * spline_scaler) @ B(x)`.

    Any module counts as a layer that has `grid` (in, G + 2k + 1), `base_weight` (out, in), `spline_weight`
    (out, in, G + k), `spline_order`, `base_activation` and, if `enable_standalone_scale_spline`, `spline_scaler`
    (out, in); any with `layers` of them as a network. The scaler is multiplied into the spline weight.

    The functions agree everywhere, with one exception: for degree 0 the end of the grid range belongs to the last span
    here and to none there.

    Returns:
        A KANLinear for a layer, a KAN for a network; without bias, as efficient-kan has none.

    Raises:
        TypeError: `module` is neither.
        ValueError: knots that do not increase strictly.
    """
    layers = getattr(module, "layers", None)
    if _is_layer(module):
        return _layer(module)
    if isinstance(layers, nn.ModuleList) and len(layers) and all(map(_is_layer, layers)):
        return _build.network([_layer(layer) for layer in layers])
    raise TypeError(
        f"from_efficient_kan expected a module with {', '.join(_NAMES)}, or one with layers of such modules, "
        f"got {type(module).__name__}"
    )


def to_efficient_kan_state_dict(module: KANLinear | KAN, *, standalone_scale: bool = True) -> dict[str, Tensor]:
    """State dict of the efficient-kan layer or network that computes the same.

    Build a model of efficient-kan with the sizes, grid size, spline order and activation of `module`, and load the
    state dict. efficient-kan has no bias, no extrapolation other than "zero" and no multiplication nodes; masked edges
    become 0.

    Args:
        module: a KANLinear or a KAN.
        standalone_scale: whether their `enable_standalone_scale_spline` is on, as it is by default; the scaler is 1.

    Raises:
        ValueError: a layer has a bias other than 0, another extrapolation or symbolic edges, or the network has
            products.
    """
    if isinstance(module, KANLinear):
        return _state(module, standalone_scale)
    if not isinstance(module, KAN):
        raise TypeError(f"to_efficient_kan_state_dict expected a KANLinear or a KAN, got {type(module).__name__}")
    if any(nodes.arities for nodes in module.nodes):
        raise ValueError(f"efficient-kan has no multiplication nodes, this network has width {module.width}")
    return {
        f"layers.{number}.{name}": tensor
        for number, layer in enumerate(module.layers)
        for name, tensor in _state(layer, standalone_scale).items()
    }


def _is_layer(module: nn.Module) -> bool:
    return all(hasattr(module, name) for name in _NAMES)


def _layer(module: Any) -> KANLinear:
    weight = module.spline_weight
    if getattr(module, "enable_standalone_scale_spline", hasattr(module, "spline_scaler")):
        if module.spline_scaler.shape != weight.shape[:2]:
            raise ValueError(
                f"spline_scaler must be {tuple(weight.shape[:2])}, got {tuple(module.spline_scaler.shape)}"
            )
        weight = weight * module.spline_scaler.detach()[..., None]
    return _build.layer(
        weight,
        module.base_weight,
        module.grid,
        degree=module.spline_order,
        base=_build.base_function(module.base_activation),
        grid_eps=getattr(module, "grid_eps", 0.02),
    )


def _state(layer: KANLinear, standalone_scale: bool) -> dict[str, Tensor]:
    if layer.bias is not None and layer.bias.any():
        raise ValueError("efficient-kan has no bias, this layer has one that is not 0; train a layer with bias=False")
    if layer.extrapolation != "zero":
        raise ValueError(
            f'efficient-kan has extrapolation "zero" only, this layer has "{layer.extrapolation}"; build it with '
            'extrapolation="zero", or set layer.extrapolation, which changes its values outside of the grid'
        )
    if layer.symbolic is not None:
        raise ValueError(f"efficient-kan has splines alone, this layer has symbolic edges: {layer.symbolic.places}")
    spline_weight, base_weight = layer.edge_weights()
    weight = spline_weight.detach().clone()
    base = torch.zeros_like(weight[..., 0]) if base_weight is None else base_weight.detach().clone()
    state = {"base_weight": base, "spline_weight": weight, "grid": layer.grid.clone()}
    return {**state, "spline_scaler": torch.ones_like(base)} if standalone_scale else state
