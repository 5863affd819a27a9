"""Scores of predictions on rows that were held out, and of a prediction that ignores the features."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics

from kan_fast.cli.table_model import TableModel
from kan_fast.sklearn import KANClassifier

Scores = dict[str, float]


def scores(model: TableModel, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Scores:
    """Error measures of a model on the rows of features `(rows, features)` for which the model has a value."""
    estimator, defined = model.estimator, model.defined(x)
    x, y = x[defined], y[defined]
    if isinstance(estimator, KANClassifier):
        return _agreement(y, estimator.predict(x), estimator.predict_proba(x), estimator.classes_)
    return _errors(y, estimator.predict(x))


def baseline(y_train: npt.NDArray[Any], y: npt.NDArray[Any], classes: bool) -> Scores:
    """The same measures for a prediction of the mean, or of the most frequent class with the frequencies of all."""
    if not classes:
        return _errors(y, np.full(len(y), y_train.mean()))
    names, counts = np.unique(y_train, return_counts=True)
    shares = np.tile(counts / counts.sum(), (len(y), 1))
    return _agreement(y, np.full(len(y), names[counts.argmax()]), shares, names)


def brief(value: float) -> str:
    """A number with four digits, or with all digits of a whole number up to where an exponent is easier to read."""
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def _errors(y: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> Scores:
    return {
        "mean absolute error": float(metrics.mean_absolute_error(y, predicted)),
        "root mean squared error": float(metrics.root_mean_squared_error(y, predicted)),
        "R2": float(metrics.r2_score(y, predicted)),
    }


def _agreement(
    y: npt.NDArray[Any], predicted: npt.NDArray[Any], shares: npt.NDArray[Any], names: npt.NDArray[Any]
) -> Scores:
    """Accuracy and log loss; all classes have the names that were in training."""
    loss = metrics.log_loss(y, shares, labels=names)
    return {"accuracy": float((y == predicted).mean()), "log loss": float(loss)}
