"""The blocks of README and of docs/own_loops.md run as written and do what they promise.

That of README's formula does so with every instruction set and in plain torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import kan_fast
from kan_fast.ops import native

README = Path(__file__).parent.parent / "README.md"
LOOPS = README.parent / "docs" / "own_loops.md"
BLOCK = r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```"
BLOCKS = dict(re.findall(BLOCK, README.read_text(), re.M | re.S))
FORMULA = "From data to a formula"


@pytest.fixture(params=[*native.isas(), "reference"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each instruction set, and networks in plain torch; one thread is the quickest for networks this small."""
    name = request.param
    torch.set_num_threads(1)
    if name == "reference":
        monkeypatch.setattr(kan_fast, "KAN", partial(kan_fast.KAN, backend=name))
    with nullcontext() if name == "reference" else native.use_isa(name):
        yield name


def run(title: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(BLOCKS[title], f"README.md, {title}", "exec"), names)
    return names


def test_every_block_has_its_test():
    assert sorted(BLOCKS) == sorted([FORMULA, "Drop-in", "A network", "Tables"])
    assert len(BLOCKS) == README.read_text().count("```python")


def test_drop_in(capsys):
    names = run("Drop-in")
    assert names["y"].shape == (32, 10, 256)
    assert "used" in capsys.readouterr().out


def test_a_network(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run("A network")
    assert float(capsys.readouterr().out) < 0.05 * names["y"].std()


def test_tables(capsys):
    run("Tables")
    assert capsys.readouterr().out.count(".") >= 13  # three predictions and ten importances


def test_loops_of_ones_own(capsys):
    """Its blocks, one after the other; those below go on with the names of those above."""
    names: dict[str, Any] = {}
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", LOOPS.read_text(), re.M | re.S)):
        exec(compile(block, f"own_loops.md, block {number}", "exec"), names)
    assert names["loss"] < 0.1 * names["y"].var()
    assert max(share.max() for share in kan_fast.coverage(names["model"], names["x"]).values()) < 0.05
    assert [layer.grid_size for layer in (names["model"][0], names["model"][2])] == [10, 10]
    assert "outside (mean)" in capsys.readouterr().out


@pytest.mark.slow
def test_the_formula_is_the_one_that_is_promised(kernels, capsys):
    """Its network and formula, and the comments beside the lines, whatever computes the kernels."""
    names = run(FORMULA)
    promised, error = re.search(r"# (exp.*), to (\S+)$", BLOCKS[FORMULA], re.M).groups()  # type: ignore[union-attr]
    assert capsys.readouterr().out.splitlines()[0] == promised
    model, dataset = names["model"], names["dataset"]
    assert f"# {model.width_in}" in BLOCKS[FORMULA]
    with torch.no_grad():
        rmse = (model(dataset["test_input"]) - dataset["test_label"]).square().mean().sqrt()
    assert rmse < float(error)
