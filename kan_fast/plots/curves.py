"""Curves by themselves: the function of an edge, the basis of an input, the history of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kan_fast._support.checks import below, integer
from kan_fast.nn.linear import KANLinear
from kan_fast.nn.network import Network
from kan_fast.ops import reference
from kan_fast.plots.canvas import COLORS, Picture, one_axes, row_of_axes
from kan_fast.plots.diagram import INK, SYMBOLIC
from kan_fast.plots.sketch import sketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (5.0, 3.4)
BASIS_POINTS = 1000


def plot_edge(
    model: Network,
    l: int,  # noqa: E741  # pykan's name
    i: int,
    j: int,
    *,
    x: Tensor | None = None,
    ax: Axes | None = None,
) -> Picture:
    """Draw the function of one edge over the range of the samples, with samples as ticks and knots as lines.

    Args:
        model: the network; `model.plot_edge(...)` gives it.
        l: layer of the edge, from 0.
        i: node that it starts from.
        j: subnode that it leads to.
        x: samples `(..., width_in[0])`, at least two; None for the inputs that `fit` trained on last.
        ax: axes to draw on; None makes a figure.

    Returns:
        `(figure, axes)`.

    Raises:
        ValueError: there is no such edge, or no samples.
        ModuleNotFoundError: matplotlib is not installed.
    """
    number = integer("l", l, 0)
    if number >= len(model.layers):
        raise ValueError(f"l must be a layer, 0 to {len(model.layers) - 1}, got {l}")
    layer = model.layers[number]
    below("i", i, layer.in_features)
    below("j", j, layer.out_features)
    reached = model.reached(x, "plot_edge")[number]
    edge = sketch(layer, reached, torch.tensor([[j, i]], device=reached.device))
    picture = one_axes(ax, SIZE)
    axes, function = picture.axes, edge.names[0]
    axes.plot(edge.x, edge.y, color=INK if function is None else SYMBOLIC, linewidth=1.8, zorder=2)
    axes.plot(
        edge.dots_x, [0.02] * len(edge.dots_x), "|", color=COLORS[0], alpha=0.6, transform=axes.get_xaxis_transform()
    )
    if function is None:
        knots = layer.grid[i, layer.spline_order : -layer.spline_order or None].tolist()
        for knot in knots:
            if edge.x[0] <= knot <= edge.x[-1]:
                axes.axvline(knot, color=COLORS[2], linewidth=0.6, alpha=0.4, zorder=0)
    kind = "pruned" if not layer.kinds.present[j, i] else "spline" if function is None else function
    axes.set_title(f"layer {l}, from {i} to {j}: {kind}", fontsize=10)
    axes.set(xlabel="input", ylabel="activation")
    return picture


def plot_basis(layer: KANLinear, i: int = 0, *, ax: Axes | None = None) -> Picture:
    """Draw the B-splines of one input of a layer, on the whole of its knots, and the grid range as a bar.

    Args:
        layer: a layer, such as `model.layers[0]`.
        i: number of the input.
        ax: axes to draw on; None makes a figure.

    Returns:
        `(figure, axes)`.

    Raises:
        ValueError: there is no such input.
        ModuleNotFoundError: matplotlib is not installed.
    """
    below("i", i, layer.in_features)
    grid, k = layer.grid[i : i + 1].double().cpu(), layer.spline_order
    line = torch.linspace(grid[0, 0].item(), grid[0, -1].item(), BASIS_POINTS, dtype=grid.dtype)[:, None]
    values = reference.basis(line, grid, k, 0, layer.extrapolation)[:, 0]
    picture = one_axes(ax, SIZE)
    axes = picture.axes
    axes.plot(line.numpy(), values.numpy(), linewidth=1.4)
    axes.plot(grid[0].numpy(), np.zeros(grid.shape[1]), "|", color=COLORS[2], markersize=8)
    axes.axvspan(*(ends[i].item() for ends in layer.grid_ends), color=COLORS[2], alpha=0.1, linewidth=0)
    axes.set_title(f"{values.shape[1]} B-splines of degree {k}, input {i}", fontsize=10)
    axes.set(xlabel="input")
    return picture


def plot_training(history: Mapping[str, Sequence[float]], *, ax: Axes | None = None) -> Picture:
    """Draw the history that `KAN.fit` returned: losses on a logarithmic scale, and metrics, if any, beside them.

    Losses that are negative somewhere, such as logarithms of likelihoods, have a linear scale.

    Args:
        history: lists with a number per step.
        ax: axes to draw the losses on, without the metrics; None makes a figure.

    Returns:
        `(figure, axes)`; a list of two axes if there are metrics.

    Raises:
        ValueError: the history is empty.
        ModuleNotFoundError: matplotlib is not installed.
    """
    shown = {name: values for name, values in history.items() if any(math.isfinite(value) for value in values)}
    losses = {name: values for name, values in shown.items() if name in ("train_loss", "test_loss")}
    reg = {name: values for name, values in shown.items() if name == "reg" and any(values)}
    metrics = {
        name: values for name, values in shown.items() if name not in ("train_loss", "test_loss", "reg", "start")
    }
    if not losses:
        raise ValueError("the history has no steps to draw; train with fit first")
    if ax is not None:
        metrics = {}
    picture = one_axes(ax, SIZE) if not metrics else Picture(*row_of_axes(2, (2 * SIZE[0], SIZE[1])))
    first = picture.axes[0] if metrics else picture.axes
    _lines(first, losses | reg, "root of the loss" + (", regularisation" if reg else ""))
    drawn = [value for values in (losses | reg).values() for value in values if math.isfinite(value)]
    if min(drawn) >= 0 < max(drawn):
        first.set_yscale("log")
    if metrics:
        _lines(picture.axes[1], metrics, "metrics")
    return picture


def _lines(axes: Axes, lines: Mapping[str, Sequence[float]], label: str) -> None:
    for number, (name, values) in enumerate(lines.items()):
        axes.plot(range(1, len(values) + 1), values, label=name, color=COLORS[number] if number < 3 else None, lw=1.6)
    axes.set(xlabel="step", ylabel=label)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
