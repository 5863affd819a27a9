"""Networks as numpy functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kan_fast._version import __version__
from kan_fast.export import _numpy_kan
from kan_fast.export._plain import Plain, Symbolic, plain_layers
from kan_fast.symbolic.expressions import special
from kan_fast.symbolic.expressions.names import check_python_name


def to_numpy(model: nn.Module, dtype: torch.dtype | None = None) -> Callable[[npt.ArrayLike], npt.NDArray]:
    """A numpy function of one array, `(..., in)` to `(..., out)`, with the values of the model.

    Args:
        model: a KAN, a KANLinear, or an nn.Sequential of them.
        dtype: torch.float32 or torch.float64, to compute in; None takes float64 for a float64 model, else float32.

    Raises:
        TypeError, ValueError: the model can't be exported; the message says why.
    """
    return partial(_numpy_kan.network, layers=_layers(model, dtype))


def to_numpy_source(model: nn.Module, name: str = "kan", dtype: torch.dtype | None = None) -> str:
    """A Python module with the function that `to_numpy` returns and all numbers; it needs numpy alone.

    Args:
        model: as in `to_numpy`.
        name: name of the function.
        dtype: as in `to_numpy`.

    Raises:
        TypeError, ValueError: the model can't be exported; or `name` is no identifier, a keyword, or a name that the
            module uses itself; the message says why.
    """
    layers = _layers(model, dtype)
    head = inspect.getsource(_numpy_kan).rstrip()
    if any(layer.symbolic for layer in layers):
        head = f"{head}\n\n\n{inspect.getsource(special).rstrip()}"
    check_python_name(name, f"{head}\nLAYERS = []\n")
    head = f"{head}\n\n\n# exported by kan_fast {__version__}\n"
    body = "".join(map(_layer_source, layers))
    inputs, outputs = len(layers[0].knots), layers[-1].width
    return (
        f"{head}LAYERS = [\n{body}]\n\n\ndef {name}(x):\n"
        f'    """The network: (..., {inputs}) to (..., {outputs})."""\n    return network(x, LAYERS)\n'
    )


class _Expression:
    """A function of z from its text, which is its representation; can be pickled."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, z: npt.NDArray) -> npt.NDArray:
        return eval(self.text, vars(special) | {"z": z})

    def __repr__(self) -> str:
        return f"lambda z: {self.text}"


def _layers(model: nn.Module, dtype: torch.dtype | None) -> list[Plain]:
    """The layers as `_numpy_kan` takes them."""
    layers = plain_layers(model, dtype)
    return [layer._replace(symbolic=tuple(map(_executable, layer.symbolic))) for layer in layers]


def _executable(edges: Symbolic) -> Any:
    from kan_fast.symbolic.expressions.source import numpy_expression

    return (_Expression(numpy_expression(edges.formula)), *edges[1:])


def _layer_source(layer: Plain) -> str:
    return "    (\n" + "".join(f"        {_source(field)},\n" for field in layer) + "    ),\n"


def _source(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return _array_source(value)
    if isinstance(value, tuple):
        return f"({''.join(f'{_source(item)}, ' for item in value)})"
    return repr(value)


def _array_source(array: npt.NDArray) -> str:
    numbers = ", ".join(map(str, array.ravel()))  # the shortest decimals that give the same number back
    return f'np.array([{numbers}], dtype="{array.dtype}").reshape({array.shape})'
