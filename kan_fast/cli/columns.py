"""Tables as numbers: reading files, what kind each column is, and how it becomes features."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kan_fast.cli.refused import Refused

if TYPE_CHECKING:
    import pandas as pd

MOST_LEVELS = 20  # different values of a column of text
MOST_CLASSES = 10  # different values of a target of whole numbers that is taken as classes


def read(path: Path) -> pd.DataFrame:
    """The table in a file.

    Raises:
        Refused: it can't be read, or is empty.
    """
    import pandas as pd

    suffixes = {suffix.lower() for suffix in path.suffixes}
    if not path.exists():
        raise Refused(f"there is no file {path}")
    try:
        if ".parquet" in suffixes:
            table = pd.read_parquet(path)
        elif {".csv", ".tsv", ".txt"} & suffixes:
            table = pd.read_csv(path, sep="\t" if ".tsv" in suffixes else ",", skipinitialspace=True)
        else:
            raise Refused(f"{path} must be a .csv, .tsv or .parquet file")
    except ImportError as error:
        raise Refused(f"reading {path} needs pyarrow; install it with: pip install 'kan_fast[table]'") from error
    except (ValueError, OSError) as error:
        raise Refused(f"can't read {path}: {error}") from error
    if not len(table) or not len(table.columns):
        raise Refused(f"{path} has no rows")
    table.columns = [str(name) for name in table.columns]
    return table


def require(table: pd.DataFrame, names: Sequence[str]) -> None:
    """Refuse if one of these is no column."""
    for name in names:
        if name not in table.columns:
            close = difflib.get_close_matches(name, table.columns, 1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise Refused(f"there is no column {name!r}{hint} The columns are: {', '.join(table.columns)}")


@dataclass
class Column:
    """How a column becomes features: a number, or an indicator for each level of a category.

    Attributes:
        name: of the column.
        fill: what missing numbers count as, the median of those to train on; None for a category.
        levels: values that have an indicator each, as text; a category of two has one indicator, of the second.
    """

    name: str
    fill: float | None
    levels: list[str]

    @classmethod
    def of(cls, values: pd.Series) -> Column:
        """What the values of a column to train on ask for.

        Raises:
            Refused: they can't be used.
        """
        import pandas as pd

        name, known = str(values.name), values.dropna()
        leave_out = f"leave the column out with --drop {name!r}"
        if not len(known):
            raise Refused(f"column {name!r} is empty; {leave_out}")
        if pd.api.types.is_numeric_dtype(values.dtype):
            return cls(name, float(np.median(_numbers(known))), [])
        if not (pd.api.types.is_string_dtype(values.dtype) or isinstance(values.dtype, pd.CategoricalDtype)):
            kind = "dates" if pd.api.types.is_datetime64_any_dtype(values.dtype) else str(values.dtype)
            raise Refused(f"column {name!r} holds {kind}; turn it into numbers, or {leave_out}")
        levels = sorted({str(value) for value in known})
        if len(levels) > MOST_LEVELS:
            parsed = pd.to_numeric(known, errors="coerce")
            if parsed.notna().mean() > 0.5:
                wrong = str(known[parsed.isna()].iloc[0])
                raise Refused(f"column {name!r} holds {wrong!r} among numbers; replace it, or {leave_out}")
            raise Refused(
                f"column {name!r} has {len(levels)} texts, more than {MOST_LEVELS}; group some, or {leave_out}"
            )
        return cls(name, None, levels)

    @property
    def indicators(self) -> list[str]:
        """Levels that have a feature."""
        return self.levels[1:] if len(self.levels) == 2 else self.levels

    def features(self, values: pd.Series) -> Iterator[npt.NDArray[Any]]:
        """The features of some rows, each `(rows,)`."""
        if self.fill is not None:
            yield np.where(values.isna(), self.fill, _numbers(values))
        else:
            text = values.astype(object).where(values.notna(), None).map(str)
            for level in self.indicators:
                yield (text == level).to_numpy(float)

    def names(self) -> list[str]:
        """Names of the features."""
        return [self.name] if self.fill is not None else [f"{self.name}_{level}" for level in self.indicators]

    def note(self, values: pd.Series) -> str | None:
        """What becomes of values that are missing or unknown."""
        missing = int(values.isna().sum())
        notes = []
        if missing:
            number = f"the median, {self.fill:.4g}" if self.fill is not None else "none of its values"
            notes.append(f"{missing} missing values count as {number}")
        if self.fill is None:
            unknown = sorted({str(value) for value in values.dropna()} - set(self.levels))
            if unknown:
                notes.append(f"values that are new count as none of its values: {', '.join(unknown)}")
        return f"column {self.name!r}: {'; '.join(notes)}" if notes else None

    def to_data(self) -> dict[str, Any]:
        """Plain data, from which `Column(**data)` makes it again."""
        return asdict(self)


def _numbers(values: pd.Series) -> npt.NDArray[Any]:
    try:
        numbers = values.to_numpy(float, na_value=np.nan)
    except (TypeError, ValueError):
        raise Refused(f"column {values.name!r} must hold numbers, as in training; got {values.dtype}") from None
    if np.isinf(numbers).any():
        raise Refused(f"column {values.name!r} holds infinite values; replace them, or leave the column out")
    return numbers


def features(columns: Sequence[Column], table: pd.DataFrame) -> npt.NDArray[Any]:
    """The features of all rows, `(rows, features)`."""
    require(table, [column.name for column in columns])
    return np.stack([feature for column in columns for feature in column.features(table[column.name])], 1)


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
    import pandas as pd

    if pd.api.types.is_bool_dtype(target.dtype) or not pd.api.types.is_numeric_dtype(target.dtype):
        return True
    numbers = target.to_numpy(float)
    return bool((numbers == np.round(numbers)).all()) and len(np.unique(numbers)) <= MOST_CLASSES
