"""The public names are those in `__all__`: docs/api.md lists them all, and no page names anything else.

`python tests/test_public_names.py` writes docs/api.md anew.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import kan_fast

pytest.importorskip("sklearn")

ROOT = Path(kan_fast.__file__).parents[1]
API = ROOT / "docs" / "api.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMING = [*PAGES, *sorted((ROOT / "examples").rglob("*.py"))]
PROPERTIES = (property, functools.cached_property, classmethod, staticmethod)
CONSTANTS = {  # plain values have no docstring
    "kan_fast.__version__": "The version of the package, a text.",
    "kan_fast.nn.functions.LIBRARY": "The functions by name, a dict of `Function`; `add_symbolic` adds to it.",
    "kan_fast.pykan.SYMBOLIC_LIB": "pykan's name of `kan_fast.nn.functions.LIBRARY`.",
    "kan_fast.pykan.utils.SYMBOLIC_LIB": "pykan's name of `kan_fast.nn.functions.LIBRARY`.",
}
FOREIGN = {"Python.h", "math.h"}
QUOTED = {"kan_fast._C"}  # docs/install.md quotes a message about this file
INTRODUCTION = """\
# Public names

For whoever looks up a name: all that users of the package import, each with the first line of its docstring;
`help(...)` tells the rest. Names that are not here may change without notice. `python tests/test_public_names.py`
writes this page.
"""


@functools.cache
def modules() -> dict[str, ModuleType]:
    """The public modules: those with `__all__`, of which no part of the name is private."""
    texts = {path: path.read_text() for path in (ROOT / "kan_fast").rglob("*.py")}
    paths = [path.relative_to(ROOT).with_suffix("").parts for path, text in texts.items() if "\n__all__ = [" in text]
    names = sorted(".".join(parts).removesuffix(".__init__") for parts in paths)
    return {name: importlib.import_module(name) for name in names if "._" not in name}


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of a class that no class outside of the package declares."""
    foreign = [base for base in cls.__mro__ if not base.__module__.startswith("kan_fast")]
    for name in sorted({name for base in cls.__mro__ if base not in foreign for name in vars(base)}):
        value = inspect.getattr_static(cls, name)
        defined = inspect.isfunction(value) or isinstance(value, PROPERTIES)
        if defined and not name.startswith("_") and not any(hasattr(base, name) for base in foreign):
            yield name, value.__func__ if isinstance(value, classmethod | staticmethod) else value


def first_line(full: str, value: Any) -> str:
    """The description of a name on docs/api.md."""
    text = CONSTANTS.get(full) or inspect.getdoc(value) or ""
    return text.split("\n")[0]


def identity(value: Any) -> int:
    """The same number for a function and its decorated forms."""
    return id(inspect.unwrap(value) if inspect.isfunction(value) else value)


def page() -> str:
    """docs/api.md as it should be; nothing is described twice."""
    lines, seen = [INTRODUCTION], dict[int, str]()
    for module_name, module in modules().items():
        lines += [f"## {module_name}", "", first_line(module_name, module), ""]
        for name in sorted(module.__all__, key=str.lower):
            full, value = f"{module_name}.{name}", getattr(module, name)
            if inspect.ismodule(value):
                lines.append(f"* `{name}`: [{value.__name__}](#{anchor(value.__name__)})")
                continue
            known = seen.setdefault(identity(value), full)
            if known != full and full not in CONSTANTS:
                lines.append(f"* `{name}`: the same as `{known}`")
                continue
            lines.append(f"* `{name}`: {first_line(full, value)}")
            for member, function in members(value) if inspect.isclass(value) else ():
                if seen.setdefault(identity(function), f"{full}.{member}") == f"{full}.{member}":
                    lines.append(f"    * `{member}`: {first_line('', function)}")
        lines.append("")
    return "\n".join(lines)


