"""The command line on tables: models, reports, predictions and refusals; and the doctor."""

import io
import pickle
import re

import numpy as np
import pytest
import torch

from kan_fast import cli
from kan_fast.ops import native
from tests.helpers.command_line import Page, houses, run

pytest.importorskip("sklearn")

pytest.importorskip("matplotlib")


def test_a_regression_from_table_to_report(fitted):
    folder, printed = fitted
    out = folder / "houses_kan"
    assert sorted(path.name for path in out.iterdir()) == ["model.kan", "report.html"]
    assert "regression: 239 rows to train on, 60 to test" in printed.out
    assert "note: rows without 'price' are left out: 1" in printed.out
    assert re.search(r"note: column 'size m2': 8 missing values count as [\d.]+, the median", printed.out)
    assert "note: column 'town': 6 missing values count as none of its values" in printed.out
    r2 = float(re.search(r"network .*R2 ([\d.]+)", printed.out)[1])
    assert r2 > 0.8
    assert printed.err == ""

    page = Page((out / "report.html").read_text())
    assert page.addresses
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    assert not page.tags & {"script", "link", "b", "iframe"}
    text = " ".join(page.words)
    for words in ("price", "size_m2", "town_b_Cedar_b", "239 rows to train on", f"{r2:.4g}", "spline", "median"):
        assert words in text


def test_predictions_of_the_file_are_those_of_the_model(fitted, capsys):
    folder, _ = fitted
    new = houses(50, seed=1)
    new.loc[0, "town"] = "Dogwood"
    new.to_csv(folder / "new.csv", index=False)
    model = folder / "houses_kan"
    assert run("predict", model, folder / "new.csv") == 0
    printed = capsys.readouterr()
    assert "column 'town': values that are new count as none of its values: Dogwood" in printed.err
    pandas = pytest.importorskip("pandas")
    predicted = pandas.read_csv(io.StringIO(printed.out))
    assert list(predicted.columns) == ["price"]
    assert np.corrcoef(predicted.price[1:], new.price[1:])[0, 1] > 0.97

    new[["new", "town", "price", "rooms", "size m2"]].to_csv(folder / "other_order.csv", index=False)
    out = folder / "predicted.csv"
    assert run("predict", model, folder / "other_order.csv", "--out", out) == 0
    np.testing.assert_array_equal(pandas.read_csv(out).price, predicted.price)
    new.drop(columns="rooms").to_csv(folder / "less.csv", index=False)
    new.assign(rooms="many").to_csv(folder / "words.csv", index=False)
    capsys.readouterr()
    for name, message in (("less", "there is no column 'rooms'"), ("words", "column 'rooms' must hold numbers")):
        assert run("predict", model, folder / f"{name}.csv") == 1
        assert message in capsys.readouterr().err


def test_a_file_keeps_a_model_to_the_bit(tmp_path):
    pytest.importorskip("pandas")
    from kan_fast.cli.columns import Column
    from kan_fast.cli.table_model import TableModel
    from kan_fast.sklearn import KANClassifier, KANRegressor

    x = np.random.default_rng(0).normal(size=(60, 2))
    columns = [Column("a", 0.5, []), Column("b", None, ["x", "y"])]
    targets = (x[:, 0], np.where(x[:, 0] > 0, "b", "a"), np.array(["p", "q", "r"])[(x[:, 0] > 0) * 1 + (x[:, 1] > 0)])
    for kind, y in zip((KANRegressor, KANClassifier, KANClassifier), targets, strict=True):
        model = TableModel(columns, "t", kind((2,), steps=30, random_state=0).fit(x, y))
        _ = model.estimator.symbolic_
        model.save(tmp_path / "m.kan")
        loaded = TableModel.load(tmp_path / "m.kan")
        assert loaded.columns == columns
        assert loaded.classes == model.classes
        assert loaded.formulas()[:3] == model.formulas()[:3]
        for one, other in ((model, loaded), (model.by_formula(), loaded.by_formula())):
            np.testing.assert_array_equal(one.estimator.predict(x), other.estimator.predict(x))


