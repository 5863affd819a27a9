"""The pictures of the demo, drawn without a display."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kan_fast.plots.canvas import COLORS, Picture, row_of_axes


def curves(lines: Mapping[str, Sequence[float]], x_label: str, y_label: str, title: str, path: Path) -> None:
    """One line per entry against 1, 2, ..., named in a legend."""
    from matplotlib.ticker import MaxNLocator

    figure, (axes,) = row_of_axes(1, (6, 3.8))
    for color, (name, values) in zip(COLORS, lines.items(), strict=False):
        axes.plot(range(1, len(values) + 1), values, color=color, label=name, linewidth=1.8)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    Picture(figure, axes).save(path, dpi=150)


def spread(scores: Mapping[str, Sequence[float]], x_label: str, title: str, path: Path) -> None:
    """Every score as a dot, and the mean of each entry as a bar through them."""
    figure, (axes,) = row_of_axes(1, (6, 2.8))
    for row, (color, values) in enumerate(zip(COLORS, scores.values(), strict=False)):
        axes.scatter(values, [row] * len(values), s=36, color=color, alpha=0.55, linewidths=0)
        axes.plot([sum(values) / len(values)] * 2, [row - 0.25, row + 0.25], color=color, linewidth=2.5)
    axes.set_yticks(range(len(scores)), list(scores))
    axes.set(xlabel=x_label, ylim=(len(scores) - 0.5, -0.5))
    axes.set_title(title, fontsize=11)
    axes.grid(axis="x", alpha=0.25)
    Picture(figure, axes).save(path, dpi=150)


def boundaries(margins: Mapping[str, Callable[[Tensor], Tensor]], x: Tensor, y: Tensor, path: Path) -> None:
    """The plane, coloured by a margin that is 0 on the boundary, with points `(n, 2)` of classes 0 and 1."""
    figure, panels = row_of_axes(len(margins), (5.4 * len(margins), 3.9))
    low, high = x.min(0).values - 0.2, x.max(0).values + 0.2
    first, second = (torch.linspace(float(low[i]), float(high[i]), 300) for i in range(2))
    plane = torch.cartesian_prod(first, second)
    for axes, (title, margin) in zip(panels, margins.items(), strict=True):
        values = margin(plane).reshape(300, 300).T
        axes.contourf(first, second, values, levels=[-1e9, 0, 1e9], colors=[COLORS[0], COLORS[1]], alpha=0.18)
        axes.contour(first, second, values, levels=[0], colors="black", linewidths=1.5)
        for label, color in enumerate(COLORS[:2]):
            points = x[y == label]
            axes.scatter(points[:, 0], points[:, 1], s=7, color=color, linewidths=0)
        axes.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
        axes.set_title(title, fontsize=11)
    Picture(figure, panels).save(path, dpi=150)
