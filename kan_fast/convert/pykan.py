"""Networks of pykan (github.com/KindXiaoming/pykan, checked against 0.2.8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kan_fast.convert import _build
from kan_fast.functional import Base
from kan_fast.linear import KANLinear
from kan_fast.network import KAN


def from_pykan(model: Any) -> KAN:
    """Copy a trained network of pykan.

    An edge there is `mask * (scale_base * base(x) + scale_sp * spline(x))`, and a node `a * sum(edges) + b` with the
    affine parameters `subnode_scale`, `subnode_bias`, `node_scale` and `node_bias`. All of these factors are multiplied
    into the weights, and b becomes the bias. Grids are copied as they are, adaptive ones too. Masked edges become zero
    and can be trained again.

    A network that `prune_input` has cut down reads some columns of its data, `model.input_id`; the result takes these
    columns alone, in ascending order.

    Args:
        model: a `kan.MultKAN` (`kan.KAN`).

    Raises:
        TypeError: `model` is not one.
        ValueError: it has multiplication nodes, symbolic edges other than constants, grids of different sizes, or knots
            that do not increase strictly.
    """
    attributes = ("act_fun", "symbolic_fun", "node_scale", "subnode_scale", "width", "input_id")
    missing = [name for name in attributes if not hasattr(model, name)]
    if missing:
        raise TypeError(f"from_pykan expected a pykan model, got {type(model).__name__} without {', '.join(missing)}")
    products = [level for level, (_, count) in enumerate(model.width) if count]
    if products:
        raise ValueError(f"from_pykan can't convert multiplication nodes; levels {products} have some: {model.width}")
    sizes = [(layer.grid.shape[1], layer.k) for layer in model.act_fun]
    if len(set(sizes)) > 1:
        raise ValueError(f"a KAN has one grid size and degree; the layers have (knots, degree) {sizes}")
    columns = model.input_id.argsort()
    return _build.network(
        [_layer(model, level, columns if level == 0 else slice(None)) for level in range(len(model.act_fun))]
    )


@torch.no_grad()
def _layer(model: Any, level: int, columns: Tensor | slice) -> KANLinear:
    layer = model.act_fun[level]
    factor = model.node_scale[level] * model.subnode_scale[level]  # (out,)
    mask = factor * layer.mask  # (in, out)
    bias = model.node_scale[level] * model.subnode_bias[level] + model.node_bias[level]
    spline_weight = (mask * layer.scale_sp)[..., None] * layer.coef  # (in, out, G + k)
    base_weight = mask * layer.scale_base
    return _build.layer(
        spline_weight[columns].transpose(0, 1),
        base_weight[columns].T,
        layer.grid[columns],
        bias + factor * _symbolic_constants(model, level),
        degree=layer.k,
        base=_base(model, layer),
        grid_eps=layer.grid_eps,
    )


def _base(model: Any, layer: Any) -> Base:
    if getattr(model, "base_fun_name", None) == "zero":
        return "zero"
    return _build.base_function(layer.base_fun)


def _symbolic_constants(model: Any, level: int) -> Tensor:
    """Sum over the inputs of the symbolic edges, `(out,)`; they may be `c * 0 + d` only."""
    symbolic = model.symbolic_fun[level]
    mask = symbolic.mask * float(model.symbolic_enabled)  # (out, in)
    others = [
        f"({level}, {i}, {o}): {symbolic.funs_name[o][i]}"
        for o, i in mask.nonzero().tolist()
        if symbolic.funs_name[o][i] != "0"
    ]
    if others:
        raise ValueError(
            f"from_pykan can't convert symbolic edges; (layer, input, output) {'; '.join(others)}. Turn them back into "
            f"splines with model.unfix_symbolic(layer, input, output), then convert"
        )
    return (mask * symbolic.affine[..., 3]).sum(1)
