"""The pages do what they say: their blocks run and print what stands beneath them; README's recipe with all kernels.

The blocks of a page run in order, in a folder of their own, and see the names of those before them. A block without a
language beneath a block of code is what that prints. `<!-- not run: the reason -->` before a block leaves it out.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import kan_fast
from kan_fast import cli
from kan_fast.ops import native
from tests.helpers.command_line import houses

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(?:<!-- not run: ([^>\n]+) -->\n+)?```(\w+)\n(.*?)^```$(?:\n+^```\n(.*?)^```$)?", re.M | re.S)
NOT_RUN = {"convert_and_export.md": 2, "distributed.md": 4}  # they need other packages, or several processes
OPTIONAL = {"matplotlib", "onnx", "onnxscript", "pandas", "safetensors", "sklearn"}


class Block(NamedTuple):
    """A block of code of a page."""

    reason: str  # why it is not run, if it is not
    language: str
    code: str
    promised: str  # what the page says that it prints, if it does
    line: int  # where its code starts


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = BLOCK.finditer(text)
    return [Block(*(part or "" for part in m.groups()), text.count("\n", 0, m.start(3)) + 1) for m in found]


RUN = [(page, todo) for page in PAGES if (todo := [block for block in blocks(page) if not block.reason])]


def run(block: Block, page: Path, names: dict[str, Any]) -> None:
    if block.language == "python":
        exec(compile("\n" * (block.line - 1) + block.code, page, "exec"), names)
        return
    for command in block.code.splitlines():
        python, *arguments = shlex.split(command, comments=True)
        assert [python, *arguments[:2]] == ["python", "-m", "kan_fast"]
        assert cli.main(arguments[2:]) == 0


def agree(printed: str, promised: str) -> bool:
    """Whether words and formulas are the same, and numbers that stand alone to 1 % or 1e-6.

    Fits end where rounding leads them, so their errors differ a little from processor to processor.
    """

    def same(word: str, other: str) -> bool:
        try:
            return float(word) == pytest.approx(float(other), rel=0.01, abs=1e-6, nan_ok=True)
        except ValueError:
            return word == other

    here, there = printed.split(), promised.split()
    return len(here) == len(there) and all(map(same, here, there))


@pytest.mark.slow
@pytest.mark.parametrize(("page", "todo"), RUN, ids=[page.name for page, _ in RUN])
def test_the_blocks_of_a_page_run_and_print_what_it_says(page, todo, tmp_path, monkeypatch, capsys, library):
    monkeypatch.chdir(tmp_path)
    torch.use_deterministic_algorithms(False)  # the tests' setting, which readers don't have
    torch.set_num_threads(1)  # the quickest for networks this small
    if any(block.language == "sh" for block in todo):
        houses().to_csv("houses.csv", index=False)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in todo:
        try:
            run(block, page, names)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            pytest.skip(f"line {block.line} needs {error.name}")
        printed = capsys.readouterr().out
        assert not block.promised or agree(printed, block.promised), f"{page}, line {block.line}, printed\n{printed}"


def test_every_block_runs_but_those_that_the_pages_leave_out_for_a_reason():
    left_out = Counter(page.name for page in PAGES for block in blocks(page) if block.reason)
    assert left_out == NOT_RUN
    for page in PAGES:
        text = page.read_text()
        assert text.count("<!-- not run") == left_out[page.name], f"{page.name}: a mark that belongs to no block"
        assert {block.language for block in blocks(page)} <= {"python", "sh"}
        assert len(re.findall(r"^```", text, re.M)) == 2 * sum(1 + bool(b.promised) for b in blocks(page)), page.name
        assert not re.search(r"^    python -m kan_fast", text, re.M), f"{page.name}: put commands into a block of sh"


@pytest.mark.parametrize(
    ("printed", "promised", "expected"),
    [
        ("  a  1.001\nsin(3.142*x_1)", "a 1.002\nsin(3.142*x_1)\n", True),
        ("sin(3.142*x_1)", "sin(3.1416*x_1)", False),
        ("1.05", "1.0", False),
        ("2e-13", "4e-14", True),
        ("a b", "a", False),
        ("nan", "nan", True),
    ],
)
def test_what_counts_as_the_same_output(printed, promised, expected):
    assert agree(printed, promised) == expected


@pytest.fixture(params=[*native.isas(), "reference"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each instruction set, and networks in plain torch; one thread is the quickest for networks this small."""
    name = request.param
    torch.set_num_threads(1)
    if name == "reference":
        monkeypatch.setattr(kan_fast, "KAN", partial(kan_fast.KAN, backend=name))
    with nullcontext() if name == "reference" else native.use_isa(name):
        yield name


@pytest.mark.slow
def test_the_recipe_leads_to_the_promised_network_and_formula(kernels, capsys, tmp_path, monkeypatch):
    """Whatever computes the kernels, and to the error that its comment gives."""
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in blocks(README) if "auto_symbolic" in block.code)
    names: dict[str, Any] = {}
    run(block, README, names)
    assert agree(capsys.readouterr().out, block.promised)
    model, dataset = names["model"], names["dataset"]
    assert f"# {model.width_in}" in block.code
    with torch.no_grad():
        rmse = (model(dataset["test_input"]) - dataset["test_label"]).square().mean().sqrt()
    assert rmse < float(re.search(r"# to (\S+)$", block.code, re.M)[1])  # type: ignore[index]
