"""`python -m kan_fast fit`: train on a part of a table, test on the rest; write model and report."""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import numpy.typing as npt
import pandas as pd
import torch
from sklearn.model_selection import train_test_split

from kan_fast.cli import columns, report
from kan_fast.cli.formulas import text
from kan_fast.cli.refused import Refused
from kan_fast.cli.scores import baseline, scores
from kan_fast.cli.table_model import TableModel
from kan_fast.network import KAN
from kan_fast.sklearn import KANClassifier, KANRegressor

FEWEST_ROWS = 10
FORMULA_ROWS = 2000  # that a formula is looked for in, at most


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    table = _table(options)
    notes = []
    empty = table[options.target].isna()
    if empty.any():
        notes.append(f"rows without {options.target!r} are left out: {int(empty.sum())}")
        table = table[~empty]
    classes = _classes(table[options.target], options.task)
    target = _target(table[options.target], classes)
    train, test = _split(target, options, classes)
    inputs = table.drop(columns=[options.target, *options.drop])
    used = [columns.Column.of(inputs.loc[train, name]) for name in inputs.columns]
    notes += [note for column in used if (note := column.note(inputs[column.name])) is not None]
    model = TableModel(used, options.target, _estimator(options, classes))
    x, x_test = model.features(inputs.loc[train]), model.features(inputs.loc[test])
    y, y_test = target[train].to_numpy(), target[test].to_numpy()
    print(f"{'classification' if classes else 'regression'}: {len(y)} rows to train on, {len(y_test)} to test")
    print(*(f"note: {note}\n" for note in notes), sep="", end="")
    try:
        model.estimator.fit(x, y)
        found = {"network": scores(model, x_test, y_test)}
        if options.symbolic:
            notes += _look_for_formula(model.estimator, x, y, options)
            found["formula"] = scores(model.by_formula(), x_test, y_test)
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from error
    found["without features"] = baseline(y, y_test, classes)
    _write(options, model, found, notes, len(y), x_test, y_test)
    return 0


def _table(options: argparse.Namespace) -> pd.DataFrame:
    if not 0 < options.test < 1:
        raise Refused(f"--test must be a share of the rows, between 0 and 1, got {options.test}")
    table = columns.read(options.table)
    columns.require(table, [options.target, *options.drop])
    if options.target in options.drop:
        raise Refused(f"{options.target!r} is the target and can't be dropped")
    if len(table.columns) == 1 + len(set(options.drop)):
        raise Refused("no column is left to learn from")
    return table.reset_index(drop=True)


def _classes(target: pd.Series, task: str) -> bool:
    if task == "regression" and not pd.api.types.is_numeric_dtype(target.dtype):
        raise Refused(f"{target.name!r} holds {target.dtype}, no numbers; a regression needs numbers")
    return columns.is_classification(target) if task == "auto" else task == "classification"


def _target(target: pd.Series, classes: bool) -> pd.Series:
    """Numbers, or names of classes."""
    if len(target) < FEWEST_ROWS:
        raise Refused(f"{len(target)} rows are too few to learn from and to test on; at least {FEWEST_ROWS} are needed")
    if target.nunique() < 2:
        raise Refused(f"{target.name!r} has one value, {target.iloc[0]}; there is nothing to learn")
    if not classes:
        return target.astype(float)
    truth = pd.api.types.is_bool_dtype(target.dtype)
    whole = not truth and pd.api.types.is_numeric_dtype(target.dtype) and bool((target == target.round()).all())
    return (target.astype("int64") if whole else target).map(str)


def _split(target: pd.Series, options: argparse.Namespace, classes: bool) -> tuple[pd.Index, pd.Index]:
    """Rows to train on and rows to test; the same share of every class in both, if there are enough of each."""
    tested = round(options.test * len(target))
    if not 2 <= tested <= len(target) - 2:
        raise Refused(f"--test {options.test} of {len(target)} rows leaves fewer than two to test, or to train on")
    counts = target.value_counts()
    even = classes and counts.min() > 1 and len(counts) <= min(tested, len(target) - tested)
    train, test = train_test_split(
        target.index, test_size=tested, random_state=options.seed, stratify=target if even else None
    )
    return train, test


def _estimator(options: argparse.Namespace, classes: bool) -> KANClassifier | KANRegressor:
    small = options.symbolic and classes  # the formula of classes is that of the network itself
    given = options.hidden or ("2" if small else "16")
    try:
        hidden = () if given == "none" else tuple(int(number) for number in given.split(","))
    except ValueError:
        raise Refused(f"--hidden must be numbers such as 16 or 8,4, or none; got {given!r}") from None
    settings: dict[str, Any] = {"lamb": 0.01} if small else {}
    return (KANClassifier if classes else KANRegressor)(
        hidden,
        grid=options.grid,
        steps=options.steps,
        random_state=options.seed,
        verbose=not options.quiet,
        **settings,
    )


def _look_for_formula(
    estimator: KANClassifier | KANRegressor, x: npt.NDArray[Any], y: npt.NDArray[Any], options: argparse.Namespace
) -> list[str]:
    """Give the estimator a symbolic network, and return what there is to say of it.

    Of a regression it is what `KAN.discover` makes of the data, of a classification what becomes of the network.
    """
    if isinstance(estimator, KANClassifier):
        _ = estimator.symbolic_
        return []
    inputs = torch.from_numpy((x[:FORMULA_ROWS] - estimator.x_mean_) / estimator.x_scale_)
    targets = torch.from_numpy((y[:FORMULA_ROWS, None] - estimator.y_mean_) / estimator.y_scale_)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        estimator._symbolic = KAN.discover((inputs, targets), seed=options.seed, progress=not options.quiet)
    notes = [str(one.message) for one in heard if issubclass(one.category, UserWarning)]
    print(*(f"note: {note}\n" for note in notes), sep="", end="")
    return notes


def _write(
    options: argparse.Namespace,
    model: TableModel,
    found: dict[str, dict[str, float]],
    notes: list[str],
    trained: int,
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
) -> None:
    out = options.out or options.table.parent / f"{options.table.name.partition('.')[0]}_kan"
    out.mkdir(parents=True, exist_ok=True)
    model.save(out / "model.kan")
    report.write(out / "report.html", model, found, notes, trained, x, y)
    width = max(map(len, found))
    for name, values in found.items():
        print(f"{name:{width}}  " + ", ".join(f"{what} {value:.4g}" for what, value in values.items()))
    if model.has_formula:
        print(text(model.formulas()))
    print(f"wrote {out / 'model.kan'} and {out / 'report.html'}")
