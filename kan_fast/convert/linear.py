"""nn.Linear to KANLinear, one layer or a whole model, with the same function."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from kan_fast.convert._build import base_function
from kan_fast.functional import Base
from kan_fast.nn.grids import uniform_grid
from kan_fast.nn.linear import KANLinear

Filter = Callable[[str, nn.Linear], bool]


@torch.no_grad()
def from_linear(linear: nn.Linear, activation: Base | None = None, **kan_options: Any) -> KANLinear:
    """A KANLinear that computes `linear(activation(x))`: its base function is the activation, its splines are zero.

    The equality holds for every x, and training starts from there: splines get gradients at once.

    Args:
        linear: the layer to copy; it is not changed.
        activation: function that acts on the input of `linear`: None, a name ("silu", "relu", "gelu", "tanh",
            "sigmoid", "elu", "leaky_relu", "softplus", "identity") or a callable that acts on each element. "silu" and
            "identity" are fused into the kernels.
        kan_options: `grid_size`, `spline_order`, `grid_range`, `extrapolation` (here "linear" unless given),
            `grid_eps`, `backend` of KANLinear. The inputs should fall into `grid_range`: choose it, or call
            `update_grid` with samples.

    Returns:
        A layer on the same device and of the same dtype; its parameters need gradients where those of `linear` do.

    Raises:
        TypeError: `linear` is not an nn.Linear.
        ValueError: `linear` is parametrised or has hooks, which would be lost.
    """
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"from_linear expected an nn.Linear, got {type(linear).__name__}")
    _check_plain("linear", linear)
    if "base" in kan_options:
        raise TypeError("from_linear takes the base function as `activation`, not as `base`")
    layer = KANLinear(
        linear.in_features,
        linear.out_features,
        linear.bias is not None,
        base=base_function(activation),
        device="meta",  # draws no random numbers
        dtype=linear.weight.dtype,
        **{"extrapolation": "linear", **kan_options},
    ).to_empty(device=linear.weight.device)
    layer.spline_weight.zero_()
    layer.grid.copy_(uniform_grid(layer.in_features, layer.grid_size, layer.spline_order, layer.grid_range))
    for new, old in ((layer.base_weight, linear.weight), (layer.bias, linear.bias)):
        if new is not None:
            new.copy_(old).requires_grad_(old.requires_grad)
    return layer.train(linear.training)


def replace_linear(model: nn.Module, filter: Filter | None = None, **kan_options: Any) -> nn.Module:
    """Replace the nn.Linear layers of a model by KANLinear layers that compute the same (see `from_linear`).

    Layers whose type is exactly nn.Linear are replaced; subclasses stay, among them the output projection of
    nn.MultiheadAttention, whose weight torch reads itself. nn.TransformerEncoderLayer loses its inference fast path,
    which computes with the weights of linear1 and linear2, and calls the layers instead.

    Args:
        model: changed in place, all or nothing; if it is an nn.Linear itself, its replacement is only returned.
        filter: `filter(name, linear)` says whether to replace the layer of that qualified name; None replaces all.
        kan_options: as in `from_linear`.

    Returns:
        `model`, or its replacement. Build optimisers from its parameters afterwards.

    Raises:
        ValueError: no layer is chosen, or one has tied or parametrised weights or hooks; `filter` can leave it out.
    """
    if "activation" in kan_options or "base" in kan_options:
        raise TypeError("replace_linear keeps the model's activations: it takes neither `activation` nor `base`")
    chosen = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if parametrize.type_before_parametrizations(module) is nn.Linear and (filter is None or filter(name, module))
    }
    if not chosen:
        raise ValueError("replace_linear found no layer to replace: none is of type nn.Linear and accepted by filter")
    names = _parameter_names(model)
    for name, linear in chosen.items():
        _check_plain(name, linear)
        for parameter in linear.parameters():
            if len(names[parameter]) > 1:
                raise ValueError(
                    f"the weights of {name!r} are tied: {' = '.join(names[parameter])}; a replacement would separate "
                    f"them. Leave the layer out: replace_linear(model, filter=lambda name, linear: name != {name!r})"
                )
    layers = {name: from_linear(linear, **kan_options) for name, linear in chosen.items()}
    if "" in layers:
        return layers[""]
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    return model


def _parameter_names(model: nn.Module) -> dict[nn.Parameter, list[str]]:
    names = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[parameter].append(name)
    return names


def _check_plain(name: str, linear: nn.Linear) -> None:
    """Refuse a layer with parts that would be lost: parametrisations, old-style weight norm and pruning, hooks."""
    if parametrize.is_parametrized(linear) or set(linear._parameters) != {"weight", "bias"}:
        raise ValueError(
            f"the weights of {name!r} are parametrised (by {', '.join(dict(linear.named_parameters()))}); make them "
            "plain first, for example with torch.nn.utils.parametrize.remove_parametrizations"
        )
    if linear._forward_hooks or linear._forward_pre_hooks or linear._backward_hooks or linear._backward_pre_hooks:
        raise ValueError(
            f"{name!r} has hooks, which a replacement would lose; remove them first and add them again after"
        )
