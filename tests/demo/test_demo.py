"""The demo, in small, and the examples: they run, write what they promise, and compare fairly."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from kan_fast import __version__, cli
from kan_fast.demo import compare, diabetes, digits, moons
from kan_fast.nn.linear import KANLinear

EXAMPLES = Path(__file__).parents[2] / "examples"

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


@pytest.fixture
def short(monkeypatch):
    """The demo with little training."""
    for part, options in (
        (digits, dict(splits=1, epochs=2)),
        (diabetes, dict(splits=2, epochs=3)),
        (moons, dict(steps=3)),
    ):
        monkeypatch.setattr(part, "run", lambda out, run=part.run, options=options: run(out, **options))


def test_demo_command_writes_text_pictures_and_figures(short, tmp_path, capsys):
    out = tmp_path / "made" / "here"
    assert cli.main(["demo", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["diabetes.png", "digits.png", "figures.json", "moons.png"]
    assert all(is_picture(path) for path in out.glob("*.png"))

    figures = json.loads((out / "figures.json").read_text())
    for part in ("digits", "diabetes"):
        kan, mlp = figures[part]["KAN"], figures[part]["MLP"]
        assert abs(kan["parameters"] - mlp["parameters"]) <= 0.03 * kan["parameters"]
        assert kan["seconds_per_epoch"] > 0
        assert mlp["seconds_per_epoch"] > 0
    assert figures["digits"]["KAN"]["mean_test_accuracy"] > 0.5
    assert all(score < 1 for score in figures["diabetes"]["linear regression"]["test_r2"])
    for kind in ("regression", "classification"):
        assert figures["moons"][kind]["test_accuracy"] > 0.95

    text = capsys.readouterr().out
    for part in (digits, diabetes, moons):
        assert part.TITLE in text
    assert f"{figures['digits']['KAN']['mean_test_accuracy']:.1%}" in text
    assert str(out) in text


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib"])
def test_demo_without_an_extra(missing, hide, capsys, tmp_path):
    hide(missing)
    assert cli.main(["demo", "--out", str(tmp_path / "out")]) == 1
    assert f"demo needs {missing}" in (err := capsys.readouterr().err)
    assert "pip install 'kan_fast[demo]'" in err
    assert not (tmp_path / "out").exists()


def test_command_line_without_a_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([])
    assert stop.value.code == 2
    assert "demo" in capsys.readouterr().err


@pytest.mark.parametrize(("sizes", "grid"), [((64, 10), 3), ((10, 1), 2), ((3, 3), 50)], ids=str)
def test_the_mlp_has_as_many_parameters(sizes, grid):
    kan = KANLinear(*sizes, grid_size=grid)
    mlp = compare.equal_mlp(kan, *sizes)
    counts = [sum(p.numel() for p in model.parameters()) for model in (kan, mlp)]
    assert abs(counts[0] - counts[1]) <= (sum(sizes) + 1) / 2  # half of what one more hidden unit costs


def test_models_in_turns_see_the_same_batches_and_keep_their_best_epoch():
    x = torch.rand(40, 2)
    y = x.sum(1, keepdim=True)
    seen = {"a": [], "b": []}

    class Spy(nn.Linear):
        def __init__(self, name):
            super().__init__(2, 1)
            self.name = name

        def forward(self, x):
            if torch.is_grad_enabled():
                seen[self.name].append(x.clone())
            return super().forward(x)

    def score(output, label):
        return -(output - label).square().mean().item()

    runs = compare.train_in_turns(
        {name: Spy(name) for name in seen},
        (x, y),
        (x, y),
        nn.MSELoss(),
        score,
        epochs=12,
        batch=16,
        lr=2.0,
        keep_best=True,
    )
    assert len(seen["a"]) == len(seen["b"]) == 12 * 3
    assert all(torch.equal(a, b) for a, b in zip(*seen.values(), strict=True))
    for run in runs.values():
        assert len(run.seconds) == len(run.scores) == 12
        assert compare.evaluate(run.model, (x, y), score) == pytest.approx(max(run.scores))
        assert run.scores[-1] != run.scores[0]


def test_diabetes_data_are_disjoint_and_standardised_by_the_training_data():
    train, validation, test = diabetes._data(seed=3)
    assert [len(part[0]) for part in (train, validation, test)] == [265, 88, 89]
    torch.testing.assert_close(train[0].mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(train[1].std(0), torch.ones(1), atol=1e-5, rtol=0)
    rows = torch.cat([part[0] for part in (train, validation, test)])
    assert len(rows.unique(dim=0)) == 442


@pytest.mark.parametrize(
    ("example", "options", "expected"),
    [
        ("hello_world", dict(steps=2), "mean absolute activation"),
        ("drop_in", dict(epochs=1), "epoch 1: test accuracy"),
        ("two_moons", dict(steps=3), "test"),
    ],
)
def test_examples_run(example, options, expected, capsys):
    runpy.run_path(str(EXAMPLES / f"{example}.py"))["main"](**options)
    assert expected in capsys.readouterr().out


def test_pictures_of_the_documentation_are_drawn(tmp_path):
    runpy.run_path(str(EXAMPLES / "pictures.py"))["main"](tmp_path, steps=3, samples=100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.png", "hello_world.png"]
    assert all(is_picture(path) for path in tmp_path.iterdir())


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"hello_world", "drop_in", "two_moons", "pictures"}


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "kan_fast", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"kan_fast {__version__}\n"
