"""Estimators as plain data, and back: what files keep of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from kan_fast._support import files
from kan_fast._support.saved import Saved
from kan_fast.model import KAN
from kan_fast.nn import storage
from kan_fast.sklearn.estimators import KANClassifier, KANRegressor

SCALES = ("x_mean_", "x_scale_", "y_mean_", "y_scale_")
_RANDOM_STATE = "RandomState"


class EstimatorData(NamedTuple):
    """The checked parts of an estimator."""

    columns: list[str] | None
    classes: list[Any] | None
    single: bool
    options: dict[str, Any]
    scales: dict[str, np.ndarray]
    importances: np.ndarray
    network: KAN
    symbolic: KAN | None


def describe(estimator: KANRegressor | KANClassifier) -> dict[str, Any]:
    """A fitted estimator as plain values and tensors, from which `rebuild` makes one that predicts the same.

    `symbolic_` is included if it has been accessed; samples, `history_` and `validation_losses_` are left out.

    Raises:
        TypeError: a file can't keep an argument of the estimator.
    """
    check_is_fitted(estimator)
    classes = estimator.classes_.tolist() if isinstance(estimator, KANClassifier) else None
    data = {
        "columns": estimator.feature_names_in_.tolist() if hasattr(estimator, "feature_names_in_") else None,
        "classes": classes,
        "single": classes is not None or estimator._single,
        "options": _plain_options(estimator.get_params()),
        "scales": {name: torch.from_numpy(getattr(estimator, name)) for name in SCALES if hasattr(estimator, name)},
        "importances": torch.from_numpy(estimator.feature_importances_),
        "network": storage.describe(estimator.model_),
        "symbolic": storage.describe(estimator.symbolic_) if "symbolic_" in vars(estimator) else None,
    }
    return files.plain(data, "the estimator")


def rebuild(saved: dict[str, Any]) -> KANRegressor | KANClassifier:
    """The estimator that `describe` described, in this version or an earlier one.

    Raises:
        ValueError: `saved` is not the result of `describe`; the message says what is wrong.
    """
    data = _checked(saved, KANRegressor().get_params())
    estimator = (KANRegressor if data.classes is None else KANClassifier)(**data.options)
    fitted = {"feature_importances_": data.importances, "model_": data.network, "symbolic_": data.symbolic}
    fitted |= {**data.scales, "n_features_in_": len(data.importances)}
    fitted |= {"_single": data.single} if data.classes is None else {"classes_": np.array(data.classes)}
    if data.columns is not None:
        fitted["feature_names_in_"] = np.array(data.columns, dtype=object)
    for name, value in fitted.items():
        if value is not None:
            setattr(estimator, name, value)
    return estimator


def _plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an estimator in the form that a file keeps.

    Raises:
        TypeError: a file can't keep one of them.
    """
    return files.plain({name: _plain_option(value) for name, value in options.items()}, "the options")


def _checked(data: Any, options: Collection[str]) -> EstimatorData:
    """The parts of an estimator from plain data; `options` are the arguments that estimators have, with defaults.

    Raises:
        ValueError: the data are not a description of an estimator; the message says what is wrong.
    """
    saved = Saved(data, "the estimator")
    scales = {name: entry.finite(torch.float64, (None,)) for name, entry in saved["scales"].record().items()}
    classes = None if saved["classes"].value is None else _classes(saved["classes"])
    if scales.keys() != set(SCALES[: 2 if classes else 4]):
        raise saved["scales"].wrong(f"{', '.join(SCALES)}, the last two for numbers alone")
    inputs = len(scales["x_mean_"])
    outputs = len(scales["y_mean_"]) if classes is None else len(classes) if len(classes) > 2 else 1
    for name, scale in scales.items():
        saved["scales"][name].tensor(torch.float64, (inputs if name.startswith("x") else outputs,))
        if name.endswith("scale_") and not (scale > 0).all():
            raise saved["scales"][name].wrong("greater than 0")
    given = saved["options"].record()
    unknown = given.keys() - set(options)
    if unknown:
        raise ValueError(
            f"{saved.place} has unknown options {', '.join(sorted(unknown))}; allowed: {', '.join(options)}"
        )
    single = saved["single"].truth()
    if single and classes is None and outputs > 1:
        raise saved["single"].wrong(f"False for {outputs} targets")
    columns = saved.get("columns")
    return EstimatorData(
        None if columns is None else [column.text() for column in columns.items(inputs)],
        classes,
        single,
        {name: _option(option) for name, option in given.items()},
        {name: scale.numpy().copy() for name, scale in scales.items()},
        saved["importances"].finite(torch.float64, (inputs,)).numpy().copy(),
        _network(saved["network"], inputs, outputs),
        None if saved["symbolic"].value is None else _network(saved["symbolic"], inputs, outputs),
    )


def _network(saved: Saved, inputs: int, outputs: int) -> KAN:
    network = storage.rebuild(KAN, saved.value)
    if (network.width_in[0], network.width_in[-1]) != (inputs, outputs):
        raise ValueError(f"{saved.place} must have {inputs} inputs and {outputs} outputs, has width {network.width}")
    return network


def _classes(saved: Saved) -> list[Any]:
    """Different labels of one kind in ascending order: texts, or numbers."""
    items = saved.items()
    kinds = {type(item.value) for item in items}
    if kinds == {str}:
        labels: list[Any] = [item.text() for item in items]
    elif kinds in ({bool}, {int}, {float}):
        labels = [item.value for item in items if kinds == {bool} or math.isfinite(item.real())]
    else:
        raise saved.wrong("texts, or numbers of one kind")
    if len(labels) < 2 or labels != sorted(set(labels)):
        raise saved.wrong("at least two different labels in ascending order")
    return labels


def _plain_option(value: Any) -> Any:
    if not isinstance(value, np.random.RandomState):
        return value
    name, keys, position, has_gauss, gauss = value.get_state(legacy=True)
    if name != "MT19937":
        raise TypeError(f"a file can't keep random_state, a generator of the kind {name}; give an int")
    return {_RANDOM_STATE: torch.from_numpy(np.asarray(keys, np.int64)), "then": [position, has_gauss, gauss]}


def _option(saved: Saved) -> Any:
    """An option of plain data. The estimator refuses a value that it can't use when it is trained."""
    if not isinstance(saved.value, dict):
        return saved.value
    keys = saved[_RANDOM_STATE].tensor(torch.int64, (624,))
    position, has_gauss, gauss = saved["then"].items(3)
    if int(keys.min()) < 0 or int(keys.max()) >= 2**32 or position.integer() > 624 or has_gauss.integer() > 1:
        raise saved.wrong("the state of a random generator")
    random = np.random.RandomState()
    random.set_state(("MT19937", keys.numpy().astype(np.uint32), position.value, has_gauss.value, gauss.real()))
    return random
