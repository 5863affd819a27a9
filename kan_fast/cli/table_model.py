"""A model of a table, its columns and estimator, and the file of plain data that holds both."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kan_fast._support import files
from kan_fast._support.saved import Saved
from kan_fast.cli.columns import Column, feature_names, features
from kan_fast.cli.formulas import Formulas
from kan_fast.cli.messages import Refused
from kan_fast.sklearn import KANClassifier, KANRegressor, describe, rebuild

if TYPE_CHECKING:
    import pandas as pd

FILE = "model.kan"
FORMATS = ("kan_fast table model 1", "kan_fast table model 2")  # this version writes the last


@dataclass
class TableModel:
    """The model that `fit` writes: columns, which make features of rows, and an estimator.

    Attributes:
        columns: columns that the model takes.
        target: name of the column that the model predicts.
        estimator: trained on the features of the columns.
    """

    columns: list[Column]
    target: str
    estimator: KANRegressor | KANClassifier

    @property
    def classes(self) -> list[str] | None:
        """The classes; None for a regression."""
        return self.estimator.classes_.tolist() if isinstance(self.estimator, KANClassifier) else None

    @property
    def names(self) -> list[str]:
        """Names of the features."""
        return feature_names(self.columns)

    @property
    def has_formula(self) -> bool:
        """Whether there is a formula beside the network."""
        return "symbolic_" in vars(self.estimator)

    def by_formula(self) -> TableModel:
        """The same model with the formula in place of the network."""
        estimator = copy.copy(self.estimator)
        estimator.model_ = self.estimator.symbolic_
        return TableModel(self.columns, self.target, estimator)

    def features(self, table: pd.DataFrame) -> npt.NDArray[Any]:
        """The features of the rows of a table, `(rows, features)`."""
        return features(self.columns, table)

    def defined(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The rows of features `(rows, features)` for which the model has a value; a formula may lack some."""
        estimator = self.estimator
        values = estimator.decision_function(x) if isinstance(estimator, KANClassifier) else estimator.predict(x)
        return np.all(np.isfinite(values.reshape(len(x), -1)), axis=1)

    def formulas(self) -> Formulas:
        """The formulas, in the units of the table.

        Raises:
            Refused: the model has none.
        """
        if not self.has_formula:
            raise Refused("the model has no formula; train it with fit --symbolic")
        deviations = np.random.default_rng(0).normal(size=(100, len(self.names)))
        points = self.estimator.x_mean_ + self.estimator.x_scale_ * deviations
        return Formulas(*self.estimator.symbolic_formula(self.names), self.output_names(), points)

    def output_names(self) -> list[str]:
        """Names of the outputs of the network."""
        if self.classes is None:
            return [self.target]
        if len(self.classes) == 2:
            return [f"log-odds of {self.classes[1]}"]
        return [f"score of {name}" for name in self.classes]

    def save(self, path: Path) -> None:
        """Write a file, from which `load` makes the model again."""
        data = {
            "format": FORMATS[-1],
            "target": self.target,
            "columns": [column.to_data() for column in self.columns],
            "estimator": describe(self.estimator),
        }
        files.save(path, data)

    @classmethod
    def load(cls, path: Path) -> TableModel:
        """The model in a file, or in the folder that `fit` wrote. Nothing in it is run.

        Raises:
            Refused: `save` did not write the file, or it is damaged.
        """
        path = path / FILE if path.is_dir() else path
        try:
            return files.load(path, "a model of fit", lambda data: cls._checked(Saved(data, "the model")))
        except ValueError as error:
            raise Refused(str(error)) from error

    @classmethod
    def _checked(cls, saved: Saved) -> TableModel:
        """The model from the data in a file.

        Raises:
            ValueError: the data are not those of a model.
        """
        saved["format"].one_of(FORMATS)
        columns = [Column.from_data(column) for column in saved["columns"].items()]
        if not columns or len({column.name for column in columns}) < len(columns):
            raise ValueError(f"{saved.place}.columns must have at least one column, and each name once")
        estimator = rebuild(saved["estimator"].value)
        count = sum(len(column.names()) for column in columns)
        if count != estimator.n_features_in_:
            raise ValueError(f"{saved.place} has {count} features, and an estimator of {estimator.n_features_in_}")
        if isinstance(estimator, KANClassifier) and estimator.classes_.dtype.kind != "U":
            raise ValueError(f"{saved.place} must have texts as classes")
        return cls(columns, saved["target"].text(), estimator)
