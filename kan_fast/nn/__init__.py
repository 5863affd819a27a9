"""Modules of torch: layers, networks, and the grids, nodes and edges that they are made of."""

from kan_fast.nn import functions, grids
from kan_fast.nn.edges import Edge
from kan_fast.nn.linear import KANLinear
from kan_fast.nn.network import Network
from kan_fast.nn.nodes import Nodes
from kan_fast.nn.recording import NotFinite
from kan_fast.nn.symbolic_edges import SymbolicEdges

__all__ = ["Edge", "KANLinear", "Network", "Nodes", "NotFinite", "SymbolicEdges", "functions", "grids"]