def test_a_classification_with_probabilities(tmp_path, capsys):
    table = houses(200)
    table["price"] = np.where(table["size m2"] > 110, "high", "low")
    table.to_csv(tmp_path / "classes.tsv", index=False, sep="\t")
    command = ("fit", tmp_path / "classes.tsv", "--target", "price", "--steps", 100, "--drop", "town", "--quiet")
    assert run(*command, "--out", tmp_path / "there") == 0
    printed = capsys.readouterr().out
    assert "classification: 160 rows to train on, 40 to test" in printed
    assert float(re.search(r"network *accuracy ([\d.]+)", printed)[1]) > 0.9
    assert run("predict", tmp_path / "there" / "model.kan", tmp_path / "classes.tsv") == 0
    pandas = pytest.importorskip("pandas")
    predicted = pandas.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(predicted.columns) == ["price", "probability of high", "probability of low"]
    assert ((predicted["probability of high"] > 0.5) == (predicted.price == "high")).all()
    assert (predicted.price == table.price).mean() > 0.9
    assert "town" not in (tmp_path / "there" / "report.html").read_text()


def test_every_class_is_trained_on_and_those_that_are_not_tested_are_named(tmp_path, capsys):
    table = houses(60)
    table["price"] = ["rare", *["often"] * 59]
    table.to_csv(tmp_path / "houses.csv", index=False)
    for seed in range(6):  # in some of them the one row would be tested, and training have one class
        assert run("fit", tmp_path / "houses.csv", "--target", "price", "--steps", 2, "--seed", seed, "--quiet") == 0
        assert "note: classes without a row to test, of which scores say nothing: rare" in capsys.readouterr().out
    table[:10].assign(price=["often"] * 6 + ["a", "b", "c", "d"]).to_csv(tmp_path / "few.csv", index=False)
    command = ("fit", tmp_path / "few.csv", "--target", "price", "--steps", 1, "--quiet", "--seed")
    assert 1 in {run(*command, seed) for seed in range(20)}  # both rows that would be tested are the only ones
    assert "fewer than two to test beside a row of every class to train on; classes without" in capsys.readouterr().err


def test_classes_that_look_like_formulas(tmp_path, capsys):
    pandas = pytest.importorskip("pandas")
    table = houses(60)
    table["price"] = np.where(table["size m2"] > 110, "=1+1", "-1")
    table.to_csv(tmp_path / "t.csv", index=False)
    assert run("fit", tmp_path / "t.csv", "--target", "price", "--steps", 40, "--drop", "town", "--quiet") == 0
    capsys.readouterr()
    found = {}
    for option in ("--quietly", "--verbatim"):
        arguments = [option] if option == "--verbatim" else []
        assert run("predict", tmp_path / "t_kan", tmp_path / "t.csv", "--out", tmp_path / "p.csv", *arguments) == 0
        found[option] = set(pandas.read_csv(tmp_path / "p.csv", dtype=str).price)
        assert ("--verbatim leaves them as they are" in capsys.readouterr().err) == (not arguments)
    assert found == {"--quietly": {"'=1+1", "-1"}, "--verbatim": {"=1+1", "-1"}}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_names_that_the_console_lacks(encoding, tmp_path, monkeypatch):
    """Such names are printed as escapes; data for files and pipes are UTF-8."""
    table = houses(60).rename(columns={"size m2": "größe", "price": "名"})
    table["town"] = np.where(table["größe"] > 110, "東", "西")
    table.to_csv(tmp_path / "t.csv", index=False)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    fit = ("fit", tmp_path / "t.csv", "--steps", 5, "--quiet", "--out", tmp_path / "o")
    assert run(*fit, "--target", "名", "--drop", "名") == 1
    assert "'\\u540d' is the target" in shown(err, encoding)
    assert run(*fit, "--target", "town") == 0
    assert "\\u897f" not in shown(out, encoding)
    assert run("predict", tmp_path / "o", tmp_path / "t.csv") == 0
    assert shown(out, "utf-8").splitlines()[0] == "town,probability of 東,probability of 西"
    assert out.errors == err.errors == "strict"


def shown(stream, encoding):
    """What was written since the last call."""
    stream.flush()
    text = stream.buffer.getvalue().decode(encoding)
    stream.buffer.seek(0)
    stream.buffer.truncate()
    return text


