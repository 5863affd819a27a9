"""Pruning: smaller networks without the edges, nodes and inputs that explain little; and their removal in place."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from kan_fast._support.checks import below, integer, listed, real
from kan_fast.analysis import attribution
from kan_fast.nn import recording
from kan_fast.nn.linear import KANLinear
from kan_fast.nn.network import Network
from kan_fast.nn.nodes import Nodes

N = TypeVar("N", bound=Network)


def prune(model: N, node_th: float = 1e-2, edge_th: float = 3e-2, *, x: Tensor | None = None) -> N:
    """A smaller network: `prune_node(node_th)`, then `prune_edge(edge_th)`.

    Args:
        model: is not changed; `model.prune(...)` gives it.
        node_th: hidden nodes with a score up to this, at least 0, are removed; see `prune_node`.
        edge_th: edges with a score up to this, at least 0, are removed; see `prune_edge`.
        x: samples `(..., width_in[0])`; None for the inputs that `fit` trained on last.

    Returns:
        A network with all options of `model`, which shares no memory with it. The edges that stay have the same
        functions. The means that removed edges contributed are added to the biases, so that every subnode keeps its
        mean over the samples. At least one path to every output stays. `fit` it again, so that the edges that stay make
        up for the others.

    Raises:
        ValueError: there are no samples, fewer than two, or not finite ones; or parameters are not plain tensors.
        TypeError: the forward of `model` is not that of `KAN`.
    """
    return prune_edge(prune_node(model, node_th, x=x), edge_th, x=x)


def prune_node(
    model: N,
    threshold: float = 1e-2,
    active_neurons_id: Sequence[Sequence[int]] | None = None,
    *,
    x: Tensor | None = None,
) -> N:
    """Remove hidden nodes whose score (see `attribute`) is not above a threshold, with all their edges.

    Args:
        model: is not changed.
        threshold: at least 0.
        active_neurons_id: instead of scores, the nodes to keep in every hidden level, first to last.
        x: see `prune`. Returns and raises as `prune` does; and ValueError for nodes that don't exist.
    """
    samples, scores = _scores(model, x, "prune_node")
    width = model.width_in
    if active_neurons_id is None:
        threshold = real("threshold", threshold)
        hidden = [score > threshold for score in scores.nodes[1:-1]]
    else:
        if len(listed("active_neurons_id", active_neurons_id)) != len(width) - 2:
            raise ValueError(
                f"active_neurons_id must list the nodes to keep in each of the {len(width) - 2} hidden levels, got "
                f"{active_neurons_id!r}"
            )
        hidden = [
            _chosen(ids, count, scores.nodes[0].device, f"active_neurons_id[{level}]")
            for level, (ids, count) in enumerate(zip(active_neurons_id, width[1:-1], strict=True))
        ]
    everything = [torch.ones_like(scores.nodes[level], dtype=torch.bool) for level in (0, -1)]
    nodes = [everything[0], *hidden, everything[1]]
    keep = [
        after[level.owner][:, None] & before
        for level, before, after in zip(model.nodes, nodes[:-1], nodes[1:], strict=True)
    ]
    return _cut(model, keep, scores, samples)


def prune_edge(model: N, threshold: float = 3e-2, *, x: Tensor | None = None) -> N:
    """Remove edges whose score (see `attribute`) is not above a threshold, and nodes that are then on no path.

    Edges between nodes that stay are masked (`KANLinear.mask`).

    Args:
        model: is not changed. (pykan changes the network itself.)
        threshold: at least 0.
        x: see `prune`. Returns and raises as `prune` does.
    """
    samples, scores = _scores(model, x, "prune_edge")
    threshold = real("threshold", threshold)
    return _cut(model, [score > threshold for score in scores.edges], scores, samples)


def prune_input(
    model: N, threshold: float = 1e-2, active_inputs: Sequence[int] | None = None, *, x: Tensor | None = None
) -> N:
    """Remove inputs whose score (see `attribute`) is not above a threshold; the one with the best score stays.

    Args:
        model: is not changed.
        threshold: at least 0.
        active_inputs: instead of scores, the inputs to keep.
        x: see `prune`.

    Returns:
        As `prune`, a network that takes the remaining columns alone, in ascending order: `data[:, result.input_id]`.
        (pykan's takes all columns and drops some itself.)

    Raises:
        ValueError: as `prune`, or for inputs that don't exist, or none.
    """
    samples, scores = _scores(model, x, "prune_input")
    if active_inputs is None:
        kept = scores.feature > real("threshold", threshold)
        kept[scores.feature.argmax()] = True
    else:
        kept = _chosen(active_inputs, model.width_in[0], scores.feature.device, "active_inputs")
    keep = [torch.ones_like(score, dtype=torch.bool) for score in scores.edges]
    return _cut(model, keep, scores, samples, kept.nonzero().flatten().tolist())


@torch.no_grad()
def remove_edge(model: Network, l: int, i: int, j: int) -> None:  # noqa: E741  # pykan's name
    """Make an edge 0, in place: mask it (`KANLinear.mask`), also if it is symbolic. Sizes stay; see `prune_edge`.

    Args:
        model: the network; `model.remove_edge(...)` changes it.
        l: layer of the edge, from 0.
        i: node that it starts from.
        j: subnode that it leads to.

    Raises:
        ValueError: there is no such edge.
    """
    layer = model.layers[below("l", l, len(model.layers))]
    inputs, outputs = below("i", i, layer.in_features), below("j", j, layer.out_features)
    edges = torch.zeros(layer.out_features, layer.in_features, dtype=torch.bool, device=layer.grid.device)
    edges[outputs, inputs] = True
    _remove(layer, edges)


@torch.no_grad()
def remove_node(model: Network, l: int, i: int, mode: str = "all") -> None:  # noqa: E741  # pykan's name
    """Make the edges of a node 0, in place, as `remove_edge`; `prune_node` gives a smaller network.

    Args:
        model: the network; `model.remove_node(...)` changes it.
        l: level of the node, 0 for the inputs.
        i: its number.
        mode: "down" for the edges that lead to it, "up" for those that leave it, "all" for both.

    Raises:
        ValueError: there is no such node or mode.
    """
    level, node = below("l", l, len(model.width_in)), below("i", i, model.width_in[l])
    if mode not in ("all", "up", "down"):
        raise ValueError(f"mode must be 'all', 'up' or 'down', got {mode!r}")
    if mode != "down" and level < len(model.layers):
        edges = torch.zeros_like(model.layers[level].kinds.present)
        edges[:, node] = True
        _remove(model.layers[level], edges)
    if mode != "up" and level:
        edges = torch.zeros_like(model.layers[level - 1].kinds.present)
        edges[[subnode for subnode, owner in enumerate(model.nodes[level - 1].owner) if owner == node]] = True
        _remove(model.layers[level - 1], edges)


def _remove(layer: KANLinear, edges: Tensor) -> None:
    symbolic = [] if layer.symbolic is None else layer.symbolic.places
    layer.unfix_many([edge for edge in symbolic if edges[edge]])
    layer.mask = ~edges if layer.mask is None else layer.mask & ~edges


def _scores(model: Network, x: Tensor | None, what: str) -> tuple[Tensor, attribution.Attribution]:
    for layer in model.layers:
        layer.check_plain(what)
    samples = model.samples(x, what)
    return samples, attribution.attribute(model, x=samples)


def _chosen(ids: Sequence[int], count: int, device: torch.device, name: str) -> Tensor:
    numbers = [integer(f"an entry of {name}", n) for n in listed(name, ids)]
    if not numbers or min(numbers) < 0 or max(numbers) >= count:
        raise ValueError(f"{name} must list at least one number from 0 to {count - 1}, got {list(ids)}")
    chosen = torch.zeros(count, dtype=torch.bool, device=device)
    chosen[numbers] = True
    return chosen


@torch.no_grad()
def _cut(
    model: N,
    keep: Sequence[Tensor],
    scores: attribution.Attribution,
    x: Tensor,
    inputs: Sequence[int] | None = None,
) -> N:
    """A copy with the edges `keep`, `(out, in)` for every layer, with `inputs` alone, and the nodes that these need.

    Nodes that no input reaches on kept edges, or that reach no output, go. An output that would be cut off keeps its
    best path.
    """
    inputs = range(model.width_in[0]) if inputs is None else inputs
    there = [layer.kinds.present for layer in model.layers]
    absent = torch.ones_like(there[0][0])
    absent[list(inputs)] = False
    there[0] = there[0] & ~absent
    kept = [edges & some for edges, some in zip(there, keep, strict=True)]
    kept = _with_paths(model.nodes, kept, [s.masked_fill(~e, -1) for s, e in zip(scores.edges, there, strict=True)])
    kept, needed = _connected(model.nodes, kept)

    result = copy.deepcopy(model)
    ids = [list(inputs), *(level.nonzero().flatten().tolist() for level in needed[1:])]
    subnodes = [
        [subnode for subnode, node in enumerate(level.owner) if node in chosen]
        for level, chosen in zip(model.nodes, map(set, ids[1:]), strict=True)
    ]
    for number, (layer, edges) in enumerate(zip(model.layers, kept, strict=True)):
        kept_here = edges[subnodes[number]][:, ids[number]]
        small = layer.subset(subnodes[number], ids[number], kept_here)
        result.layers[number] = small  # type: ignore[index]  # a ModuleList
        result.nodes[number] = model.nodes[number].subset(ids[number + 1])  # type: ignore[index]
    result.input_id = [model.input_id[i] for i in inputs]
    if model.last_inputs.x is not None:
        result.last_inputs = recording.Samples(model.last_inputs.x[:, list(inputs)])
    _keep_means(model, result, kept, subnodes, x)
    return result


def _connected(nodes: Sequence[Nodes], edges: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The edges on paths from inputs to outputs, and the nodes of every level that are needed.

    A product of which only some factors vary keeps the others as constants. All outputs are needed.
    """
    varies, kept = _varying(nodes, edges)
    needed = [torch.ones_like(varies[-1])]
    for number in reversed(range(len(nodes))):
        kept[number] = kept[number] & needed[0][nodes[number].owner][:, None]
        needed.insert(0, kept[number].any(0))
        needed[0][0] |= not needed[0].any()  # a network that is constant has a node, without edges, in every level
    return kept, needed


def _varying(nodes: Sequence[Nodes], edges: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The nodes of every level that some input reaches on these edges, and the edges that start from such nodes."""
    varies, kept = [torch.ones_like(edges[0][0])], []
    for level, some in zip(nodes, edges, strict=True):
        kept.append(some & varies[-1])
        varies.append(_any_subnode(level, kept[-1].any(1)))
    return varies, kept


def _any_subnode(level: Nodes, subnodes: Tensor) -> Tensor:
    owner = torch.tensor(level.owner, device=subnodes.device)
    return torch.zeros(level.width, dtype=torch.long, device=subnodes.device).index_add_(0, owner, subnodes.long()) > 0


def _with_paths(nodes: Sequence[Nodes], edges: list[Tensor], scores: Sequence[Tensor]) -> list[Tensor]:
    """The edges, and a path to every output that they don't reach: the one whose weakest edge has the best score.

    Edges with a negative score can't be used. An output that had no path before pruning stays constant.
    """
    edges = [some.clone() for some in edges]
    value, choices = torch.full_like(scores[0][0], torch.inf), []
    for level, score in zip(nodes, scores, strict=True):
        best, source = torch.minimum(score, value).max(1)
        choices.append((best, source))
        value = torch.stack([best[[s for s, o in enumerate(level.owner) if o == n]].max() for n in range(level.width)])
    for output in (~_varying(nodes, edges)[0][-1] & (value >= 0)).nonzero().flatten().tolist():
        node = output
        for level, some, (best, source) in zip(reversed(nodes), reversed(edges), reversed(choices), strict=True):
            subnode = max((s for s, o in enumerate(level.owner) if o == node), key=lambda s: best[s].item())
            node = int(source[subnode])
            some[subnode, node] = True
    return edges


def _keep_means(
    old: Network, new: Network, kept: Sequence[Tensor], subnodes: Sequence[Sequence[int]], x: Tensor
) -> None:
    """Shift the biases of `new` so that every subnode has the mean over the samples that it had in `old`."""
    before, after = x, x[:, [old.input_id.index(i) for i in new.input_id]]
    changed = torch.zeros_like(kept[0][0])  # nodes whose values differ from those in `old`, by their numbers there
    for number, (layer, small) in enumerate(zip(old.layers, new.layers, strict=True)):
        edges = kept[number]
        moved = ((layer.kinds.present & ~edges) | (edges & changed)).any(1)
        y, z = layer(before), small(after)
        shift = (y[:, subnodes[number]].double() - z.double()).mean(0) * moved[subnodes[number]]
        if small.bias is None and shift.any():
            small.bias = nn.Parameter(torch.zeros_like(z[0]))
        if small.bias is not None:
            small.bias.add_(shift)
        changed = _any_subnode(old.nodes[number], moved)
        before, after = old.nodes[number](y), new.nodes[number](z + shift.to(z.dtype))
    if not torch.allclose(before, old(x)):
        raise TypeError(
            "pruning needs a network whose forward is that of KAN, its layers one after the other; "
            f"{type(old).__name__} computes something else"
        )
