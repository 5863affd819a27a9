"""The report of a fit: one HTML file that needs nothing else, no network either."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy.typing as npt

from kan_fast._support import files
from kan_fast._version import __version__
from kan_fast.cli import pictures
from kan_fast.cli.formulas import mathml
from kan_fast.cli.scores import Scores, brief
from kan_fast.cli.table_model import TableModel
from kan_fast.plots import plot_training
from kan_fast.plots.canvas import Picture

Array = npt.NDArray[Any]

MOST_ROWS = 20  # rows that tables of features and edges show before a click
MOST_EDGES = 200
TYPESET = 150  # most letters of a formula that is typeset
MEANING = {
    True: "R2 is the share of the variance that is explained, at best 1. Without features the mean is predicted.",
    False: "Log loss is small where true classes were given high probabilities. Without features the most frequent "
    "class is predicted.",
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 60em; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; } h3 { font-size: 1em; }
table { border-collapse: collapse; } td, th { padding: 0.2em 0.8em; text-align: left; border-bottom: 1px solid #ddd; }
.number { text-align: right; font-variant-numeric: tabular-nums; } summary { cursor: pointer; margin: 0.5em 0; }
img { max-width: 100%; } code { background: #f4f4f4; padding: 0.1em 0.3em; overflow-wrap: anywhere; }
math { font-size: 1.2em; } .wide { overflow-x: auto; }
"""


def write(
    path: Path,
    model: TableModel,
    scores: Mapping[str, Scores],
    notes: Sequence[str],
    trained: int,
    x: Array,
    y: Array,
) -> None:
    """Write the report; x `(rows, features)` and y are the rows held out, `trained` is the number of the others."""
    estimator = model.estimator
    defined = x[model.by_formula().defined(x)] if model.has_formula else x
    importances = sorted(
        zip(model.names, estimator.feature_importances_.tolist(), strict=True), key=lambda one: -one[1]
    )
    parts = [
        f"<h1>{escape(model.target)}: a Kolmogorov-Arnold network</h1>",
        f"<p>{'Regression' if model.classes is None else 'Classification'} from {len(model.columns)} columns: "
        f"{trained} rows to train on, {len(y)} held out to test. "
        f"Network {escape(str(estimator.model_.width))}, grids of {estimator.model_.grid} spans. "
        f"kan_fast {__version__}.</p>",
        *_list(notes),
        "<h2>On the rows held out</h2>",
        _table(["", *next(iter(scores.values()))], [[name, *values.values()] for name, values in scores.items()]),
        f"<p>{MEANING[model.classes is None]}</p>",
        *_predictions(model, x, y),
        *(_formulas(model, scores["formula"]) if model.has_formula else ()),
        "<h2>Importance of the features</h2>",
        *_folded(["feature", "share"], importances),
        "<h2>Network</h2>",
        "<p>Every edge is a function of one variable, the darker the more it matters. Layer 0 takes the features.</p>",
        _image(pictures.network(model, x), "the network"),
        *(
            [
                "<h3>What the formula computes</h3>",
                _image(pictures.network(model, defined, True), "the formula as a network"),
            ]
            if model.has_formula
            else ()
        ),
        "<h2>Edges</h2>",
        *_folded(["layer", "from", "to", "function", "score"], _edges(model, defined)[:MOST_EDGES]),
        "<h2>Training</h2>",
        _image(plot_training(estimator.history_), "losses by step"),
    ]
    body = "\n".join(parts)
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(model.target)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
    files.write(path, page.encode())


def _predictions(model: TableModel, x: Array, y: Array) -> Iterable[str]:
    predicted = model.estimator.predict(x)
    if model.classes is None:
        yield _image(pictures.agreement(y, predicted, model.target), "predictions against true values")
        return
    yield "<p>Rows of each class, and what they were taken for:</p>"
    rows = [
        [name, *(int(((y == name) & (predicted == other)).sum()) for other in model.classes)] for name in model.classes
    ]
    yield _table(["", *model.classes], rows)


def _formulas(model: TableModel, scores: Scores) -> Iterable[str]:
    formulas = model.formulas()
    yield "<h2>Formula</h2>"
    yield "<p>On the rows held out: " + ", ".join(f"{what} {brief(value)}" for what, value in scores.items()) + ".</p>"
    for expression, name in zip(formulas.brief, formulas.names, strict=True):
        text = str(expression)
        if len(text) <= TYPESET:
            yield f'<p class="wide">{escape(name)} = <math>{mathml(expression)}</math></p>'
        yield f"<p><code>{escape(f'{name} = {text}')}</code></p>"


def _edges(model: TableModel, x: Array) -> list[list[Any]]:
    """Layer, ends, function and score of each edge, the strongest first."""
    estimator = model.estimator
    network = estimator.symbolic_ if model.has_formula else estimator.model_
    scores = network.attribute(x=estimator.standardize(x)).edges
    found: list[list[Any]] = []
    for number, (layer, score) in enumerate(zip(network.layers, scores, strict=True)):
        first, last = number == 0, number == len(network.layers) - 1 and not network.nodes[number].arities
        functions = {} if layer.symbolic is None else {pair: f.name for pair, f, _ in layer.symbolic.items()}
        for output, input_ in layer.kinds.present.nonzero().tolist():
            start = model.names[network.input_id[input_]] if first else f"node {input_}"
            end = model.output_names()[output] if last else f"node {output}"
            found.append([number, start, end, functions.get((output, input_), "spline"), float(score[output, input_])])
    return sorted(found, key=lambda edge: -edge[-1])


def _folded(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterable[str]:
    """A table whose rows after the first MOST_ROWS open on a click."""
    yield _table(head, rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        more = _table(head, rows[MOST_ROWS:])
        yield f"<details><summary>{len(rows) - MOST_ROWS} more</summary>{more}</details>"


def _table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A table in HTML; columns of numbers are aligned to the right, and so are their heads."""
    kinds = [' class="number"' if isinstance(cell, int | float) else "" for cell in (rows[0] if rows else head)]

    def line(tag: str, cells: Sequence[Any]) -> str:
        texts = (escape(brief(cell) if isinstance(cell, float) else str(cell)) for cell in cells)
        return "".join(f"<{tag}{kind}>{text}</{tag}>" for text, kind in zip(texts, kinds, strict=True))

    lines = [line("th", head), *(line("td", row) for row in rows)]
    return "<table>" + "".join(f"<tr>{one}</tr>\n" for one in lines) + "</table>"


def _list(items: Sequence[str]) -> Iterable[str]:
    if items:
        yield "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def _image(picture: Picture, about: str) -> str:
    data = base64.b64encode(picture.svg().encode()).decode()
    return f'<p><img alt="{about}" src="data:image/svg+xml;base64,{data}"></p>'
