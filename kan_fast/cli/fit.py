"""`python -m kan_fast fit`: train on a part of a table, test on the rest; write model and report."""

from __future__ import annotations

import argparse
import math
import os
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kan_fast._support import samples
from kan_fast.cli import columns, report, tables
from kan_fast.cli.columns import Array
from kan_fast.cli.formulas import text
from kan_fast.cli.messages import Refused, say
from kan_fast.cli.scores import baseline, brief, scores
from kan_fast.cli.table_model import FILE, TableModel
from kan_fast.model import KAN
from kan_fast.sklearn import KANClassifier, KANRegressor
from kan_fast.sklearn.splits import split_rows

FEWEST_ROWS = 10
MOST_SPANS = 200  # largest number of spans of a grid; memory grows with its square
MOST_NODES = 1000  # largest number of nodes of a hidden layer
FORMULA_ROWS = 2000  # largest number of rows in which a formula is looked for


def run(options: argparse.Namespace) -> int:
    """Fit a table; returns the exit status."""
    _check(options)
    table, notes = _table(options)
    classes = _is_classification(table[options.target], options.task)
    target = _target(table[options.target], classes)
    train, test, said = _split(target, options, classes)
    notes += said
    inputs = table.drop(columns=[options.target, *options.drop])
    used, said = _columns(inputs, train)
    notes += said
    model = TableModel(used, options.target, _estimator(options, classes))
    x, x_test = model.features(inputs.loc[train]), model.features(inputs.loc[test])
    y, y_test = target[train].to_numpy(), target[test].to_numpy()
    out = _folder(options)
    print(f"{'classification' if classes else 'regression'}: {len(y)} rows to train on, {len(y_test)} to test")
    say(notes)
    heard = _train(model, x, y)
    say(heard)
    notes += heard
    found = {"network": scores(model, x_test, y_test)}
    out.mkdir(parents=True, exist_ok=True)
    model.save(out / FILE)
    if options.symbolic:
        heard = _look_for_formula(model, x, y, x_test, options)
        say(heard)
        notes += heard
    if model.has_formula:
        found["formula"] = scores(model.by_formula(), x_test, y_test)
        model.save(out / FILE)
    found["without features"] = baseline(y, y_test, classes)
    report.write(out / "report.html", model, found, notes, len(y), x_test, y_test)
    _print(model, found)
    print(f"wrote {out / FILE} and {out / 'report.html'}")
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse numbers out of range that the estimators don't refuse."""
    if not 0 < options.test < 1:
        raise Refused(f"--test must be a share of the rows, between 0 and 1, got {options.test}")
    if not 0 <= options.seed < 2**32:
        raise Refused(f"--seed must be 0 to {2**32 - 1}, got {options.seed}")
    if not 1 <= options.grid <= MOST_SPANS:
        raise Refused(f"--grid must be 1 to {MOST_SPANS}, got {options.grid}")


def _table(options: argparse.Namespace) -> tuple[pd.DataFrame, list[str]]:
    """The rows that have a target, and notes."""
    table, notes = tables.read(options.table)
    tables.require(table, [options.target, *options.drop])
    if options.target in options.drop:
        raise Refused(f"{options.target!r} is the target and can't be dropped")
    empty = table[options.target].isna()
    if empty.any():
        notes.append(f"rows without {options.target!r} are left out: {int(empty.sum())}")
    return table[~empty], notes


def _is_classification(target: pd.Series, task: str) -> bool:
    kind = columns.kind_of(target)
    if task == "regression" and kind not in columns.NUMBERS:
        raise Refused(f"{target.name!r} holds {kind} values; a regression needs numbers")
    if kind not in (*columns.NUMBERS, *columns.TEXTS, "empty"):
        raise Refused(f"{target.name!r} holds {kind} values; a target must be numbers, truth values or text")
    return columns.is_classification(target) if task == "auto" else task == "classification"


def _target(target: pd.Series, classes: bool) -> pd.Series:
    """The target as numbers, or as names of classes."""
    rows, values = len(target), target.nunique()
    if rows < FEWEST_ROWS:
        raise Refused(f"{rows} rows are too few to learn from and to test on; at least {FEWEST_ROWS} are needed")
    if values < 2:
        raise Refused(f"{target.name!r} has one value, {target.iloc[0]}; there is nothing to learn")
    if classes and values > rows / 2:
        raise Refused(f"{target.name!r} has {values} different values in {rows} rows, too many to be classes")
    return columns.texts(target) if classes else pd.Series(columns.numbers(target), target.index)


def _split(target: pd.Series, options: argparse.Namespace, classes: bool) -> tuple[pd.Index, pd.Index, list[str]]:
    """Rows to train on, rows to test, and notes; every class has rows to train on."""
    tested = round(options.test * len(target))
    if not 2 <= tested <= len(target) - 2:
        raise Refused(f"--test {options.test} of {len(target)} rows leaves fewer than two to test, or to train on")
    train, test = split_rows(len(target), tested, target.to_numpy() if classes else None, options.seed)
    untested = sorted(set(target.iloc[train]) - set(target.iloc[test])) if classes else []
    if len(test) < 2:
        raise Refused(
            f"--test {options.test} of {len(target)} rows leaves fewer than two to test beside a row of every class to "
            f"train on; classes without a row to test: {', '.join(untested)}. Give more of them, or a larger --test"
        )
    notes = [f"classes without a row to test, of which scores say nothing: {', '.join(untested)}"] if untested else []
    return target.index[train], target.index[test], notes


