"""A network as plain numbers, from which exports without torch are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kan_fast.nn.linear import KANLinear
from kan_fast.nn.network import Network
from kan_fast.nn.nodes import Nodes

if TYPE_CHECKING:
    import sympy


class Symbolic(NamedTuple):
    """The symbolic edges of a layer that have one function."""

    formula: sympy.Expr  # of the symbol z
    outputs: list[int]  # the output that each edge leads to
    inputs: list[int]  # the input that each edge starts from
    affine: npt.NDArray  # (n, 4)


class Plain(NamedTuple):
    """The numbers of one layer, in the order in which the exported functions take them."""

    knots: npt.NDArray  # (in, G + 2k + 1)
    spline: npt.NDArray | None  # (in, G + k, out); without it there is no base function either
    base_weight: npt.NDArray | None  # (in, out)
    bias: npt.NDArray  # (out,)
    degree: int
    base: str
    extrapolation: str
    arities: tuple[int, ...]  # factors of each product; the last sum(arities) outputs are multiplied
    symbolic: tuple[Symbolic, ...]  # edges that are added

    @property
    def width(self) -> int:
        """Number of values that the layer passes on, with products multiplied."""
        return len(self.bias) - sum(self.arities) + len(self.arities)


def plain_layers(model: nn.Module, dtype: torch.dtype | None = None) -> list[Plain]:
    """The layers of a KANLinear, a KAN, or an nn.Sequential of them; dropout and nn.Identity are left out.

    Splines on masked and on symbolic edges are 0; a layer without others has none. `Nodes` become part of the
    KANLinear that they follow.

    Args:
        model: the model to export.
        dtype: torch.float32 or torch.float64; None takes float64 for a float64 model, else float32.

    Raises:
        TypeError: the model holds something else, or a base function that is a callable.
        ValueError: there is no layer, a size is 0, or a number is not finite.
    """
    parts = list(_parts(model))
    layers = [part for part in parts if isinstance(part, KANLinear)]
    if not layers:
        raise ValueError("the model has no KANLinear to export")
    for layer, nodes in zip([None, *parts], parts, strict=False):
        if isinstance(nodes, Nodes) and (not isinstance(layer, KANLinear) or layer.out_features != len(nodes.owner)):
            raise ValueError(f"can't export {nodes}: it must follow a KANLinear with {len(nodes.owner)} outputs")
    if dtype is None:
        dtype = torch.promote_types(layers[0].spline_weight.dtype, torch.float32)
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    return [
        _plain(layer, nodes.arities if isinstance(nodes, Nodes) else (), dtype)
        for layer, nodes in zip(parts, [*parts[1:], None], strict=True)
        if isinstance(layer, KANLinear)
    ]


def _parts(model: nn.Module) -> Iterator[KANLinear | Nodes]:
    if type(model) is KANLinear or type(model) is Nodes:
        yield model
    elif isinstance(model, Network) and type(model).__module__.startswith("kan_fast."):  # subclasses may differ
        for layer, nodes in zip(model.layers, model.nodes, strict=True):
            yield from _parts(layer)
            yield from _parts(nodes)
    elif type(model) is nn.Sequential:
        for child in model:
            yield from _parts(child)
    elif not isinstance(model, nn.Identity | nn.Dropout):
        raise TypeError(f"can't export {type(model).__name__}; allowed: KAN, KANLinear and nn.Sequential of them")


def _plain(layer: KANLinear, arities: tuple[int, ...], dtype: torch.dtype) -> Plain:
    splines = layer.has_splines()
    if splines and not isinstance(layer.base, str):
        raise TypeError(f"can't export the callable base function {layer.base!r}; allowed: 'silu', 'identity', 'zero'")
    if not layer.spline_weight.numel():
        raise ValueError(f"can't export a layer without edges: {layer}")

    def numbers(tensor: Tensor) -> npt.NDArray:
        if not tensor.isfinite().all():
            raise ValueError(f"can't export NaN or infinity, which the parameters hold: {layer}")
        return np.ascontiguousarray(tensor.detach().to("cpu", dtype).numpy())

    spline_weight, base_weight = layer.edge_weights()
    return Plain(
        numbers(layer.grid),
        numbers(spline_weight.permute(1, 2, 0)) if splines else None,
        numbers(base_weight.T) if splines and base_weight is not None else None,
        numbers(torch.zeros(layer.out_features) if layer.bias is None else layer.bias),
        layer.spline_order,
        layer.base if isinstance(layer.base, str) and splines else "zero",
        layer.extrapolation,
        arities,
        tuple(_symbolic(layer, numbers)) if layer.symbolic is not None else (),
    )


def _symbolic(layer: KANLinear, numbers: Callable[[Tensor], npt.NDArray]) -> Iterator[Symbolic]:
    import sympy

    assert layer.symbolic is not None
    z, rows = sympy.Symbol("z"), numbers(layer.symbolic.affine)
    for function, run in groupby(enumerate(layer.symbolic.items()), key=lambda item: item[1][1]):
        edges = [(n, edge) for n, (edge, _, _) in run]
        outputs, inputs = ([edge[side] for _, edge in edges] for side in (0, 1))
        yield Symbolic(function.formula(z), outputs, inputs, rows[[n for n, _ in edges]])
