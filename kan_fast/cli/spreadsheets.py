"""Tables for spreadsheets: text that a spreadsheet would run as a formula is marked as text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# Signs that begin a formula in Excel, LibreOffice or Google Sheets, and their wide forms of Chinese and Japanese.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*|[+-]")  # a number or a sign alone: no formula


def without_formulas(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The table with an apostrophe before each name and text that a spreadsheet takes for a formula; and a note."""
    found: list[str] = []

    def marked(text: Any) -> Any:
        if not isinstance(text, str) or not _FORMULA.match(text) or _NUMBER.fullmatch(text):
            return text
        found.append(text)
        return f"'{text}"

    table = table.rename(columns=marked)
    texts = {name: column.map(marked) for name, column in table.items() if column.dtype.kind not in "biuf"}
    different = list(dict.fromkeys(found))
    note = (
        f"names that a spreadsheet takes for formulas get an apostrophe: {', '.join(map(repr, different[:3]))}"
        f"{', ...' if len(different) > 3 else ''}; --verbatim leaves them as they are"
    )
    return table.assign(**texts), [note] if found else []
