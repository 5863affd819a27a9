"""Conversion from nn.Linear, efficient-kan and pykan, exact to rounding; and back to efficient-kan."""

from kan_fast.convert.efficient_kan import from_efficient_kan, to_efficient_kan_state_dict
from kan_fast.convert.linear import from_linear, replace_linear
from kan_fast.convert.pykan import from_pykan

__all__ = ["from_efficient_kan", "from_linear", "from_pykan", "replace_linear", "to_efficient_kan_state_dict"]