def test_names_in_tables_are_text_in_reports(tmp_path):
    table = houses(100).rename(columns={"price": "<i>price</i>", "town": "<script>town</script>"})
    table.to_csv(tmp_path / "t.csv", index=False)
    for target in ("<i>price</i>", "<script>town</script>"):
        assert run("fit", tmp_path / "t.csv", "--target", target, "--steps", 2, "--quiet") == 0
        page = Page((tmp_path / "t_kan" / "report.html").read_text())
        assert not page.tags & {"i", "script", "b"}
        assert target in " ".join(page.words)
    assert "<b>Cedar</b>" in page.words


@pytest.mark.parametrize("at", [0, 5])
def test_an_interrupted_fit_says_so_and_leaves_what_was_there_if_nothing_was_learnt(at, tmp_path, capsys, monkeypatch):
    from kan_fast.training.objective import Objective

    step, calls = Objective.step, []

    def interrupt(self, pair):
        if len(calls) == at:
            raise KeyboardInterrupt
        calls.append(pair)
        return step(self, pair)

    houses(60).to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "t_kan").mkdir()
    (tmp_path / "t_kan" / "model.kan").write_text("before")
    monkeypatch.setattr(Objective, "step", interrupt)
    status, printed = run("fit", tmp_path / "t.csv", "--target", "price", "--quiet"), capsys.readouterr()
    if at:
        assert status == 0 and "note: training was interrupted: the network has" in printed.out
        assert "training was interrupted" in (tmp_path / "t_kan" / "report.html").read_text()
    else:
        assert status == 1 and "nothing was learnt, and nothing is written; training was interrupted" in printed.err
        assert (tmp_path / "t_kan" / "model.kan").read_text() == "before"


def test_plots_need_no_table(fitted, monkeypatch):
    folder, _ = fitted
    monkeypatch.chdir(folder)
    assert run("plot", folder / "houses_kan" / "model.kan") == 0
    assert (folder / "network.png").read_bytes().startswith(b"\x89PNG")


