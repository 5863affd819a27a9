"""The functions on single edges, as numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from kan_fast.nn.linear import KANLinear
from kan_fast.ops import reference

CHUNK = 1 << 22  # numbers of float64 in a temporary


@torch.no_grad()
def edge_values(layer: KANLinear, x: Tensor, edges: Tensor) -> Tensor:
    """`phi_oi(x_i)` of some edges, splines, symbolic or masked (0), in float64.

    Args:
        layer: their layer.
        x: samples of its inputs, `(n, in)`.
        edges: pairs (output, input) `(m, 2)`.

    Returns:
        `(n, m)`.
    """
    x, grid = x.double(), layer.grid.double()
    spline_weight, base_weight = (None if w is None else w.double() for w in layer.edge_weights())
    symbolic = terms = None
    if layer.symbolic is not None:
        terms = layer.symbolic.terms(x)
        symbolic = layer.symbolic.place(torch.arange(1, 1 + len(terms), device=x.device))
    assert spline_weight is not None
    parts = []
    for some in edges.split(max(1, CHUNK // (len(x) * spline_weight.shape[2]))):
        output, input_ = some.unbind(1)
        rows = reference.basis(x[:, input_], grid[input_], layer.spline_order, 0, layer.extrapolation)
        values = (rows * spline_weight[output, input_]).sum(2)
        if base_weight is not None:
            values += base_weight[output, input_] * reference.base_function(x[:, input_], layer.base)
        if symbolic is not None and terms is not None:
            number = symbolic[output, input_]
            values = torch.where(number > 0, terms.T[:, number - 1], values)
        parts.append(values)
    return torch.cat(parts, 1) if parts else x.new_empty(len(x), 0)
