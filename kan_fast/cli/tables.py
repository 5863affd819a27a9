"""Tables in files: CSV in its dialects, TSV and Parquet."""

from __future__ import annotations

import codecs
import csv
import difflib
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kan_fast.cli.messages import Refused

if TYPE_CHECKING:
    import pandas as pd

PARQUET, TEXT = (".parquet",), (".csv", ".tsv", ".txt")
SEPARATORS = ",;\t|"
SAMPLE = 100  # lines from which the dialect is told


def read(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The table in a file, and notes on it; every column has a name of its own.

    Raises:
        Refused: the file can't be read, the table is empty, or a name occurs twice.
    """
    import pandas as pd

    if not path.exists():
        raise Refused(f"there is no file {path}")
    notes: list[str]
    try:
        if path.suffix.lower() in PARQUET:
            table = pd.read_parquet(path)
            names, notes = [str(name) for name in table.columns], []
        elif path.suffix.lower() in TEXT:
            table, names, notes = _read_text(path)
        else:
            raise Refused(f"{path} must be a .csv, .tsv, .txt or .parquet file")
    except ImportError as error:
        raise Refused(f"reading {path} needs pyarrow; install it with: pip install 'kan_fast[table]'") from error
    except UnicodeError as error:
        raise Refused(f"{path} is not text in UTF-8; save it as 'CSV UTF-8'") from error
    except (ValueError, OSError, csv.Error, pd.errors.ParserWarning) as error:
        raise Refused(f"can't read {path}: {str(error).strip()}") from error
    if not len(table) or not names:
        raise Refused(f"{path} has no rows")
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise Refused(f"{path} has more than one column {twice[0]!r}; rename or delete one")
    table.columns = pd.Index(names)
    if "" in names:
        notes.append(f"columns without a name are left out: {names.count('')}")
    return table.loc[:, [name != "" for name in names]].reset_index(drop=True), notes


def _read_text(path: Path) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Table, names and notes. Numbers have decimal commas only where semicolons separate the columns."""
    import pandas as pd

    with path.open("rb") as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding = "utf-16" if wide else "utf-8-sig"
    with path.open(encoding=encoding, newline="") as text:
        sample = [line for line in itertools.islice(text, SAMPLE) if line.strip()]
    headers = [next(csv.reader(sample, delimiter=one, skipinitialspace=True), []) for one in SEPARATORS]
    separator, names = max(zip(SEPARATORS, headers, strict=True), key=lambda one: len(one[1]))
    numbers = "".join(sample[1:])
    commas = separator == ";" and bool(re.search(r"\d,\d", numbers)) and not re.search(r"\d\.\d", numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
        table = pd.read_csv(
            path,
            sep=separator,
            decimal="," if commas else ".",
            encoding=encoding,
            skipinitialspace=True,
            index_col=False,
            low_memory=False,
        )
    notes = ["numbers are read with decimal commas"] if commas else []
    return table, [name.strip() for name in names], notes


def require(table: pd.DataFrame, names: Sequence[str]) -> None:
    """Refuse names that are not those of columns."""
    for name in names:
        if name not in table.columns:
            close = difflib.get_close_matches(name, table.columns, 1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise Refused(f"there is no column {name!r}{hint} The columns are: {', '.join(table.columns)}")