def test_whole_numbers_are_classes_only_if_there_are_few(tmp_path, capsys):
    houses(60).to_csv(tmp_path / "t.csv", index=False)
    for target, options, kind in (
        ("rooms", (), "classification"),
        ("new", (), "classification"),
        ("rooms", ("--task", "regression"), "regression"),
        ("price", ("--task", "auto"), "regression"),
    ):
        assert run("fit", tmp_path / "t.csv", "--target", target, "--steps", 2, "--quiet", *options) == 0
        assert capsys.readouterr().out.startswith(kind)


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    houses(50).to_parquet(tmp_path / "t.parquet")
    assert run("fit", tmp_path / "t.parquet", "--target", "price", "--steps", 2, "--quiet") == 0


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: None, ("--target", "prize"), "there is no column 'prize'; did you mean 'price'? The columns are"),
        (lambda t: None, ("--target", "price", "--drop", "color"), "there is no column 'color'. The columns are"),
        (lambda t: None, ("--target", "price", "--drop", "price"), "is the target and can't be dropped"),
        (lambda t: t[["price", "new"]], ("--target", "price", "--drop", "new"), "no column is left to learn from"),
        (lambda t: None, ("--target", "town", "--task", "regression"), "a regression needs numbers"),
        (lambda t: None, ("--target", "price", "--test", "1.5"), "--test must be a share of the rows"),
        (lambda t: None, ("--target", "price", "--test", "0.01"), "leaves fewer than two to test"),
        (lambda t: None, ("--target", "price", "--hidden", "a"), "--hidden must be numbers from 1 to 1000 such as"),
        (lambda t: None, ("--target", "price", "--hidden", "3,0"), "or none; got '3,0'"),
        (lambda t: None, ("--target", "price", "--hidden", "100000,100000"), "numbers from 1 to 1000"),
        (lambda t: None, ("--target", "price", "--grid", "0"), "--grid must be 1 to 200, got 0"),
        (lambda t: None, ("--target", "price", "--grid", "100000"), "--grid must be 1 to 200"),
        (
            lambda t: t.insert(0, "id", [f"n{n}" for n in range(len(t))]),
            ("--target", "price"),
            "has 32 different texts, such as",
        ),
        (lambda t: t.insert(0, "age", ["?", *map(str, range(39))]), ("--target", "price"), "holds '?' among numbers"),
        (lambda t: t.insert(0, "gap", np.nan), ("--target", "price"), "column 'gap' is empty"),
        (lambda t: t.insert(0, "far", np.inf), ("--target", "price"), "column 'far' holds infinite values"),
        (lambda t: t.__setitem__("price", 3.0), ("--target", "price"), "has one value, 3.0"),
        (lambda t: t[:5], ("--target", "price"), "5 rows are too few"),
        (lambda t: t[:0], ("--target", "price"), "has no rows"),
        (lambda t: t.rename(columns={"new": "rooms"}), ("--target", "price"), "more than one column 'rooms'"),
        (
            lambda t: t[["price"]].assign(one=1, other="x"),
            ("--target", "price"),
            "no column is left to learn from; of one",
        ),
        (
            lambda t: t[["price"]].assign(one=np.resize([0.3, 0.1 + 0.2], len(t))),  # but for rounding
            ("--target", "price"),
            "no column is left to learn from; of one",
        ),
        (lambda t: t.insert(0, "far", 1e200), ("--target", "price"), "column 'far' reaches 1.0e+200; change its unit"),
        (lambda t: t.insert(0, "who", [f"n{n}" for n in range(40)]), ("--target", "who"), "too many to be classes"),
        (lambda t: None, ("--target", "price", "--seed", "-1"), "--seed must be 0 to 4294967295"),
        (lambda t: None, ("--target", "price", "--out", __file__), "is no folder; give another by --out"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_tables_that_are_refused(change, options, message, tmp_path, capsys):
    table = houses(40)
    changed = change(table)
    (table if changed is None else changed).to_csv(tmp_path / "t.csv", index=False)
    assert run("fit", tmp_path / "t.csv", "--steps", 2, "--quiet", *options) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"], "nothing is left behind"


def test_other_files_are_refused(tmp_path, capsys):
    houses(20).to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "t.xlsx").write_bytes(b"")

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "attacked"), "w"))

    (tmp_path / "pickle.kan").write_bytes(pickle.dumps(Attack()))
    torch.save({"format": "another"}, tmp_path / "other.kan")
    torch.save(Attack(), tmp_path / "attack.kan")
    for command, message in (
        (("fit", tmp_path / "t.xlsx", "--target", "a"), "must be a .csv, .tsv, .txt or .parquet file"),
        (("fit", tmp_path / "none.csv", "--target", "a"), "there is no file"),
        (("formula", tmp_path / "none.kan"), "none.kan"),
        (("formula", tmp_path / "pickle.kan"), "is not a model of fit that this version of kan_fast reads"),
        (
            ("predict", tmp_path / "attack.kan", tmp_path / "t.csv"),
            "is not a model of fit that this version of kan_fast reads",
        ),
        (("plot", tmp_path / "other.kan"), "must be one of kan_fast table model 1, kan_fast table model 2"),
    ):
        assert run(*command) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("missing", ["pandas", "sklearn", "matplotlib"])
def test_tables_without_an_extra(missing, hide, monkeypatch, capsys):
    hide(missing)
    monkeypatch.setattr(cli, "TABLES", (missing,))
    assert cli.main(["fit", "t.csv", "--target", "y"]) == 1
    assert f"fit needs {missing}; install it with: pip install 'kan_fast[table]'" in capsys.readouterr().err


def test_the_doctor_finds_what_is_wrong(monkeypatch, capsys):
    assert run("doctor") == 0
    printed = capsys.readouterr().out
    assert f"torch {torch.__version__}" in printed
    assert "reference: available" in printed
    if native.unavailable_reason() is not None:
        return
    assert printed.count(": right") >= 4
    forward = native.forward
    monkeypatch.setattr(native, "forward", lambda *arguments: forward(*arguments) * 1.001)
    assert run("doctor") == 1
    printed = capsys.readouterr().out
    assert "float32 on cpu: WRONG" in printed
    assert "please report" in printed
