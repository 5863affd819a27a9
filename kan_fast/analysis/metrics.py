"""Measures of edges for sparsity terms and pictures: deviations and scores, under pykan's names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from kan_fast.analysis.attribution import edge_shares, propagate
from kan_fast.analysis.edges import edge_deviation, spline_deviation
from kan_fast.nn.network import Network


def _deviation_per_input(model: Network, inputs: Sequence[Tensor]) -> list[Tensor]:
    return [
        deviation / (x.flatten(0, -2).std(0) + 0.1)
        for deviation, x in zip(_deviation(model, inputs), inputs, strict=True)
    ]


def _spline_deviation_per_input(model: Network, inputs: Sequence[Tensor]) -> list[Tensor]:
    return [
        spline_deviation(layer, x) / (x.flatten(0, -2).std(0) + 0.1)
        for layer, x in zip(model.layers, inputs, strict=True)
    ]


def _deviation(model: Network, inputs: Sequence[Tensor]) -> list[Tensor]:
    return [edge_deviation(layer, x) for layer, x in zip(model.layers, inputs, strict=True)]


def _edge_scores(model: Network, inputs: Sequence[Tensor]) -> list[Tensor]:
    shares = [edge_shares(layer, x) for layer, x in zip(model.layers, inputs, strict=True)]
    outputs = model.width_in[-1]
    return propagate(model.nodes, shares, shares[0].new_full((outputs,), 1 / outputs)).edges


def _node_scores(model: Network, inputs: Sequence[Tensor]) -> list[Tensor]:
    """For every level but the first, the scores `(nodes, inputs)` of the inputs from each node with its own score."""
    shares = [edge_shares(layer, x) for layer, x in zip(model.layers, inputs, strict=True)]
    outputs = model.width_in[-1]
    scores = propagate(model.nodes, shares, shares[0].new_full((outputs,), 1 / outputs)).nodes
    return [
        propagate(model.nodes[:level], shares[:level], scores[level].diag()).nodes[0]
        for level in range(1, len(model.layers) + 1)
    ]


# pykan's name of each measure, and the function that gives it `(rows, columns)` for every layer, non-negative.
METRICS: dict[str, Callable[[Network, Sequence[Tensor]], list[Tensor]]] = {
    "edge_forward_spline_n": _spline_deviation_per_input,
    "edge_forward_sum": _deviation_per_input,
    "edge_forward_spline_u": _deviation,
    "edge_backward": _edge_scores,
    "node_backward": _node_scores,
}
