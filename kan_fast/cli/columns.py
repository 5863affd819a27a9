"""Columns as features: the kind of each column, and the numbers that it becomes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kan_fast._support.samples import LARGEST
from kan_fast._support.saved import Saved
from kan_fast.cli.messages import Refused
from kan_fast.cli.tables import require

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[Any]

MOST_LEVELS = 20  # most values of a column of text that becomes features
MOST_CLASSES = 10  # most values of a target of whole numbers that counts as classes
NUMBERS = ("integer", "floating", "mixed-integer-float", "decimal", "boolean")  # pandas' names of kinds
TEXTS = ("string", "categorical")


@dataclass
class Column:
    """A column and the features that it becomes: a number, or an indicator for each level of a category.

    Attributes:
        name: of the column.
        fill: value of missing numbers, the median of the numbers to train on; None for a category.
        levels: the values of a category, as text. Two of them are one feature: 0, 1, and 0.5 for any other value.
    """

    name: str
    fill: float | None
    levels: list[str]

    @classmethod
    def of(cls, values: pd.Series) -> Column:
        """The column that makes features of such values; `values` are those to train on.

        Raises:
            Refused: the values can't be used.
        """
        import pandas as pd

        name, known = str(values.name), values.dropna()
        leave_out = f"leave the column out with --drop {name!r}"
        if not len(known):
            raise Refused(f"column {name!r} is empty; {leave_out}")
        kind = kind_of(values)
        if kind in NUMBERS:
            return cls(name, float(np.median(numbers(known))), [])
        if kind not in TEXTS:
            raise Refused(f"column {name!r} holds {_plural(kind)}; turn it into numbers, or {leave_out}")
        levels = sorted(set(texts(known)))
        if len(levels) > MOST_LEVELS:
            parsed = pd.to_numeric(known, errors="coerce")
            if 0.5 < parsed.notna().mean() < 1:
                wrong = str(known[parsed.isna()].iloc[0])
                raise Refused(f"column {name!r} holds {wrong!r} among numbers; replace it, or {leave_out}")
            raise Refused(
                f"column {name!r} has {len(levels)} different texts, such as {levels[0]!r}, more than {MOST_LEVELS}; "
                f"turn it into numbers or group some, or {leave_out}"
            )
        return cls(name, None, levels)

    def features(self, values: pd.Series) -> Iterator[Array]:
        """The features of some rows, each `(rows,)`."""
        if self.fill is not None:
            known = numbers(values)
            yield np.where(np.isnan(known), self.fill, known)
        elif len(self.levels) == 2:
            yield texts(values).map({self.levels[0]: 0.0, self.levels[1]: 1.0}).fillna(0.5).to_numpy(float)
        else:
            for level in self.levels:
                yield (texts(values) == level).to_numpy(float)

    def names(self) -> list[str]:
        """Names of the features."""
        indicators = self.levels[1:] if len(self.levels) == 2 else self.levels
        return [self.name] if self.fill is not None else [f"{self.name}_{level}" for level in indicators]

    def note(self, values: pd.Series) -> str | None:
        """A note on the treatment of values that are missing or unknown; None if all are known."""
        missing, notes = int(values.isna().sum()), []
        other = "halfway between its two values" if len(self.levels) == 2 else "none of its values"
        if missing:
            notes.append(
                f"{missing} missing values count as {other if self.fill is None else f'{self.fill:.4g}, the median'}"
            )
        unknown = set() if self.fill is not None else set(texts(values.dropna())) - set(self.levels)
        if unknown:
            notes.append(f"values that are new count as {other}: {', '.join(sorted(unknown))}")
        return f"column {self.name!r}: {'; '.join(notes)}" if notes else None

    def to_data(self) -> dict[str, Any]:
        """The column as plain data, from which `from_data` makes it again."""
        return asdict(self)

    @classmethod
    def from_data(cls, saved: Saved) -> Column:
        """The column from the plain data of `to_data`.

        Raises:
            ValueError: the data are not those of a column.
        """
        fill, levels = saved.get("fill"), [level.text() for level in saved["levels"].items()]
        if (fill is None) != bool(levels) or len(set(levels)) < len(levels):
            raise saved["levels"].wrong("different texts for a category, and none for a number")
        return cls(saved["name"].text(), None if fill is None else fill.real(), levels)


def kind_of(values: pd.Series) -> str:
    """The kind of the values of a column, gaps aside, in pandas' words: "integer", "string", ..."""
    import pandas as pd

    return pd.api.types.infer_dtype(values, skipna=True)


def _plural(kind: str) -> str:
    return "dates" if kind.startswith("date") else "lengths of time" if kind.startswith("time") else f"{kind} values"


def numbers(values: pd.Series) -> Array:
    """Values as numbers, NaN where one is missing.

    Raises:
        Refused: there is text, or a number that is too large or too small to compute with.
    """
    try:
        found = values.astype(object).where(values.notna(), np.nan).to_numpy(float)
    except (TypeError, ValueError):
        raise Refused(f"column {values.name!r} must hold numbers, got {_plural(kind_of(values))}") from None
    size = np.nanmax(np.abs(found), initial=0)
    if np.isinf(size):
        raise Refused(f"column {values.name!r} holds infinite values; replace them, or leave the column out")
    if size > LARGEST or 0 < size < 1 / LARGEST:
        allowed = f"{1 / LARGEST:g} to {LARGEST:g}"
        raise Refused(f"column {values.name!r} reaches {size:.1e}; change its unit, so that it reaches {allowed}")
    return found


def texts(values: pd.Series) -> pd.Series:
    """Values as text, None where one is missing; whole numbers are so written in columns with gaps as well."""
    return values.astype(object).where(values.notna(), None).map(_text)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def features(columns: Sequence[Column], table: pd.DataFrame) -> Array:
    """The features of all rows, `(rows, features)`."""
    require(table, [column.name for column in columns])
    return np.stack([feature for column in columns for feature in column.features(table[column.name])], 1)


def notes(columns: Sequence[Column], table: pd.DataFrame) -> list[str]:
    """Notes on the treatment of values that are missing or unknown, for all columns."""
    return [note for column in columns if (note := column.note(table[column.name])) is not None]


def feature_names(columns: Sequence[Column]) -> list[str]:
    """Names of the features that can stand in formulas: letters, digits and underscores, no name twice."""
    found: list[str] = []
    for name in (name for column in columns for name in column.names()):
        plain = re.sub(r"[\W_]+", "_", name).strip("_") or "x"
        plain = f"x_{plain}" if plain[0].isdigit() else plain
        copies = (plain, *(f"{plain}_{number}" for number in range(2, len(found) + 3)))
        found.append(next(name for name in copies if name not in found))
    return found


def is_classification(target: pd.Series) -> bool:
    """Whether a target looks like classes: text, truth values, or whole numbers of which there are few."""
    if kind_of(target) not in NUMBERS or kind_of(target) == "boolean":
        return True
    values = numbers(target)
    return bool((values == np.round(values)).all()) and len(np.unique(values)) <= MOST_CLASSES
