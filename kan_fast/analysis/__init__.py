"""Analysis of trained networks: curves of edges, scores, and smaller networks."""

from kan_fast.analysis.attribution import Attribution, attribute
from kan_fast.analysis.edges import bending, edge_deviation, edge_values
from kan_fast.analysis.pruning import prune, prune_edge, prune_input, prune_node, remove_edge, remove_node

__all__ = [
    "Attribution",
    "attribute",
    "bending",
    "edge_deviation",
    "edge_values",
    "prune",
    "prune_edge",
    "prune_input",
    "prune_node",
    "remove_edge",
    "remove_node",
]
