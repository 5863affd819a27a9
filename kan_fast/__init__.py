"""Fast Kolmogorov-Arnold Networks for PyTorch."""

from kan_fast import functional
from kan_fast._version import __version__
from kan_fast.dispatch import backends
from kan_fast.linear import KANLinear, explain

__all__ = ["KANLinear", "__version__", "backends", "explain", "functional"]
