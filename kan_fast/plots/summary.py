"""The summary of a network that is too large for a diagram: scores of all edges, and the curves of the strongest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from kan_fast.nn.network import Network
from kan_fast.plots.canvas import Picture, new_figure, plain
from kan_fast.plots.diagram import INK, SYMBOLIC
from kan_fast.plots.sketch import sketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = (2, 4)  # rows and columns of curves beside the scores of a layer
WIDTH, HEIGHT = 10.0, 3.1  # of the row of a layer, when `scale` is 1
LABEL = 17  # letters that fit above a curve in full size
LONGEST = 23  # letters of a name
NAMED, LETTERS = 12, 48  # nodes whose names fit along an axis, and how long they may be in all along the lower one


def summary(
    model: Network,
    reached: Sequence[Tensor],
    edges: Sequence[Tensor],
    scores: Sequence[Tensor],
    in_names: Sequence[str],
    out_names: Sequence[str],
    *,
    scale: float,
    title: str | None,
    varscale: float,
) -> Picture:
    """A row for each layer; see `KAN.plot`. `edges` are places (output, input), `scores` `(out, in)`."""
    depth = len(model.layers)
    in_names, out_names = _short(in_names), _short(out_names)
    figure = new_figure((WIDTH * scale, HEIGHT * depth * scale))
    font = 9 * scale * varscale
    if title:
        figure.suptitle(title, fontsize=1.4 * font)
    grid = figure.add_gridspec(depth, 2, width_ratios=(1, 1.6))
    every: list[Axes] = []
    for number, (layer, samples, places, score) in enumerate(zip(model.layers, reached, edges, scores, strict=True)):
        names = (
            in_names if number == 0 else [f"{n}" for n in range(layer.in_features)],
            out_names if _ends(model, number) else [f"{n}" for n in range(layer.out_features)],
        )
        strongest = places[score[places.unbind(1)].argsort(descending=True)[: CURVES[0] * CURVES[1]]]
        axes = figure.add_subplot(grid[number, 0])
        shown, symbolic = (score * layer.kinds.present).double().cpu().numpy(), layer.kinds.symbolic.cpu().numpy()
        _scores(axes, shown, symbolic, names, font)
        axes.set_title(f"layer {number}: {len(places)} edges, scores up to {float(score.max()):.2g}", fontsize=font)
        every.append(axes)
        curves = sketch(layer, samples, strongest)
        panels = grid[number, 1].subgridspec(*CURVES)
        for place, (output, input_) in enumerate(curves.edges):
            axes = plain(figure.add_subplot(panels[divmod(place, CURVES[1])]))
            function = curves.names[place]
            color = INK if function is None else SYMBOLIC
            axes.plot(curves.x[:, place], curves.y[:, place], color=color, linewidth=1.3 * scale)
            label = f"{names[0][input_]} to {names[1][output]}" + ("" if function is None else f": {function}")
            axes.set_title(label, fontsize=0.9 * font * min(1, LABEL / len(label)), color=color)
            axes.tick_params(labelsize=0.7 * font)
            every.append(axes)
    return Picture(figure, every)


def _short(names: Sequence[str]) -> list[str]:
    """Names with the middle of long ones left out; formulas stay as they are."""
    return [n if len(n) <= LONGEST or n.startswith("$") else f"{n[:10]}...{n[-10:]}" for n in names]


def _ends(model: Network, number: int) -> bool:
    return number == len(model.layers) - 1 and not model.nodes[number].arities


def _scores(
    axes: Axes, score: npt.NDArray[Any], symbolic: npt.NDArray[Any], names: Sequence[Sequence[str]], font: float
) -> None:
    """The matrix of scores `(out, in)`: the darker, the stronger."""
    from matplotlib.colors import to_rgb

    share = score / score.max() if score.max() > 0 else score
    color = np.where(symbolic[..., None], to_rgb(SYMBOLIC), to_rgb(INK))
    axes.imshow(1 - share[..., None] * (1 - color), interpolation="nearest", aspect="auto", origin="lower")
    for axis, texts, word in ((axes.xaxis, names[0], "from"), (axes.yaxis, names[1], "to")):
        longest = max(3 if text.startswith("$") else len(text) for text in texts)
        room = NAMED if word == "to" else max(2, min(NAMED, LETTERS // (longest + 1)))
        ticks = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), room)).round().astype(int))
        axis.set_ticks(ticks, [texts[tick] for tick in ticks], fontsize=0.8 * font)
        axis.set_label_text(word, fontsize=font)
