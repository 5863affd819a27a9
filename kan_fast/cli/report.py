"""The report of a fit: one HTML file that needs nothing else, no network either."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sympy

from kan_fast._version import __version__
from kan_fast.cli import pictures
from kan_fast.cli.table_model import TableModel
from kan_fast.plots import plot_training
from kan_fast.plots.canvas import Picture

MOST_EDGES = 100  # rows of the table of edges
LONGEST = 4000  # letters of a formula that is typeset
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 60em; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; }
table { border-collapse: collapse; } td, th { padding: 0.2em 0.8em; text-align: right; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; } code { background: #f4f4f4; padding: 0.1em 0.3em; overflow-wrap: anywhere; }
math { font-size: 1.2em; } .wide { overflow-x: auto; }
"""


def write(
    path: Path,
    model: TableModel,
    scores: Mapping[str, Mapping[str, float]],
    notes: Sequence[str],
    trained: int,
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
) -> None:
    """Write it; x `(rows, features)` and y are the rows held out, `trained` is the number of the others."""
    estimator, symbolic = model.estimator, model.has_formula
    parts = [
        f"<h1>{escape(model.target)}: a Kolmogorov-Arnold network</h1>",
        f"<p>{'Regression' if model.classes is None else 'Classification'} from {len(model.columns)} columns: "
        f"{trained} rows to train on, {len(y)} held out to test. "
        f"Network {escape(str(estimator.model_.width))}, grids of {estimator.model_.grid} spans. "
        f"kan_fast {__version__}.</p>",
        _list(notes),
        "<h2>On the rows held out</h2>",
        _table(["", *next(iter(scores.values()))], [[name, *values.values()] for name, values in scores.items()]),
        *_predictions(model, estimator.predict(x), y),
    ]
    if symbolic:
        parts += ["<h2>Formula</h2>", *_formulas(model)]
    order = np.argsort(-estimator.feature_importances_)
    parts += [
        "<h2>Features</h2>",
        _table(["feature", "importance"], [[model.names[i], float(estimator.feature_importances_[i])] for i in order]),
        "<h2>Network</h2>",
        "<p>Inputs are at the bottom; the more opaque an edge, the more it matters.</p>",
        _image(pictures.network(model, x), "the network"),
    ]
    if symbolic:
        parts += ["<p>What the formula computes:</p>", _image(pictures.network(model, x, True), "symbolic network")]
    parts += [*_edges(model, x), "<h2>Training</h2>", _image(plot_training(estimator.history_), "losses by step")]
    body = "\n".join(part for part in parts if part)
    path.write_text(
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(model.target)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n",
        encoding="utf-8",
    )


def _predictions(model: TableModel, predicted: npt.NDArray[Any], y: npt.NDArray[Any]) -> Iterable[str]:
    if model.classes is None:
        yield _image(pictures.agreement(y, predicted, model.target), "predictions against true values")
        return
    yield "<p>Rows of each class, and what they were taken for:</p>"
    rows = [
        [name, *(int(((y == name) & (predicted == other)).sum()) for other in model.classes)] for name in model.classes
    ]
    yield _table(["", *model.classes], rows)


def _formulas(model: TableModel) -> Iterable[str]:
    formulas = model.formulas()
    for brief, name in zip(formulas.brief, formulas.names, strict=True):
        text = f"{name} = {brief}"
        if len(text) <= LONGEST:
            typeset = sympy.mathml(brief, printer="presentation")
            yield f'<p class="wide">{escape(name)} = <math>{typeset}</math></p>'
        yield f"<p><code>{escape(text)}</code></p>"


def _edges(model: TableModel, x: npt.NDArray[Any]) -> Iterable[str]:
    """A table of edges, the strongest first."""
    estimator = model.estimator
    network = estimator.symbolic_ if model.has_formula else estimator.model_
    scores = network.attribute(x=estimator._scaled(x)).edges
    found = []
    for number, (layer, score) in enumerate(zip(network.layers, scores, strict=True)):
        functions = {} if layer.symbolic is None else {pair: f.name for pair, f, _ in layer.symbolic.items()}
        for output, input_ in layer.present.nonzero().tolist():
            name = model.names[network.input_id[input_]] if number == 0 else f"node {input_}"
            function = functions.get((output, input_), "spline")
            found.append((float(score[output, input_]), [number, name, f"node {output}", function]))
    found.sort(key=lambda edge: -edge[0])
    yield "<h2>Edges</h2>"
    yield _table(["layer", "from", "to", "function", "score"], [[*row, value] for value, row in found[:MOST_EDGES]])
    if len(found) > MOST_EDGES:
        yield f"<p>and {len(found) - MOST_EDGES} weaker ones</p>"


def _table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["".join(f"<th>{escape(str(cell))}</th>" for cell in head)]
    lines += ["".join(f"<td>{_cell(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table>"


def _cell(cell: Any) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else escape(str(cell))


def _list(items: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>" if items else ""


def _image(picture: Picture, about: str) -> str:
    data = base64.b64encode(picture.png(dpi=110)).decode()
    return f'<p><img alt="{about}" src="data:image/png;base64,{data}"></p>'
