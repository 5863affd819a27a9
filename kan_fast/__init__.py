"""Fast Kolmogorov-Arnold Networks for PyTorch."""

from kan_fast import convert, export, functional
from kan_fast._version import __version__
from kan_fast.loops import GridUpdates, coverage, refine_grids, update_grids
from kan_fast.model import KAN
from kan_fast.nn.linear import KANLinear, explain
from kan_fast.ops.dispatch import backends

__all__ = [
    "KAN",
    "GridUpdates",
    "KANLinear",
    "__version__",
    "backends",
    "convert",
    "coverage",
    "explain",
    "export",
    "functional",
    "refine_grids",
    "update_grids",
]