def _columns(inputs: pd.DataFrame, train: pd.Index) -> tuple[list[columns.Column], list[str]]:
    """The columns whose values differ among the rows to train on, and notes."""
    found = [columns.Column.of(inputs.loc[train, name]) for name in inputs.columns]
    constant = [
        column.name
        for column in found
        if all(_is_constant(one) for one in column.features(inputs.loc[train, column.name]))
    ]
    used = [column for column in found if column.name not in constant]
    if not used:
        raise Refused(
            "no column is left to learn from" + (f"; of one value: {', '.join(constant)}" if constant else "")
        )
    notes = columns.notes(used, inputs)
    return used, [f"columns of one value are left out: {', '.join(constant)}", *notes] if constant else notes


def _is_constant(feature: Array) -> bool:
    return bool(samples.are_constant(torch.tensor(feature)[:, None]))


def _estimator(options: argparse.Namespace, classes: bool) -> KANClassifier | KANRegressor:
    small = options.symbolic and classes  # the formula of classes is that of the network itself
    settings: dict[str, Any] = {"lamb": 0.01} if small else {}
    return (KANClassifier if classes else KANRegressor)(
        _hidden(options.hidden or ("2" if small else "16")),
        grid=options.grid,
        steps=options.steps,
        random_state=options.seed,
        verbose=not options.quiet,
        **settings,
    )


def _hidden(given: str) -> tuple[int, ...]:
    """Nodes of the hidden layers."""
    numbers = [] if given == "none" else given.split(",")
    if not all(number.strip().isdecimal() and 1 <= int(number) <= MOST_NODES for number in numbers):
        raise Refused(f"--hidden must be numbers from 1 to {MOST_NODES} such as 16 or 8,4, or none; got {given!r}")
    return tuple(map(int, numbers))


def _folder(options: argparse.Namespace) -> Path:
    """The folder to write to; refused before the training if it can't be written, so that no training is lost."""
    out: Path = options.out or options.table.with_name(f"{options.table.stem}_kan")
    present = next(folder for folder in (out, *out.parents) if folder.exists())
    if not present.is_dir():
        raise Refused(f"can't write to {out}: {present} is no folder; give another by --out")
    if not os.access(present, os.W_OK):
        raise Refused(f"can't write to {out}: no permission; give another by --out")
    return out


def _train(model: TableModel, x: Array, y: Array) -> list[str]:
    """Train the estimator; returns notes on how that ended, on Ctrl-C for example.

    Raises:
        Refused: the data or options can't be used, or training ended before its first step did.
    """
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            model.estimator.fit(x, y)
        except (TypeError, ValueError) as error:
            raise Refused(str(error)) from error
    notes = [str(one.message) for one in heard if issubclass(one.category, UserWarning | RuntimeWarning)]
    if math.isnan(model.estimator.history_["train_loss"][-1]):
        raise Refused("; ".join(["nothing was learnt, and nothing is written", *notes]))
    return notes


def _look_for_formula(model: TableModel, x: Array, y: Array, x_test: Array, options: argparse.Namespace) -> list[str]:
    """Give the model a formula that has values on rows to test; returns notes on the formula.

    `KAN.discover` finds the formula of a regression in the data. The formula of a classification is that of its network
    once splines are replaced by functions.
    """
    estimator = model.estimator
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            if isinstance(estimator, KANClassifier):
                _ = estimator.symbolic_
            else:
                inputs = torch.from_numpy((x[:FORMULA_ROWS] - estimator.x_mean_) / estimator.x_scale_)
                targets = torch.from_numpy((y[:FORMULA_ROWS, None] - estimator.y_mean_) / estimator.y_scale_)
                estimator.symbolic_ = KAN.discover((inputs, targets), seed=options.seed, progress=not options.quiet)
        except ValueError as error:
            return [f"no formula: {error}"]
        except KeyboardInterrupt:
            return ["no formula: the search was interrupted"]
    notes = [str(one.message) for one in heard if issubclass(one.category, UserWarning)]
    undefined = int((~model.by_formula().defined(x_test)).sum())
    if undefined > len(x_test) - 2:
        del estimator.symbolic_
        return [*notes, "no formula: the one that was found has no value on rows held out"]
    if undefined:
        notes.append(
            f"the formula has no value on {undefined} of the rows held out; its scores are those of the others"
        )
    return notes


def _print(model: TableModel, found: dict[str, dict[str, float]]) -> None:
    width = max(map(len, found))
    for name, values in found.items():
        print(f"{name:{width}}  " + ", ".join(f"{what} {brief(value)}" for what, value in values.items()))
    if model.has_formula:
        print(text(model.formulas()))