def anchor(heading: str) -> str:
    """What a link to a heading ends with, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_the_page_has_all_public_names_and_no_others():
    assert API.read_text() == page(), "run: python tests/test_public_names.py"


@pytest.mark.parametrize("name", modules())
def test_all_names_are_there_and_say_what_they_are(name):
    module = modules()[name]
    assert module.__all__ == sorted(set(module.__all__), key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    for public in module.__all__:
        value, full = getattr(module, public), f"{name}.{public}"
        assert first_line(full, value).endswith("."), f"the docstring of {full} does not begin with a sentence"
        for member, function in members(value) if inspect.isclass(value) else ():
            assert first_line("", function).endswith("."), (
                f"the docstring of {full}.{member} does not begin with a sentence"
            )


def is_public(name: str) -> bool:
    """Whether a dotted name is a public module, a name in its `__all__`, or a public attribute of such a name."""
    known = modules()
    module = name
    while module not in known:
        module = module.rpartition(".")[0]
    rest = name[len(module) + 1 :].split(".") if name != module else []
    if not rest:
        return True
    value = getattr(known[module], rest[0], None)
    if rest[0] not in known[module].__all__:
        return False
    for part in rest[1:]:
        value = None if part.startswith("_") else getattr(value, part, None)
    return value is not None


def named(text: str) -> set[str]:
    """The names of this package that a text mentions, from imports too; `torch.ops.kan_fast` holds operators."""
    found = set(re.findall(r"(?<![\w./])kan_fast(?:\.\w+)+", re.sub(r"torch\.ops\.kan_fast[.\w]*", "", text)))
    for module, names in re.findall(r"^\s*from (kan_fast[.\w]*) import ([\w, ]+)", text, re.M):
        found |= {f"{module}.{name.strip().split(' as ')[0]}" for name in names.split(",")}
    return found - QUOTED


@pytest.mark.parametrize("path", NAMING, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_and_examples_use_public_names_alone(path):
    assert not {name for name in named(path.read_text()) if not is_public(name)}


def test_docstrings_of_public_names_use_public_names_alone():
    wrong = set()
    for module_name, module in modules().items():
        values = [getattr(module, name) for name in module.__all__]
        inner = [member for value in values if inspect.isclass(value) for _, member in members(value)]
        for value in [module, *values, *inner]:
            text = inspect.getdoc(value) if not isinstance(value, str | dict) else None
            wrong |= {(module_name, name) for name in named(text or "") if not is_public(name)}
    assert not wrong


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_say_whom_they_are_for_and_their_links_lead_somewhere(path):
    text = path.read_text()
    title, first, *_ = [line for line in text.splitlines() if line]
    assert title.startswith("# ")
    assert first.startswith("For ") or path.name == "README.md"
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        file, _, heading = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), f"{path.name} links to {target}, which is not there"
        headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.M) if heading else []
        assert not heading or heading in map(anchor, headings), f"{path.name} links to {target}: no such heading"


@pytest.fixture(scope="module")
def files() -> set[str]:
    """The files of the repository, each by every path that ends with its name: `plan.h`, `basis/plan.h`, ..."""
    top = ["kan_fast", "csrc", "docs", "tests", "bench", "examples", "yardstick", ".ci"]
    paths = [path.relative_to(ROOT) for folder in top for path in [ROOT / folder, *(ROOT / folder).rglob("*")]]
    paths += [path.relative_to(ROOT) for path in ROOT.iterdir() if path.is_file()]
    return {"/".join(path.parts[start:]) for path in paths for start in range(len(path.parts))}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_pages_name_are_there(path, files):
    quoted = re.findall(r"`([\w./-]+)`", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S))
    sources = [name for name in quoted if re.search(r"\.(py|h|cuh?|cpp|md|toml)$|^(kan_fast|csrc|tests|bench)/", name)]
    assert not {name for name in sources if name.rstrip("/") not in files and name not in FOREIGN}


if __name__ == "__main__":
    API.write_text(page())
