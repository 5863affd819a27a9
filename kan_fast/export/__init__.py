"""Trained networks without torch: C99 and numpy, and plain aten operators for other exporters.

For ONNX use `torch.onnx.export(model, ..., dynamo=True)`: it needs no help.
"""

from kan_fast.export.aten import decompositions
from kan_fast.export.c import to_c
from kan_fast.export.numpy import to_numpy, to_numpy_source

__all__ = ["decompositions", "to_c", "to_numpy", "to_numpy_source"]
