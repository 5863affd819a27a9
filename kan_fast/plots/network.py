"""`KAN.plot`: a network as in the paper (arXiv 2404.19756, Figure 2.4), or a summary of a large one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kan_fast._support.checks import real
from kan_fast.analysis import metrics
from kan_fast.nn.network import Network
from kan_fast.plots.canvas import Picture, names_of
from kan_fast.plots.diagram import LARGEST, Layer, diagram
from kan_fast.plots.sketch import sketch
from kan_fast.plots.summary import summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS = {  # pykan's names, here and in `fit`
    "backward": "edge_backward",
    "forward_n": "edge_forward_spline_n",
    "forward_u": "edge_forward_spline_u",
}
SPREAD = 1000  # points that stand for samples where there are none


@torch.no_grad()
def plot(
    model: Network,
    *,
    beta: float = 3.0,
    metric: str = "backward",
    scale: float = 0.5,
    tick: bool = False,
    sample: bool = False,
    in_vars: Sequence[Any] | None = None,
    out_vars: Sequence[Any] | None = None,
    title: str | None = None,
    varscale: float = 1.0,
    x: Tensor | None = None,
    ax: Axes | None = None,
) -> Picture:
    """Draw the network: every edge as a box with its function, the stronger the more opaque, symbolic ones in orange.

    Inputs are at the bottom. Boxes are ordered by the node that they start from, each curve over the range of the
    samples that reach it and scaled to fill its box. Edges that were pruned are not there. A network with more than 128
    edges in a layer is drawn as a summary: scores of all edges, and the curves of the strongest.

    Needs matplotlib (`pip install 'kan_fast[plot]'`), opens no window and writes no file: notebooks show what is
    returned, `save(path)` writes it.

    Args:
        model: the network; `model.plot(...)` gives it.
        beta: opacity of an edge is `tanh(beta * score)`.
        metric: the scores: "backward" are those of `attribute` for 1 / n at each of n outputs, "forward_u" the
            deviations of the activations, "forward_n" these divided by the deviation of the input. (pykan's names.)
        scale: size, greater than 0; 0.5 makes a picture of at most 10 inches.
        tick: whether to write the ranges of x below the boxes; in diagrams only.
        sample: whether to draw some of the samples as dots; in diagrams only.
        in_vars: names of the inputs, as text (LaTeX between `$`) or sympy expressions; None for x_1, x_2, ...
        out_vars: names of the outputs; None for y_1, y_2, ...
        title: above the picture.
        varscale: size of the names.
        x: samples `(..., width_in[0])`, finite, at least two; None for the inputs that `fit` trained on last, or points
            that are spread over the grids of the inputs if there was no training.
        ax: axes to draw a diagram on; None makes a figure.

    Returns:
        `(figure, axes)`; of a summary, a list of axes.

    Raises:
        ValueError: samples are not finite, or an option is not allowed.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; allowed: {', '.join(METRICS)}")
    beta, scale = real("beta", beta), real("scale", scale, positive=True)
    varscale = real("varscale", varscale, positive=True)
    single = model.width_in[-1] == 1
    in_names = names_of(in_vars, [f"$x_{{{i + 1}}}$" for i in model.input_id], "in_vars")
    out_names = names_of(
        out_vars, ["$y$"] if single else [f"$y_{{{o + 1}}}$" for o in range(model.width_in[-1])], "out_vars"
    )
    reached = model.reached(_spread(model) if x is None and model.last_inputs.x is None else x, "plot")
    scores = metrics.METRICS[METRICS[metric]](model, reached)
    edges = [layer.kinds.present.T.nonzero().flip(1) for layer in model.layers]  # (output, input), by input
    options: dict[str, Any] = {"scale": 2 * scale, "title": title, "varscale": varscale}
    if max(map(len, edges)) > LARGEST:
        if ax is not None:
            raise ValueError("the summary of a large network has several axes; leave out ax")
        return summary(model, reached, edges, scores, in_names, out_names, **options)
    layers = [
        Layer(sketch(layer, samples, places), nodes, torch.tanh(beta * score[places.unbind(1)]).cpu().numpy())
        for layer, nodes, samples, places, score in zip(model.layers, model.nodes, reached, edges, scores, strict=True)
    ]
    return diagram(layers, in_names, out_names, tick=tick, sample=sample, ax=ax, **options)


def _spread(model: Network) -> Tensor:
    """Points that are spread over the grids of the inputs."""
    layer = model.layers[0]
    start, end = (ends.cpu() for ends in layer.grid_ends)
    share = torch.rand(SPREAD, layer.in_features, generator=torch.Generator().manual_seed(0), dtype=start.dtype)
    return start + (end - start) * share
