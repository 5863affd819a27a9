"""Networks of pykan (github.com/KindXiaoming/pykan, checked against 0.2.8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kan_fast.convert import _build
from kan_fast.functional import Base
from kan_fast.linear import KANLinear
from kan_fast.network import KAN
from kan_fast.nodes import Nodes, levels


def from_pykan(model: Any) -> KAN:
    """Copy a trained network of pykan.

    An edge there is `mask * (scale_base * base(x) + scale_sp * spline(x))`, and a subnode `a * sum(edges) + b` with the
    affine parameters `subnode_scale` and `subnode_bias`; likewise a node with `node_scale` and `node_bias`, after
    subnodes have been multiplied. All of these factors are multiplied into the weights, those of a product into its
    first factor, and b becomes the bias. Grids are copied as they are, adaptive ones too. Edges whose mask is 0 there
    are masked here (`KANLinear.mask`).

    A network that `prune_input` has cut down reads some columns of its data, `model.input_id`; the result takes these
    columns alone, in ascending order.

    Args:
        model: a `kan.MultKAN` (`kan.KAN`).

    Raises:
        TypeError: `model` is not one.
        ValueError: it has a product with a `node_bias`, symbolic edges other than constants, grids of different sizes,
            or knots that do not increase strictly.
    """
    attributes = ("act_fun", "symbolic_fun", "node_scale", "subnode_scale", "width", "mult_arity", "input_id")
    missing = [name for name in attributes if not hasattr(model, name)]
    if missing:
        raise TypeError(f"from_pykan expected a pykan model, got {type(model).__name__} without {', '.join(missing)}")
    sizes = [(layer.grid.shape[1], layer.k) for layer in model.act_fun]
    if len(set(sizes)) > 1:
        raise ValueError(f"a KAN has one grid size and degree; the layers have (knots, degree) {sizes}")
    columns = model.input_id.argsort()
    nodes = [Nodes(*level) for level in levels(model.width, model.mult_arity)[1:]]
    result = _build.network(
        [_layer(model, level, columns if level == 0 else slice(None), n) for level, n in enumerate(nodes)], nodes
    )
    result.input_id = model.input_id[columns].tolist()
    return result


@torch.no_grad()
def _layer(model: Any, level: int, columns: Tensor | slice, nodes: Nodes) -> KANLinear:
    layer = model.act_fun[level]
    if model.node_bias[level][nodes.sums :].any():
        raise ValueError(f"from_pykan can't convert products with an affine node_bias; level {level + 1} has some")
    scale, shift = torch.ones_like(model.subnode_scale[level]), torch.zeros_like(model.subnode_bias[level])
    first = [
        nodes.owner.index(node) for node in range(nodes.width)
    ]  # the subnode that takes the affine map of its node
    scale[first], shift[first] = model.node_scale[level], model.node_bias[level]
    factor = scale * model.subnode_scale[level]  # (out,)
    mask = factor * layer.mask  # (in, out)
    bias = scale * model.subnode_bias[level] + shift
    spline_weight = (mask * layer.scale_sp)[..., None] * layer.coef  # (in, out, G + k)
    base_weight = mask * layer.scale_base
    present = layer.mask[columns].T != 0
    result = _build.layer(
        spline_weight[columns].transpose(0, 1),
        base_weight[columns].T,
        layer.grid[columns],
        bias + factor * _symbolic_constants(model, level),
        degree=layer.k,
        base=_base(model, layer),
        grid_eps=layer.grid_eps,
    )
    result.mask = None if present.all() else present
    return result


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
