"""Fast Kolmogorov-Arnold Networks for PyTorch."""

from kan_fast import convert, export, functional
from kan_fast._version import __version__
from kan_fast.dispatch import backends
from kan_fast.linear import KANLinear, explain
from kan_fast.network import KAN

__all__ = ["KAN", "KANLinear", "__version__", "backends", "convert", "explain", "export", "functional"]
