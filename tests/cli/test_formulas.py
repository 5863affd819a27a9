"""Formulas on the command line: found, reported, printed, used to predict, or missed in words."""

import base64
import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
import sympy
import torch

from tests.helpers.command_line import Page, houses, run


def test_a_formula_is_found_reported_printed_and_predicts(tmp_path, capsys):
    pandas = pytest.importorskip("pandas")
    x = np.random.default_rng(0).uniform(1, 3, (150, 2))
    y = 2 * x[:, 0] ** 2 + 7 * x[:, 1] + 5
    pandas.DataFrame({"side a": x[:, 0], "b": x[:, 1], "y": y}).to_csv(tmp_path / "t.csv", index=False)
    assert run("fit", tmp_path / "t.csv", "--target", "y", "--symbolic", "--steps", 20, "--quiet") == 0
    printed = capsys.readouterr().out
    assert "formula " in printed
    assert "y = 7*b + 2*side_a**2 + 5" in printed
    page = Page((tmp_path / "t_kan" / "report.html").read_text())
    assert "math" in page.tags
    assert "y = 7*b + 2*side_a**2 + 5" in page.words

    model = tmp_path / "t_kan" / "model.kan"
    texts = {}
    for language in ("text", "latex", "python", "c"):
        assert run("formula", model, "--format", language) == 0
        texts[language] = capsys.readouterr().out
    assert texts["text"].strip() in printed
    assert r"\text{y} =" in texts["latex"]
    assert "void formula(const double *x, double *y)" in texts["c"]
    scope = {}
    exec(texts["python"], scope)
    np.testing.assert_allclose(scope["formula"](x)[:, 0], y, rtol=1e-10)
    assert run("plot", model, "--table", tmp_path / "t.csv", "--out", tmp_path / "p.svg") == 0
    assert "<svg" in (tmp_path / "p.svg").read_text()


def test_a_formula_that_is_not_found_leaves_the_network(tmp_path, capsys):
    houses(38).to_csv(tmp_path / "t.csv", index=False)
    assert run("fit", tmp_path / "t.csv", "--target", "price", "--symbolic", "--steps", 2, "--quiet") == 0
    assert re.search("note: no formula: .*at least 40", capsys.readouterr().out)
    assert run("formula", tmp_path / "t_kan" / "model.kan") == 1
    assert "no formula: " in (tmp_path / "t_kan" / "report.html").read_text()


def test_an_interrupted_search_leaves_network_and_report(tmp_path, capsys, monkeypatch):
    from kan_fast import KAN

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(KAN, "discover", interrupt)
    houses(60).to_csv(tmp_path / "t.csv", index=False)
    assert run("fit", tmp_path / "t.csv", "--target", "price", "--symbolic", "--steps", 2, "--quiet") == 0
    assert "note: no formula: the search was interrupted" in capsys.readouterr().out
    assert "search was interrupted" in (tmp_path / "t_kan" / "report.html").read_text()


@pytest.mark.parametrize(("shift", "found"), [(0.0, True), (-9.0, False)])
def test_a_formula_without_values_on_rows_held_out(shift, found, tmp_path, capsys, monkeypatch):
    pandas = pytest.importorskip("pandas")
    from kan_fast import KAN

    def discover(*arguments, **options):
        network = KAN([1, 1], dtype=torch.float64, seed=0)
        network.fix_symbolic(0, 0, 0, "sqrt", affine=(1.0, shift, 1.0, 0.0))
        return network

    monkeypatch.setattr(KAN, "discover", discover)
    x = np.random.default_rng(0).normal(size=100)
    pandas.DataFrame({"x": x, "y": np.sqrt(abs(x))}).to_csv(tmp_path / "t.csv", index=False)
    assert run("fit", tmp_path / "t.csv", "--target", "y", "--symbolic", "--steps", 2, "--quiet") == 0
    printed = capsys.readouterr().out
    assert bool(re.search(r"note: the formula has no value on 1?\d of the rows held out", printed)) is found
    assert bool(re.search(r"^formula +mean absolute error [\d.]+,", printed, re.M)) is found
    assert ("no formula: the one that was found has no value on rows held out" in printed) is not found


def test_names_in_formulas_stay_whole():
    from kan_fast.cli.formulas import FORMATS, Formulas, mathml

    x = sympy.Symbol("side_a_2")
    found = Formulas([x**2, x], [x], ["50% & $_1", "b"], np.zeros((1, 1)))
    assert "<mi>side_a_2</mi>" in mathml(x**2)
    assert r"\text{50\% \& \$\_1} &=" in FORMATS["latex"](found)


def test_names_in_any_script(tmp_path, capsys):
    table = houses(40).rename(columns={"size m2": "Gr\u00f6\u00dfe", "price": "\u4fa1\u683c", "rooms": "$x$ % <a>"})
    table.to_csv(tmp_path / "t.v2.csv", index=False)
    assert run("fit", tmp_path / "t.v2.csv", "--target", "\u4fa1\u683c", "--steps", 2, "--quiet") == 0
    page = Page((tmp_path / "t.v2_kan" / "report.html").read_text(encoding="utf-8"))
    pictures = [base64.b64decode(address.partition(",")[2]) for address in page.addresses]
    texts = {element.text for picture in pictures for element in ElementTree.fromstring(picture).iter()}
    assert {"Gr\u00f6\u00dfe", "\u4fa1\u683c", "\u4fa1\u683c, rows held out"} <= texts
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("plot", tmp_path / "t.v2_kan" / "model.kan", "--out", tmp_path / "network.png") == 0
    assert "the font lacks letters of some names" in capsys.readouterr().err


def test_tiny_numbers_go_only_where_they_are_rounding():
    from kan_fast.cli.formulas import Formulas

    x, points = sympy.Symbol("x"), np.linspace(-1, 1, 20)[:, None]
    exact = 3.0 * (x - 2e-17) ** 2
    assert Formulas([exact], [x], ["y"], points).brief == [3 * x**2]
    assert Formulas([exact], [x], ["y"], 1e-17 * points).brief == [3 * (x - 2e-17) ** 2]


def test_formulas_of_classes(tmp_path, capsys):
    table = houses(150)
    table["price"] = np.where(table["size m2"] > 110, "high", "low")
    table[["size m2", "price"]].to_csv(tmp_path / "t.csv", index=False)
    command = ("fit", tmp_path / "t.csv", "--target", "price", "--symbolic", "--hidden", "none", "--quiet")
    assert run(*command, "--steps", 100) == 0
    printed = capsys.readouterr().out
    assert float(re.search(r"formula *accuracy ([\d.]+)", printed)[1]) > 0.9
    assert re.search(r"log-odds of low = .*size_m2", printed)


def test_a_model_without_a_formula_says_so(fitted, capsys):
    folder, _ = fitted
    assert run("formula", folder / "houses_kan" / "model.kan") == 1
    assert "has no formula; train it with fit --symbolic" in capsys.readouterr().err
