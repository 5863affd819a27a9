"""Pictures of networks: what is drawn is what the network computes, and nothing else in the process changes."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import sympy
import torch

pytest.importorskip("matplotlib")

from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from kan_fast import KAN
from kan_fast.analysis.edges import edge_values
from kan_fast.nn.recording import NotFinite
from kan_fast.plots import plot_basis, plot_training
from kan_fast.plots.diagram import INK, SYMBOLIC

pytestmark = pytest.mark.usefixtures("double")


def samples(columns, n=200):
    return torch.rand(n, columns, generator=torch.Generator().manual_seed(1)) * 2 - 1


def strokes(axes):
    """Kind, points, color and opacity of everything drawn: boxes, curves (101 points), wires (2), dots."""
    kinds = {2: "wire", 5: "box", 101: "curve"}
    found = []
    for collection in axes.collections:
        assert isinstance(collection, PathCollection)
        for path, color in zip(collection.get_paths(), collection.get_edgecolors(), strict=True):
            found.append((kinds.get(len(path.vertices), "dot"), path.vertices, to_hex(color[:3]), color[3]))
    return found


def of_kind(axes, kind):
    return [stroke[1:] for stroke in strokes(axes) if stroke[0] == kind]


def words(axes):
    return [text.get_text() for text in axes.texts]


def test_every_edge_is_drawn_with_its_curve_and_opacity():
    x, model = samples(3), KAN([3, 2, 2], seed=0)
    figure, axes = model.plot(x=x, beta=2.0)
    assert isinstance(figure, Figure)
    assert figure.axes == [axes]
    opacity = [torch.tanh(2 * score) for score in model.attribute(x=x, out_score=torch.ones(2) / 2).edges]
    expected = sorted(torch.cat([score.flatten() for score in opacity]).tolist())
    for kind, times in (("box", 1), ("curve", 1), ("wire", 2)):
        drawn = sorted(alpha for _, _, alpha in of_kind(axes, kind))
        np.testing.assert_allclose(drawn, np.repeat(expected, times), atol=1e-6)
    assert {color for _, color, _ in of_kind(axes, "box")} == {INK}
    assert words(axes) == ["$x_{1}$", "$x_{2}$", "$x_{3}$", "$y_{1}$", "$y_{2}$"]

    # From left to right the boxes of the first layer are those of the inputs in turn, each with its outputs.
    lowest = min(points[0, 1] for points, _, _ in of_kind(axes, "box"))
    first = sorted(
        (points for points, _, _ in of_kind(axes, "curve") if points[0, 1] < lowest + 0.62), key=lambda p: p[0, 0]
    )
    line = torch.stack([torch.linspace(low, high, 101) for low, high in zip(x.amin(0), x.amax(0), strict=True)], 1)
    pairs = torch.tensor([(output, input_) for input_ in range(3) for output in range(2)])
    values = edge_values(model.layers[0], line, pairs).numpy()
    assert len(first) == 6
    for points, value in zip(first, values.T, strict=True):
        assert np.corrcoef(points[:, 1], value)[0, 1] > 1 - 1e-9
        np.testing.assert_allclose(np.diff(points[:, 0], 2), 0, atol=1e-12)


def test_wires_connect_nodes_boxes_and_nodes():
    _, axes = KAN([2, 3, 1], seed=0).plot(x=samples(2), beta=1e3)
    middles = {tuple(points[:-1].mean(0).round(6)) for points, _, _ in of_kind(axes, "dot")}
    assert len(middles) >= 6
    boxes = [points for points, _, _ in of_kind(axes, "box")]
    ends = [end for points, _, _ in of_kind(axes, "wire") for end in points]
    assert len(ends) == 2 * 2 * 9
    on_boxes = [min(abs(end[0] - box[:4, 0].mean()) + min(abs(end[1] - box[:4, 1])) for box in boxes) for end in ends]
    assert sum(distance < 1e-9 for distance in on_boxes) == 18


def test_pruned_edges_are_gone_and_symbolic_ones_have_their_color_and_name():
    x, model = samples(2), KAN([2, 2, 1], seed=0)
    model.layers[0].mask = torch.tensor([[True, False], [True, True]])
    model.fix_symbolic(0, 1, 1, "sin", affine=(3.0, 0.5, 2.0, 0.0))
    _, axes = model.plot(x=x, beta=1e3)
    assert len(of_kind(axes, "box")) == 3 + 2
    ((curve, _, _),) = [stroke for stroke in of_kind(axes, "curve") if stroke[1] == SYMBOLIC]
    line = torch.linspace(x[:, 1].min(), x[:, 1].max(), 101).numpy()
    assert np.corrcoef(curve[:, 1], np.sin(3 * line + 0.5))[0, 1] > 1 - 1e-12
    assert words(axes).count("sin") == 1


def test_products_are_drawn():
    _, axes = KAN([2, [1, 2], 1], mult_arity=[[], [2, 3], []], seed=0).plot(x=samples(2), beta=1e3)
    assert words(axes).count(r"$\times$") == 2
    assert len(of_kind(axes, "box")) == 2 * 6 + 3
    assert len(of_kind(axes, "wire")) == 2 * 15 + 6


def test_a_constant_runs_through_the_middle_of_its_box():
    model, x = KAN([1, 1], base="zero", seed=0), samples(1)
    model.fix_symbolic(0, 0, 0, "0", affine=(1.0, 0.0, 1.0, 7.0))
    model.layers[0].bias.data += 1
    _, axes = model.plot(x=x, beta=1e30)
    ((curve, _, _),), ((box, _, _),) = of_kind(axes, "curve"), of_kind(axes, "box")
    np.testing.assert_allclose(curve[:, 1], box[:4, 1].mean())
    _, axes = model.plot(x=torch.zeros(5, 1), beta=1e30)  # all samples the same
    assert np.isfinite(of_kind(axes, "curve")[0][0]).all()


def test_names_titles_ticks_and_samples():
    x = samples(2)
    _, axes = KAN([2, 1], seed=0).plot(
        x=x, in_vars=[sympy.Symbol("alpha"), "width"], out_vars=["$z$"], title="Title", tick=True, sample=True, beta=100
    )
    assert {r"$\alpha$", "width", "$z$", "Title"} <= set(words(axes))
    assert f"{x[:, 0].min():.2g}" in words(axes)
    assert len(of_kind(axes, "dot")) == 2 * 100 + 3


@pytest.mark.parametrize("metric", ["backward", "forward_n", "forward_u"])
def test_metrics_and_sizes(metric):
    model = KAN([2, 2, 1], seed=0)
    small, large = (model.plot(x=samples(2), metric=metric, scale=scale).figure.get_size_inches() for scale in (0.5, 1))
    np.testing.assert_allclose(2 * small, large)


@pytest.mark.parametrize("width", [[2, 1], [8, 10, 1], [1, 1], [12, 10, 3]], ids=str)
def test_boxes_do_not_overlap_and_stay_inside(width):
    _, axes = KAN(width, grid=3, seed=0).plot(x=samples(width[0]), beta=1e6)
    corners = np.array([(points[0], points[2]) for points, _, _ in of_kind(axes, "box")])  # (n, 2, 2)
    assert len(corners) == sum(a * b for a, b in pairwise(width))
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert (corners >= [left, bottom]).all()
    assert (corners <= [right, top]).all()
    low, high = corners[:, 0], corners[:, 1]
    apart = ((low[:, None] > high[None]) | (high[:, None] < low[None])).any(2)
    assert (apart | np.eye(len(corners), dtype=bool)).all()


@pytest.mark.parametrize("length", [3, 12, 40])
def test_names_do_not_overlap(length):
    names = [letter * length for letter in "Wwmiabcd"]
    figure, axes = KAN([8, 1], seed=0).plot(x=samples(8), in_vars=names)
    figure.canvas.draw()
    extents = sorted(
        text.get_window_extent().extents[[0, 2]].tolist() for text in axes.texts if text.get_text() in names
    )
    assert len(extents) == 8
    assert all(left[1] < right[0] for left, right in pairwise(extents))


@pytest.mark.parametrize("length", [5, 20, 60])
def test_titles_of_a_summary_do_not_overlap(length):
    figure, panels = KAN([40, 5, 1], seed=0).plot(x=samples(40), in_vars=[f"{n:0{length}}" for n in range(40)])
    figure.canvas.draw()
    extents = sorted(axes.title.get_window_extent().extents[[0, 2]].tolist() for axes in panels[1:5])
    assert all(left[1] < right[0] for left, right in pairwise(extents))


def test_a_large_network_is_drawn_as_a_summary():
    x, model = samples(20), KAN([20, 10, 2], seed=0)
    model.fix_symbolic(1, 3, 1, "tanh", affine=(1.0, 0.0, 100.0, 0.0))
    model.layers[0].mask = torch.arange(200).reshape(10, 20) % 3 > 0
    figure, axes = model.plot(x=x, title="All")
    scores = model.attribute(x=x, out_score=torch.ones(2) / 2).edges[0].numpy()
    image = axes[0].images[0].get_array()
    assert image.shape == (10, 20, 3)
    darkness = 1 - image[..., 0]
    np.testing.assert_allclose(darkness / darkness.max(), scores / scores.max(), atol=1e-12)
    assert "layer 0: 133 edges" in axes[0].get_title()
    second = next(n for n, a in enumerate(axes) if a.get_title().startswith("layer 1"))
    assert axes[second + 1].get_title() == "3 to $y_{2}$: tanh", "the strongest edge"
    assert figure.get_suptitle() == "All"
    with pytest.raises(ValueError, match="leave out ax"):
        model.plot(x=x, ax=axes[0])


def test_an_edge():
    model = KAN([2, 1], seed=0)
    x = samples(2)
    figure, axes = model.plot_edge(0, 1, 0, x=x)
    line = axes.lines[0]
    np.testing.assert_allclose(
        line.get_ydata().ravel(),
        edge_values(
            model.layers[0], torch.from_numpy(line.get_xdata()).reshape(-1, 1).expand(-1, 2), torch.tensor([[0, 1]])
        )[:, 0],
    )
    assert axes.get_title() == "layer 0, from 1 to 0: spline"
    model.fix_symbolic(0, 1, 0, "exp", x=x)
    again = model.plot_edge(0, 1, 0, x=x, ax=axes)
    assert again == (figure, axes)
    assert axes.get_title().endswith("exp")


def test_the_basis_sums_to_one_on_the_grid():
    _, axes = plot_basis(KAN([2, 1], grid=4, k=2, seed=0).layers[0], 1)
    curves = [line for line in axes.lines if len(line.get_xdata()) > 100]
    assert len(curves) == 6
    x = np.asarray(curves[0].get_xdata()).ravel()
    total = sum(np.asarray(line.get_ydata()) for line in curves)
    np.testing.assert_allclose(total[(x >= -1) & (x <= 1)], 1)


def test_a_history():
    x = samples(1)
    data = {"train_input": x, "train_label": x, "test_input": x, "test_label": x}

    def half():
        return 0.5

    history = KAN([1, 1], seed=0).fit(data, "Adam", 5, lamb=0.1, metrics=half, progress=False)
    _, (losses, metrics) = plot_training(history)
    assert [line.get_label() for line in losses.lines] == ["train_loss", "test_loss", "reg"]
    assert list(losses.lines[0].get_ydata()) == history["train_loss"]
    assert [line.get_label() for line in metrics.lines] == ["half"]
    _, axes = plot_training(KAN([1, 1], seed=0).fit((x, x), "Adam", 5, progress=False))
    assert [line.get_label() for line in axes.lines] == ["train_loss"]
    with pytest.raises(ValueError, match="no steps to draw"):
        plot_training({"train_loss": []})


@pytest.mark.parametrize(("losses", "scale"), [([1.0, 0.1], "log"), ([1.0, -2.0], "linear"), ([0.0, 0.0], "linear")])
def test_the_scale_of_a_history_has_room_for_negative_losses(losses, scale):
    axes = plot_training({"train_loss": losses, "reg": [0.0, 0.0], "start": [0.0, 0.0]}).axes  # one Axes: no metrics
    assert axes.get_yscale() == scale


def test_fit_leaves_its_samples_for_plots_and_axes_can_be_given(tmp_path):
    x = samples(2)
    model = KAN([2, 1], seed=0)
    for _, axes in (model.plot(tick=True), KAN([2, 1], grid_range=(5, 6), seed=0).plot(tick=True)):
        low, high = sorted({float(word) for word in words(axes) if word[-1].isdigit()})
        assert (low, high) in ((-1, 1), (5, 6)), "without samples, points are spread over the grid"
    model.fit((x, x[:, :1]), steps=1, progress=False)
    figure = Figure()
    axes = figure.add_subplot()
    picture = model.plot(ax=axes)
    assert picture == (figure, axes)
    assert model.plot()._repr_png_().startswith(b"\x89PNG")
    model.plot().save(tmp_path / "network.svg")
    assert "<svg" in (tmp_path / "network.svg").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "sideways"}, "unknown metric 'sideways'; allowed: backward, forward_n, forward_u"),
        ({"in_vars": ["a"]}, "in_vars must have 2 names, got 1"),
        ({"out_vars": []}, "out_vars must have 1 names"),
        ({"scale": 0}, "scale must be finite and greater than 0"),
        ({"beta": -1}, "beta must be finite and at least 0"),
        ({"x": torch.zeros(5, 3)}, "expected samples"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        KAN([2, 1], seed=0).plot(**({"x": samples(2)} | options))


def test_a_network_without_scores_is_drawn_as_nodes():
    _, axes = KAN([2, 2, 1], seed=0).plot(x=torch.ones(9, 2))
    edges, nodes = axes.collections
    assert (len(edges.get_paths()), len(nodes.get_paths())) == (0, 5)


def test_axes_must_be_one():
    model = KAN([2, 1], seed=0)
    several = Figure().subplots(1, 2)
    for draw in (model.plot, lambda ax: model.plot_edge(0, 0, 0, x=samples(2), ax=ax)):
        with pytest.raises(TypeError, match=r"ax must be one Axes of matplotlib, got ndarray of length 2;.*axes\[0\]"):
            draw(ax=several)
        assert draw(ax=several[0]).axes is several[0]


def test_bad_edges_and_samples():
    model, x = KAN([2, 1], seed=0), samples(2)
    for edge, message in (((1, 0, 0), "l must be a layer, 0 to 0"), ((0, 2, 0), "i must be 0 to 1"), ((0, 0, 1), "j")):
        with pytest.raises(ValueError, match=message):
            model.plot_edge(*edge, x=x)
    with pytest.raises(ValueError, match="i must be 0 to 1, got 2"):
        plot_basis(model.layers[0], 2)
    with pytest.raises(NotFinite, match="plot needs finite samples"):
        model.plot(x=torch.full((3, 2), float("nan")))


def test_plots_change_nothing_outside_of_them(tmp_path):
    """In a process of its own: pyplot, which opens windows and chooses a backend, isn't even imported."""
    script = """
import os, sys, matplotlib, torch
def settings():
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
before, random = settings(), torch.get_rng_state()
from kan_fast import KAN
from kan_fast.plots import plot_basis, plot_training
model, x = KAN([2, 3, 1], seed=0), torch.linspace(-1, 1, 20).reshape(10, 2)
model.plot(x=x).png(); model.plot_edge(0, 0, 0, x=x); plot_basis(model.layers[0]); plot_training({"train_loss": [1.0]})
KAN([20, 20], seed=0).plot(x=torch.linspace(-1, 1, 200).reshape(10, 20)).png()
assert "matplotlib.pyplot" not in sys.modules
assert settings() == before
assert torch.equal(torch.get_rng_state(), random)
assert os.listdir() == []
"""
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    del environment["MPLBACKEND"]
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=environment)


def test_pyplot_has_the_picture_as_its_current_figure(tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.close("all")
    own = plt.figure()
    model, x = KAN([2, 3, 1], seed=0), torch.rand(50, 2)
    for _ in range(3):
        model.plot(x=x)
        assert plt.gcf().axes
        plt.savefig(tmp_path / "picture.png")
    assert plt.fignum_exists(own.number), "figures of the user's stay"
    assert len(plt.get_fignums()) == 2, "a loop leaves one picture open"
    assert plt.imread(tmp_path / "picture.png")[..., :3].std() > 0.01, "the file isn't blank"
    held, _ = model.plot(x=x)
    model.plot(x=x)
    held.savefig(tmp_path / "held.png")
    plt.close("all")
