"""For those who come from pykan: `from kan_fast.pykan import *` in place of `from kan import *`.

The networks here are those of `kan_fast` with pykan's spellings beside its own; docs/pykan.md lists them.
"""

from kan_fast.pykan.network import KAN
from kan_fast.pykan.utils import SYMBOLIC_LIB, add_symbolic, create_dataset, create_dataset_from_data, ex_round

MultKAN = KAN

__all__ = ["KAN", "SYMBOLIC_LIB", "MultKAN", "add_symbolic", "create_dataset", "create_dataset_from_data", "ex_round"]
