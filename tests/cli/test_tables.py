"""Tables of the command line: dialects of CSV, kinds of columns, and the features that they become."""

import datetime
from decimal import Decimal

import numpy as np
import pytest

pd = pytest.importorskip("pandas")

from kan_fast.cli import spreadsheets  # noqa: E402
from kan_fast.cli.columns import Column, feature_names, is_classification, kind_of, texts  # noqa: E402
from kan_fast.cli.messages import Refused  # noqa: E402
from kan_fast.cli.tables import read  # noqa: E402

TABLE = pd.DataFrame({"a b": [1.5, 2.0], "c;d": ["x, y", "z"], "e": [3, 4]})


def written(folder, text, encoding="utf-8"):
    path = folder / "t.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_dialects(separator, encoding, tmp_path):
    TABLE.to_csv(tmp_path / "t.csv", sep=separator, encoding=encoding, index=False)
    table, notes = read(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(table, TABLE)
    assert notes == []


def test_decimal_commas_only_where_semicolons_part_columns(tmp_path):
    TABLE.to_csv(tmp_path / "t.csv", sep=";", decimal=",", index=False)
    table, notes = read(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(table, TABLE)
    assert notes == ["numbers are read with decimal commas"]
    table, _ = read(written(tmp_path, "a\tb\n1,234\t1\n"))
    assert table["a"].tolist() == ["1,234"], "thousands, or a decimal comma: nobody knows"
    table, _ = read(written(tmp_path, "a;b\n1,234.5;1\n"))
    assert table["a"].tolist() == ["1,234.5"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't read"),
        ("a,b\n", "has no rows"),
        ("a,b\n1,2,3\n1,2,3\n", "can't read .* header"),
        ("a,b\n1,2\n1,2,3\n", "can't read .* line 3"),
        ("a,b,a\n1,2,3\n", "has more than one column 'a'"),
    ],
)
def test_files_that_are_refused(text, message, tmp_path):
    with pytest.raises(Refused, match=message):
        read(written(tmp_path, text))


def test_another_encoding_is_refused(tmp_path):
    with pytest.raises(Refused, match="is not text in UTF-8; save it as"):
        read(written(tmp_path, "gr\u00f6\u00dfe\n1\n", "latin1"))


def test_columns_without_a_name_are_left_out(tmp_path):
    table, notes = read(written(tmp_path, ",a, b ,\n0,1,2,9\n1,3,4,9\n"))
    assert table.to_dict("list") == {"a": [1, 3], "b": [2, 4]}
    assert notes == ["columns without a name are left out: 2"]


def test_kinds_of_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    table = pd.DataFrame(
        {
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "exact": [Decimal("1.5"), Decimal("2.5"), None],
            "true": pd.array([True, False, None], dtype="boolean"),
            "kind": pd.Categorical(["a", None, "b"]),
            "day": [datetime.date(2020, 1, day) for day in (1, 2, 3)],
            "list": [[1], [2], [3]],
        }
    )
    table.to_parquet(tmp_path / "t.parquet")
    table, _ = read(tmp_path / "t.parquet")
    for name, expected in (
        ("whole", [1, 2, 3]),
        ("exact", [1.5, 2.5, 2.0]),
        ("true", [1, 0, 0.5]),
        ("kind", [0, 0.5, 1]),
    ):
        (feature,) = Column.of(table[name]).features(table[name])
        assert feature.tolist() == expected, name
    for name, message in (("day", "column 'day' holds dates; turn it into numbers, or leave"), ("list", "holds")):
        with pytest.raises(Refused, match=message):
            Column.of(table[name])


def test_a_category_is_an_indicator_for_each_value():
    column = Column.of(pd.Series(["b", "c", "a", None], name="n"))
    assert column.levels == ["a", "b", "c"]
    found = np.stack(list(column.features(pd.Series(["a", "c", None, "new"]))), 1)
    assert found.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert column.names() == ["n_a", "n_b", "n_c"]


def test_whole_numbers_with_gaps_are_the_same_categories():
    column = Column.of(pd.Series(["1", "2", "x"], name="n"))
    with_gaps = pd.Series([1, np.nan, 2], name="n")
    assert kind_of(with_gaps) == "floating"
    assert [feature.tolist() for feature in column.features(with_gaps)] == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert column.note(with_gaps) == "column 'n': 1 missing values count as none of its values"
    assert texts(pd.Series([1.5, 2.0, np.inf])).tolist() == ["1.5", "2", "inf"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", "b"], True),
        ([True, False], True),
        ([0.0, 1.0, 5.0], True),
        (range(10), True),
        (range(11), False),
        ([0, 1.5], False),
    ],
)
def test_targets_that_are_classes(values, expected):
    assert is_classification(pd.Series(values)) is expected


def test_names_of_features_are_identifiers_and_distinct():
    columns = [Column(name, 0.0, []) for name in ("a b", "a_b", "a-b", "2x", "%", "x", "a_b_2")]
    columns += [Column("c", None, ["no", "yes"]), Column("d", None, ["1", "2", "3"])]
    names = feature_names(columns)
    assert names == ["a_b", "a_b_2", "a_b_3", "x_2x", "x", "x_2", "a_b_2_2", "c_yes", "d_1", "d_2", "d_3"]
    assert all(name.isidentifier() for name in names)


def predictions(names):
    return pd.DataFrame({"=target": names, "probability of a": [0.5] * len(names)})


def test_text_that_a_spreadsheet_takes_for_a_formula_is_marked():
    names = ["=1+1", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "  =1", "=1".replace("=", "\uff1d")]
    marked, notes = spreadsheets.without_formulas(predictions(names))
    assert marked["'=target"].tolist() == [f"'{name}" for name in names]
    (note,) = notes
    assert note.startswith("names that a spreadsheet takes for formulas get an apostrophe: '=target', '=1+1', ")
    assert note.endswith(", ...; --verbatim leaves them as they are")


def test_other_text_and_numbers_stay():
    names = ["-1", "+1.5", "-1e-5", "+", "-", "a=b", "", "'", "größe"]
    table = predictions(names).rename(columns={"=target": "target"})
    marked, notes = spreadsheets.without_formulas(table)
    pd.testing.assert_frame_equal(marked, table)
    assert notes == []
    numbers = pd.DataFrame({"y": [-1.5, 2.0]})
    pd.testing.assert_frame_equal(spreadsheets.without_formulas(numbers)[0], numbers)
