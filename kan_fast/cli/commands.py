"""The commands; each takes the options of the command line and returns the exit status."""

from __future__ import annotations

import argparse
import sys
import warnings

from kan_fast.cli.messages import Refused, give, say

LANGUAGES = ("text", "latex", "python", "c")  # see formulas.FORMATS


def demo(options: argparse.Namespace) -> int:
    """Run the demo."""
    from kan_fast import demo

    demo.run(options.out)
    return 0


def fit(options: argparse.Namespace) -> int:
    """Train on a part of a table, test on the rest; write model and report."""
    from kan_fast.cli.fit import run

    return run(options)


def predict(options: argparse.Namespace) -> int:
    """Write a CSV file with a prediction for each row; of classes also the probabilities."""
    import pandas as pd

    from kan_fast._support import files
    from kan_fast.cli import spreadsheets, tables
    from kan_fast.cli.columns import notes
    from kan_fast.cli.table_model import TableModel

    model = TableModel.load(options.model)
    table, said = tables.read(options.table)
    x = model.features(table)
    say([*said, *notes(model.columns, table)], sys.stderr)
    try:
        result = pd.DataFrame({model.target: model.estimator.predict(x)})
    except ValueError as error:
        raise Refused(str(error)) from error
    if model.classes is not None:
        for name, share in zip(model.classes, model.estimator.predict_proba(x).T, strict=True):
            result[f"probability of {name}"] = share
    if not options.verbatim:
        result, said = spreadsheets.without_formulas(result)
        say(said, sys.stderr)
    text = result.to_csv(index=False)
    if options.out is None:
        give(text)
    else:
        files.write(options.out, text.encode())
    return 0


def formula(options: argparse.Namespace) -> int:
    """Print the formula."""
    from kan_fast.cli.formulas import FORMATS
    from kan_fast.cli.table_model import TableModel

    give(f"{FORMATS[options.format](TableModel.load(options.model).formulas())}\n")
    return 0


def plot(options: argparse.Namespace) -> int:
    """Write a picture of the network, or of the formula if there is one."""
    from kan_fast.cli import tables
    from kan_fast.cli.pictures import network
    from kan_fast.cli.table_model import TableModel

    model = TableModel.load(options.model)
    x = None if options.table is None else model.features(tables.read(options.table)[0])
    try:
        picture = network(model, x, symbolic=model.has_formula)
        with warnings.catch_warnings(record=True) as heard:
            picture.save(options.out)
    except ValueError as error:
        raise Refused(str(error)) from error
    if any(str(one.message).startswith("Glyph ") for one in heard):
        say(["the font lacks letters of some names; --out network.svg has all of them"], sys.stderr)
    print(f"wrote {options.out}")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Print versions and backends, and whether the kernels compute the right numbers."""
    from kan_fast.cli.doctor import examine

    return examine()
