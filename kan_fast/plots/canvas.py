"""Figures that need no display; where pyplot is in use, the newest is its current figure."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kan_fast._support import files
from kan_fast._support.checks import described

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0b6e99", "#d9730d", "#7a7a7a")  # told apart by the colour-blind


class Picture(NamedTuple):
    """A figure and its axes, which it unpacks into: `figure, axes = ...`. Notebooks show it; `save` writes it."""

    figure: Figure
    axes: Any  # one Axes, or a list of them

    def save(self, path: Any, dpi: float = 200) -> None:
        """Write an image to a path or an open file; the ending of the path is the format, PNG if there is none."""
        if not isinstance(path, str | os.PathLike):
            self.figure.savefig(path, dpi=dpi, bbox_inches="tight")
            return
        kind = Path(path).suffix.lower().removeprefix(".")
        files.write(path if kind else f"{os.fspath(path)}.png", self._content(kind or "png", dpi))

    def png(self, dpi: float = 150) -> bytes:
        """The content of a PNG file."""
        return self._content("png", dpi)

    def _content(self, kind: str, dpi: float) -> bytes:
        if kind == "svg":
            return self.svg().encode()
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format=kind, dpi=dpi, bbox_inches="tight")
        return buffer.getvalue()

    def svg(self) -> str:
        """The content of an SVG file that holds letters as text: the fonts of the reader draw them, in any script."""
        import matplotlib

        buffer = io.BytesIO()
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kan_fast"}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
            self.figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
        return buffer.getvalue().decode()

    def _repr_png_(self) -> bytes:
        return self.png()


_current: Figure | None = None  # of pyplot, the last that was made here


def new_figure(size: tuple[float, float], layout: str | None = "constrained") -> Figure:
    """A figure of this width and height in inches.

    Where pyplot has been imported it becomes the current figure, so that `plt.savefig` and `plt.show` find it; the one
    before is closed, unless pyplot is interactive, so that loops leave no figures open. pyplot is not imported for it.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"pictures need {error.name}; install it with: pip install 'kan_fast[plot]'", name=error.name
        ) from error
    global _current
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        figure = Figure(figsize=size, layout=layout)  # type: ignore[arg-type]  # a name is allowed
        FigureCanvasAgg(figure)
        return figure
    if _current is not None and not pyplot.isinteractive():
        pyplot.close(_current)
    _current = pyplot.figure(figsize=size, layout=layout)
    return _current


def row_of_axes(panels: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A new figure with axes side by side."""
    figure = new_figure(size)
    return figure, [plain(figure.add_subplot(1, panels, i + 1)) for i in range(panels)]


def plain(axes: Axes) -> Axes:
    """Axes without the lines at top and right."""
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def on_axes(ax: Axes) -> Picture:
    """The user's axes and their figure; TypeError if it is not one Axes of matplotlib."""
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be one Axes of matplotlib, got {described(ax)}; of several, give one: axes[0]")
    return Picture(ax.figure, ax)  # type: ignore[arg-type]  # or a SubFigure, which does as well


def one_axes(ax: Axes | None, size: tuple[float, float]) -> Picture:
    """The user's axes and their figure, or new ones."""
    if ax is not None:
        return on_axes(ax)
    figure, (axes,) = row_of_axes(1, size)
    return Picture(figure, axes)


def names_of(given: Sequence[Any] | None, default: Sequence[str], what: str) -> list[str]:
    """Names for labels: as given, sympy expressions as formulas, or the default.

    Raises:
        ValueError: their number is wrong.
    """
    if given is None:
        return list(default)
    if len(given) != len(default):
        raise ValueError(f"{what} must have {len(default)} names, got {len(given)}: {list(given)}")
    if all(isinstance(name, str) for name in given):
        return list(given)
    import sympy

    return [name if isinstance(name, str) else f"${sympy.latex(name)}$" for name in given]
