"""Attribution: scores of edges, nodes and inputs by their share in the output, propagated back through the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kan_fast._support.checks import integer
from kan_fast.analysis.edges import edge_deviation
from kan_fast.nn.linear import KANLinear
from kan_fast.nn.network import Network
from kan_fast.nn.nodes import Nodes


class Attribution(NamedTuple):
    """Scores, non-negative; level 0 is that of the inputs, and layer l leads from level l to level l + 1."""

    nodes: list[Tensor]  # of every level, (width_in[l],)
    subnodes: list[Tensor]  # of the outputs of every layer, (width_out[l + 1],)
    edges: list[Tensor]  # of every layer, (out, in)

    @property
    def feature(self) -> Tensor:
        """Scores of the inputs, `(width_in[0],)`."""
        return self.nodes[0]


def edge_shares(layer: KANLinear, x: Tensor) -> Tensor:
    """`E / N`, `(out, in)`: deviations of the edges in units of the deviation of the subnode that they lead to.

    N has no gradient, as in pykan, and counts as at least 1e-4 of the largest in the layer and as the rounding of the
    outputs, so that constant subnodes have no shares to give. (pykan adds 1e-4 to N, which depends on the units of the
    output.)
    """
    deviation = edge_deviation(layer, x)
    with torch.no_grad():
        outputs = layer(x).reshape(-1, len(deviation)).double()
        subnode = outputs.std(0)
        rounding = torch.finfo(deviation.dtype).eps * outputs.abs().max()
        subnode = subnode.clamp_min((1e-4 * subnode.max()).clamp_min(rounding + 1e-30)).to(deviation.dtype)
    return deviation / subnode[:, None]


def propagate(nodes: Sequence[Nodes], shares: Sequence[Tensor], score: Tensor) -> Attribution:
    """Carry scores `(..., n)` of the nodes of the last level back to the first level (see `attribute`).

    All results have the leading dimensions of `score`.
    """
    result = Attribution([score], [], [])
    for level, share in zip(reversed(nodes), reversed(shares), strict=True):
        subnode = score[..., level.owner]
        edge = subnode[..., None] * share
        score = edge.sum(-2)
        result.nodes.insert(0, score)
        result.subnodes.insert(0, subnode)
        result.edges.insert(0, edge)
    return result


@torch.no_grad()
def attribute(
    model: Network,
    l: int | None = None,  # noqa: E741  # pykan's name
    i: int | None = None,
    out_score: Tensor | None = None,
    *,
    x: Tensor | None = None,
) -> Attribution:
    """Scores of the edges, nodes and inputs of a network (KAN 2.0, arXiv 2408.10205, section 4.1).

    A subnode has the score A of its node. An edge with the standard deviation E over the samples, which leads to a
    subnode with the deviation N, has the score `B = A E / N`. A node has the sum of B over the edges that leave it.
    Scores are linear in the scores at the start.

    Args:
        model: the network; `model.attribute(...)` gives it.
        l: level to start from, 1 to the number of layers; None for the last, the output.
        i: node of that level that alone starts with a score; None for all.
        out_score: scores `(width_in[l],)` to start from; None for 1 each. (pykan starts from 1 / n at each of n
            outputs, and at a hidden level from the scores of its nodes.)
        x: samples `(..., width_in[0])`, finite, at least two; None for the inputs that `fit` trained on last.

    Returns:
        Scores of levels 0 to l. `.feature` are those of the inputs.

    Raises:
        ValueError: there are no samples, fewer than two, or not finite ones; or l, i or out_score don't fit.
    """
    depth = len(model.layers)
    level = depth if l is None else integer("l", l, 1)
    if level > depth:
        raise ValueError(f"l must be a level from 1 to {depth}, got {l}")
    count = model.width_in[level]
    like = model.layers[0].spline_weight
    score = like.new_ones(count) if out_score is None else torch.as_tensor(out_score).to(like)
    if score.shape != (count,):
        raise ValueError(f"out_score must have the shape ({count},) of the nodes of level {level}, got {score.shape}")
    if i is not None:
        if not 0 <= integer("i", i) < count:
            raise ValueError(f"i must be a node of level {level}, 0 to {count - 1}, got {i}")
        score = score * torch.eye(count, dtype=like.dtype, device=like.device)[i]
    inputs = model.reached(x, "attribute")[:level]
    shares = [edge_shares(layer, reached) for layer, reached in zip(model.layers[:level], inputs, strict=True)]
    return propagate(model.nodes[:level], shares, score)
