"""Networks as numpy functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kan_fast._version import __version__
from kan_fast.export import _numpy_kan
from kan_fast.export._plain import Plain, plain_layers


def to_numpy(model: nn.Module, dtype: torch.dtype | None = None) -> Callable[[npt.ArrayLike], npt.NDArray]:
    """A function of one array, (..., in) to (..., out), that computes what the model does, in numpy.

    Args:
        model: a KAN, a KANLinear, or an nn.Sequential of them.
        dtype: torch.float32 or torch.float64, to compute in; None takes float64 for a float64 model, else float32.

    Raises:
        TypeError, ValueError: the model can't be exported; the message says why.
    """
    return partial(_numpy_kan.network, layers=plain_layers(model, dtype))


def to_numpy_source(model: nn.Module, name: str = "kan", dtype: torch.dtype | None = None) -> str:
    """A Python module with the function that `to_numpy` returns and all numbers; it needs numpy alone.

    Args:
        model: as in `to_numpy`.
        name: name of the function.
        dtype: as in `to_numpy`.

    Raises:
        TypeError, ValueError: the model can't be exported or `name` is no identifier; the message says why.
    """
    if not name.isidentifier():
        raise ValueError(f"name must be a Python identifier, got {name!r}")
    layers = plain_layers(model, dtype)
    head = f"{inspect.getsource(_numpy_kan).rstrip()}\n\n\n# exported by kan_fast {__version__}\n"
    body = "".join(map(_layer_source, layers))
    inputs, outputs = len(layers[0].knots), layers[-1].width
    return (
        f"{head}LAYERS = [\n{body}]\n\n\ndef {name}(x):\n"
        f'    """The network: (..., {inputs}) to (..., {outputs})."""\n    return network(x, LAYERS)\n'
    )


def _layer_source(layer: Plain) -> str:
    fields = [_array_source(f) if isinstance(f, np.ndarray) else repr(f) for f in layer]
    return "    (\n" + "".join(f"        {field},\n" for field in fields) + "    ),\n"


def _array_source(array: npt.NDArray) -> str:
    numbers = ", ".join(map(str, array.ravel()))  # the shortest decimals that give the same number back
    return f'np.array([{numbers}], dtype="{array.dtype}").reshape({array.shape})'
