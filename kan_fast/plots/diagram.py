"""The diagram of a network: nodes, and the function of every edge in a box of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kan_fast.nn.nodes import Nodes
from kan_fast.plots.canvas import COLORS, Picture, new_figure, on_axes
from kan_fast.plots.sketch import Sketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    Array = npt.NDArray[Any]

LARGEST = 128  # largest number of edges of a layer that a diagram has room for
INK, SYMBOLIC, SAMPLES = "#1a1a1a", COLORS[1], COLORS[0]

# Lengths; `scale` says how many inches one is
WIDEST, NARROWEST = 10.0, 2.6
BOX, SMALLEST_BOX, ROOM = 0.62, 0.3, 1.35  # sides of boxes, and the room for one in units of its side
GAP, PRODUCT_GAP = 0.55, 0.45  # between nodes and boxes; from factors up to their product
NODE, FACTOR, PRODUCT, DOT = 0.055, 0.03, 0.12, 0.013  # radii
NAME, TITLE, MARGIN = 0.3, 0.45, 0.12
NAME_SIZE = 0.17

POINTS = 72  # of a font, in an inch
WIRE, CURVE = 1.2, 1.4  # widths of lines in points, when `scale` is 1
INVISIBLE = 0.01  # opacity
CENTRE: dict[str, Any] = {"ha": "center", "va": "center"}


class Layer(NamedTuple):
    """The parts of a layer that are drawn."""

    sketch: Sketch
    nodes: Nodes  # that the edges lead to
    opacity: Array  # of every edge, 0 to 1


class _Places(NamedTuple):
    """Places of the boxes and nodes of a layer; heights are measured from the nodes below the layer."""

    side: float
    boxes: Array  # middles (n, 2)
    subnodes: Array  # (width_out, 2)
    nodes: Array  # (width_in, 2)

    @classmethod
    def of(cls, layer: Layer, width: float) -> _Places:
        """Places for boxes in as few rows as leave them legible, and for subnodes in one row above the boxes."""
        count = len(layer.sketch.edges)
        room = width / max(count, 1)
        rows = int(np.ceil(SMALLEST_BOX * ROOM / room - 1e-9))
        side = min(BOX, room * rows / ROOM)
        number = np.arange(count)
        edge = max(room, side) / 2
        across = edge + (width - 2 * edge) * number / max(count - 1, 1)
        boxes = np.stack([across, GAP + (0.5 + number % rows) * side * ROOM], 1)
        subnodes = _row(len(layer.nodes.owner), width, 2 * GAP + rows * side * ROOM)
        owner = np.array(layer.nodes.owner)
        nodes = np.stack([subnodes[owner == node].mean(0) for node in range(layer.nodes.width)])
        return cls(side, boxes, subnodes, nodes + [0, PRODUCT_GAP if layer.nodes.arities else 0])

    def raised(self, height: float) -> _Places:
        """The same places, higher by `height`."""
        up = np.array([0, height])
        return _Places(self.side, self.boxes + up, self.subnodes + up, self.nodes + up)


class _Pen:
    """Collects strokes, which matplotlib draws in the order of their collection: later strokes lie above."""

    def __init__(self) -> None:
        self.strokes: list[tuple[Any, Any, Any, float]] = []  # path, color, color inside, width

    def line(self, points: Any, color: Any, width: float) -> None:
        from matplotlib.path import Path

        self.strokes.append((Path(points), color, "none", width))

    def box(self, middle: Array, half: float, color: Any, width: float) -> None:
        from matplotlib.path import Path

        corners = Path(middle + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]), closed=True)
        self.strokes.append((corners, color, "white", width))

    def dot(self, middle: Array, radius: float, color: Any, inside: Any) -> None:
        from matplotlib.path import Path

        self.strokes.append((Path.circle(tuple(middle), radius), color, inside, WIRE))

    def draw(self, ax: Axes, scale: float, order: int) -> None:
        from matplotlib.collections import PathCollection

        # Lists: matplotlib 3.8.0 reads a tuple of two colors as one color and its opacity.
        columns: list[list[Any]] = [[stroke[part] for stroke in self.strokes] for part in range(4)]
        paths, colors, inside, widths = columns
        style = {"edgecolors": colors, "facecolors": inside, "linewidths": [width * scale for width in widths]}
        ax.add_collection(PathCollection(paths, zorder=order, **style))


def diagram(
    layers: Sequence[Layer],
    in_names: Sequence[str],
    out_names: Sequence[str],
    *,
    scale: float,
    tick: bool,
    sample: bool,
    title: str | None,
    varscale: float,
    ax: Axes | None,
) -> Picture:
    """Draw the network; see `KAN.plot`."""
    wanted = max(len(layer.sketch.edges) * BOX * ROOM for layer in layers)
    wanted = max(wanted, 0.7 * max(len(in_names), *(len(layer.nodes.owner) for layer in layers)))
    rooms = [_room(names, varscale) for names in (in_names, out_names)]
    width = min(max(wanted, NARROWEST, *rooms), WIDEST)
    in_size, out_size = (NAME_SIZE * varscale * min(1, width / room) for room in rooms)
    places = [_Places.of(layer, width) for layer in layers]
    height = sum(place.nodes[0, 1] for place in places)
    bottom, top = -NAME - MARGIN, height + NAME + MARGIN + (TITLE if title else 0)
    if ax is None:
        figure = new_figure(((width + 2 * MARGIN) * scale, (top - bottom) * scale), layout=None)
        ax = figure.add_axes((0, 0, 1, 1))
    picture = on_axes(ax)
    ax.set(xlim=(-MARGIN, width + MARGIN), ylim=(bottom, top), aspect="equal")
    ax.set_axis_off()
    pen, above, text = _Pen(), _Pen(), _Writer(ax, scale)

    below = _row(len(in_names), width, 0)
    for point, name in zip(below, in_names, strict=True):
        above.dot(point, NODE, INK, INK)
        text(point - [0, 0.75 * NAME], name, in_size)
    for layer, place in zip(layers, places, strict=True):
        place = place.raised(below[0, 1])
        for number in np.argsort(layer.opacity, kind="stable"):  # the strongest above all others
            _edge(pen, text, layer, place, below, number, tick=tick, sample=sample)
        if layer.nodes.arities:
            for subnode, node in zip(place.subnodes, place.nodes[layer.nodes.owner], strict=True):
                pen.line([subnode, node], INK, WIRE)
                above.dot(subnode, FACTOR, INK, INK)
        for number, node in enumerate(place.nodes):
            product = number >= layer.nodes.sums
            above.dot(node, PRODUCT if product else NODE, INK, "white" if product else INK)
            if product:
                text(node, r"$\times$", 0.2)
        below = place.nodes
    for point, name in zip(below, out_names, strict=True):
        text(point + [0, 0.85 * NAME], name, out_size)
    if title:
        text((width / 2, top - TITLE / 2), title, 0.2 * varscale)
    for order, strokes in enumerate((pen, above)):
        strokes.draw(ax, scale, order)
    return picture


def _room(names: Sequence[str], varscale: float) -> float:
    """Length that a row of names takes."""
    from matplotlib.textpath import TextPath

    longest = max(TextPath((0, 0), name, size=1).get_extents().width for name in names)
    return len(names) * (longest + 1) * NAME_SIZE * varscale


def _edge(
    pen: _Pen, text: _Writer, layer: Layer, place: _Places, below: Array, number: int, *, tick: bool, sample: bool
) -> None:
    """Draw an edge: a line to its box, the box with its curve, and a line to its subnode."""
    from matplotlib.colors import to_rgba

    output, input_ = layer.sketch.edges[number]
    name, opacity = layer.sketch.names[number], float(layer.opacity[number])
    if opacity < INVISIBLE:
        return
    color = to_rgba(INK if name is None else SYMBOLIC, opacity)
    middle, subnode, half = place.boxes[number], place.subnodes[output], place.side / 2
    pen.line([below[input_], middle - [0, half]], color, WIRE)
    pen.line([middle + [0, half], subnode], color, WIRE)
    pen.box(middle, half, color, WIRE)
    x, y, dots_x, dots_y = (array[:, number] for array in layer.sketch[2:])
    into_box = _Fit(x, y, middle, 0.86 * half)
    pen.line(into_box(x, y), color, CURVE)
    if sample:
        for dot in into_box(dots_x, dots_y):
            pen.dot(dot, DOT, "none", to_rgba(SAMPLES, opacity))
    size = 0.11 * place.side / BOX
    if name is not None:  # where the line to the subnode is not
        side = 1 if subnode[0] < middle[0] else -1
        text(middle + [side * half, 1.05 * half], name, size, color, ha="right" if side > 0 else "left", va="bottom")
    if tick:
        text(middle - [half, 1.05 * half], f"{x[0]:.2g}", 0.7 * size, color, ha="left", va="top")
        text(middle + [half, -1.05 * half], f"{x[-1]:.2g}", 0.7 * size, color, ha="right", va="top")


class _Writer:
    """Writes words on axes, their size in units of length."""

    def __init__(self, ax: Axes, scale: float) -> None:
        self._ax, self._points = ax, scale * POINTS

    def __call__(self, place: Any, words: str, size: float, color: Any = INK, **options: Any) -> None:
        x, y = place
        self._ax.text(x, y, words, fontsize=size * self._points, color=color, zorder=2, **{**CENTRE, **options})


class _Fit:
    """Carries a curve into its box: the range of x fills it from side to side, that of y from bottom to top."""

    def __init__(self, x: Array, y: Array, middle: Array, half: float) -> None:
        self.low = np.array([x.min(), y.min()])
        size = np.array([np.ptp(x), np.ptp(y)])
        flat = size <= 1e-9 * np.array([1, max(1.0, np.abs(y).max())])  # a constant runs through the middle
        self.low, self.size = np.where(flat, self.low - 0.5, self.low), np.where(flat, 1, size)
        self.corner, self.side = middle - half, 2 * half

    def __call__(self, x: Array, y: Array) -> Array:
        return self.corner + (np.stack([x, y], 1) - self.low) / self.size * self.side


def _row(count: int, width: float, height: float) -> Array:
    """Points `(count, 2)` in the middles of equal parts of the width."""
    return np.stack([(np.arange(count) + 0.5) * width / count, np.full(count, float(height))], 1)
