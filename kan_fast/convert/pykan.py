"""Networks of pykan (github.com/KindXiaoming/pykan, checked against 0.2.8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kan_fast._support.checks import integer, listed
from kan_fast.convert import _build
from kan_fast.functional import Base
from kan_fast.model import KAN
from kan_fast.nn.functions import find
from kan_fast.nn.linear import KANLinear
from kan_fast.nn.nodes import Nodes, levels


def from_pykan(model: Any) -> KAN:
    """Copy a trained network of pykan.

    An edge there is `mask * (scale_base * base(x) + scale_sp * spline(x))`, and a subnode `a * sum(edges) + b` with the
    affine parameters `subnode_scale` and `subnode_bias`; likewise a node with `node_scale` and `node_bias`, after
    subnodes have been multiplied. All of these factors are multiplied into the weights, those of a product into its
    first factor, and b becomes the bias. Grids are copied as they are, adaptive ones too. Edges whose mask is 0 there
    are masked here (`KANLinear.mask`). Symbolic edges become symbolic edges (`KANLinear.symbolic`), those with the
    function "0" a part of the bias.

    After pykan's `prune_input` a network reads some columns of its data, `model.input_id`; the result takes these
    columns alone, in ascending order.

    Args:
        model: a `kan.MultKAN` (`kan.KAN`).

    Raises:
        TypeError: `model` is not a network of pykan, or a part of it is not of pykan's class.
        ValueError: it has a product with a `node_bias`, an edge that is a spline and a function at once, a function
            not in the library (see `kan_fast.nn.functions.add_symbolic`), grids of different sizes, or knots that
            do not increase strictly.
    """
    attributes = (
        "act_fun",
        "symbolic_fun",
        "node_scale",
        "subnode_scale",
        "width",
        "mult_arity",
        "input_id",
        "symbolic_enabled",
    )
    missing = [name for name in attributes if not hasattr(model, name)]
    if missing:
        raise TypeError(f"from_pykan expected a pykan model, got {type(model).__name__} without {', '.join(missing)}")
    _check_shapes(model)
    columns = model.input_id.argsort()
    found = levels(model.width, model.mult_arity)[1:]
    for layer, (sums, arities) in zip(model.act_fun, found, strict=True):
        if sums + sum(arities) != layer.coef.shape[1]:
            raise ValueError(f"width {model.width} and mult_arity {model.mult_arity} do not fit the layers")
    nodes = [Nodes(*level) for level in found]
    result = _build.network(
        [_layer(model, level, columns if level == 0 else slice(None), n) for level, n in enumerate(nodes)], nodes
    )
    result.input_id = model.input_id[columns].tolist()
    return result


def _check_shapes(model: Any) -> None:
    """Refuse a model whose tensors do not fit its width: copies would broadcast some, and take memory for others."""
    try:
        sizes = {(layer.grid.shape[1], integer("k", layer.k, 0)) for layer in model.act_fun}
    except (AttributeError, LookupError, TypeError) as error:
        raise TypeError(f"the layers of the pykan model are not pykan's: {error}") from error
    if len(sizes) > 1:
        raise ValueError(f"a KAN has one grid size and degree; the layers have (knots, degree) {sorted(sizes)}")
    levels_ = list(zip(model.act_fun, model.symbolic_fun, strict=True))
    pairs = [[entry] if isinstance(entry, int) else listed("a width", entry) for entry in listed("width", model.width)]
    counts = [sum(integer("a number of nodes", number, 0) for number in pair) for pair in pairs]
    if len(counts) != len(levels_) + 1:
        raise ValueError(f"the pykan model has width {model.width} and {len(levels_)} layers")
    for level, (layer, symbolic) in enumerate(levels_):
        try:
            inputs, outputs, rows = layer.coef.shape
            nodes, edges = counts[level + 1], (inputs, outputs)
            expected = {
                "coef": (layer.coef, (*edges, rows)),
                "grid": (layer.grid, (inputs, rows + layer.k + 1)),
                **{name: (getattr(layer, name), edges) for name in ("mask", "scale_base", "scale_sp")},
                "mask of functions": (symbolic.mask, edges[::-1]),
                "affine": (symbolic.affine, (*edges[::-1], 4)),
                **{name: (getattr(model, name)[level], (outputs,)) for name in ("subnode_scale", "subnode_bias")},
                **{name: (getattr(model, name)[level], (nodes,)) for name in ("node_scale", "node_bias")},
            }
            for name, (tensor, _) in expected.items():
                if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or not tensor.is_floating_point():
                    raise TypeError(f"{name} must be a dense tensor of real numbers, got {tensor!r:.80}")
                if tensor.device != layer.coef.device or tensor.is_meta:
                    raise TypeError(f"{name} is on {tensor.device}, coef on {layer.coef.device}")
            dtypes = {tensor.dtype for name, (tensor, _) in expected.items() if "node" in name}
            if len(dtypes) > 1:
                raise TypeError(f"the affine parameters of nodes must have one dtype, got {dtypes}")
            shapes = {name: (tuple(tensor.shape), allowed) for name, (tensor, allowed) in expected.items()}
            shapes["names of functions"] = (tuple(map(len, symbolic.funs_name)), (inputs,) * outputs)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise TypeError(f"layer {level} of the pykan model is not one of pykan's: {error}") from error
        for name, (shape, allowed) in shapes.items():
            if shape != allowed:
                raise ValueError(f"{name} of layer {level} must have the shape {allowed}, got {shape}")
    columns = model.input_id
    if not isinstance(columns, Tensor) or columns.dtype != torch.int64 or columns.layout != torch.strided:
        raise TypeError(f"input_id must be an int64 tensor, got {columns!r:.80}")
    if tuple(columns.shape) != (counts[0],) or columns.is_meta:
        raise ValueError(f"input_id must have {counts[0]} columns, got {columns}")


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
    edges, names, functions, constants = _symbolic(model, level)
    result = _build.layer(
        spline_weight[columns].transpose(0, 1),
        base_weight[columns].T,
        layer.grid[columns],
        bias + factor * constants,
        degree=layer.k,
        base=_base(model, layer),
        grid_eps=layer.grid_eps,
    )
    result.mask = None if present.all() else present
    if edges:
        order = list(range(len(layer.mask)))[columns] if isinstance(columns, slice) else columns.tolist()
        places = [(o, order.index(i)) for o, i in edges]
        functions[:, 2:] *= factor[[o for o, _ in edges], None]
        result.fix_many(places, names, functions)
    return result


def _base(model: Any, layer: Any) -> Base:
    if getattr(model, "base_fun_name", None) == "zero":
        return "zero"
    return _build.base_function(layer.base_fun)


def _symbolic(model: Any, level: int) -> tuple[list[tuple[int, int]], list[str], Tensor, Tensor]:
    """Symbolic edges (output, input), names and affine parameters `(n, 4)`; the sums of constant edges, `(out,)`."""
    symbolic, splines = model.symbolic_fun[level], model.act_fun[level].mask
    mask = symbolic.mask * float(model.symbolic_enabled)  # (out, in)
    constant = torch.tensor([[name == "0" for name in row] for row in symbolic.funs_name], device=mask.device)
    edges = [(o, i) for o, i in (mask * ~constant).nonzero().tolist()]
    names = [symbolic.funs_name[o][i] for o, i in edges]
    for (o, i), name in zip(edges, names, strict=True):
        if splines[i, o] != 0:
            raise ValueError(
                f"from_pykan can't convert an edge that is a spline and a function at once; (layer, input, output) "
                f"{(level, i, o)} is so. Choose one with model.set_mode(layer, input, output, 's') or 'n'"
            )
        _check_same(name, symbolic.funs[o][i] if hasattr(symbolic, "funs") else None)
    outputs, inputs = [o for o, _ in edges], [i for _, i in edges]
    affine = symbolic.affine[outputs, inputs].clone()
    affine[:, 2:] *= mask[outputs, inputs][:, None]
    return edges, names, affine, (mask * constant * symbolic.affine[..., 3]).sum(1)


def _check_same(name: str, theirs: Callable[[Tensor], Tensor] | None) -> None:
    """Refuse a function that has the name of a different one in the library."""
    try:
        ours = find(name)
    except OverflowError as error:
        raise ValueError(f"the exponent of {name!r:.40} is too large") from error
    z = torch.linspace(-2.3, 2.4, 48, dtype=torch.float64)
    if theirs is not None and not torch.allclose(theirs(z), ours.evaluate(z), rtol=1e-5, atol=1e-6, equal_nan=True):
        raise ValueError(
            f"the function {name!r} of this pykan model is another than the one of that name in kan_fast's library; "
            "replace that one with kan_fast.nn.functions.add_symbolic"
        )
