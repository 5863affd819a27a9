"""The edges of a layer for pictures: their curves over the samples, and the names of symbolic functions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from kan_fast._support.samples import evenly
from kan_fast.analysis.edges import edge_values
from kan_fast.nn.linear import KANLinear

POINTS = 101  # points of a curve
DOTS = 100  # largest number of samples that are drawn


class Sketch(NamedTuple):
    """Curves of n edges, as numpy arrays."""

    edges: list[tuple[int, int]]  # places (output, input)
    names: list[str | None]  # of the functions of symbolic edges
    x: npt.NDArray[Any]  # (POINTS, n), over the range of the samples
    y: npt.NDArray[Any]  # (POINTS, n)
    dots_x: npt.NDArray[Any]  # (at most DOTS, n), some of the samples
    dots_y: npt.NDArray[Any]


@torch.no_grad()
def sketch(layer: KANLinear, reached: Tensor, edges: Tensor) -> Sketch:
    """Curves of these edges, places (output, input) `(n, 2)`; `reached` are samples of the layer's inputs `(m, in)`."""
    reached = reached.double()
    low, high = reached.amin(0), reached.amax(0)
    same = low == high
    low, high = torch.where(same, low - 0.5, low), torch.where(same, high + 0.5, high)
    share = torch.linspace(0, 1, POINTS, dtype=low.dtype, device=low.device)[:, None]
    line = low + (high - low) * share
    some = reached[evenly(len(reached), DOTS, low.device)]
    functions = (
        {} if layer.symbolic is None else {place: function.name for place, function, _ in layer.symbolic.items()}
    )
    places = [(output, input_) for output, input_ in edges.tolist()]
    arrays = [
        array.cpu().numpy()
        for samples in (line, some)
        for array in (samples[:, edges[:, 1]], edge_values(layer, samples, edges))
    ]
    return Sketch(places, [functions.get(place) for place in places], *arrays)
