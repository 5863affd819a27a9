"""Pictures of models of tables."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from matplotlib.ticker import MaxNLocator

from kan_fast.cli.table_model import TableModel
from kan_fast.plots.canvas import COLORS, Picture, one_axes

DOTS = 1000  # number of points above which SVG files hold them as one image


def network(model: TableModel, x: npt.NDArray[Any] | None, symbolic: bool = False) -> Picture:
    """The network, or the one behind the formula, over the features x `(rows, features)`."""
    estimator = model.estimator
    return (estimator.symbolic_ if symbolic else estimator.model_).plot(
        x=None if x is None else estimator.standardize(x),
        in_vars=[_plain(name) for name in model.names],
        out_vars=[_plain(name) for name in model.output_names()],
    )


def agreement(y: npt.NDArray[Any], predicted: npt.NDArray[Any], target: str) -> Picture:
    """Predictions against true values."""
    picture = one_axes(None, (4.2, 4.2))
    axes = picture.axes
    axes.scatter(y, predicted, s=9, alpha=0.5, linewidths=0, color=COLORS[0], rasterized=len(y) > DOTS)
    both = [min(y.min(), predicted.min()), max(y.max(), predicted.max())]
    axes.plot(both, both, color=COLORS[2], linewidth=1)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set(xlabel=f"{_plain(target)}, rows held out", ylabel="predicted")
    return picture


def _plain(name: str) -> str:
    """The text with dollar signs escaped, which would begin a formula for matplotlib."""
    return name.replace("$", r"\$")
