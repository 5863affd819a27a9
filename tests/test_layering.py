"""The house of docs/architecture.md stands: imports go down its floors, rooms are small, csrc knows no torch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kan_fast"
TESTS = ROOT / "tests"
FREE = {"__init__", "__main__", "_version"}  # re-exports, the entry point and a constant: they stand on no floor
FILES = sorted(PACKAGE.rglob("*.py"))
SOURCES = sorted(file for file in (ROOT / "csrc").rglob("*") if file.suffix in {".h", ".cpp", ".cu", ".cuh"})


def floors() -> list[list[str]]:
    """The rooms on every floor, from the top down, as docs/architecture.md draws them."""
    section = (ROOT / "docs" / "architecture.md").read_text().split("## Floors")[1].split("\n## ")[0]
    picture = [re.split(r"\s{2,}", line.strip())[0] for line in section.splitlines() if line.startswith("    ")]
    return [re.findall(r"\w+", line) for line in picture]


def room(path: Path) -> str:
    """The folder or module directly under kan_fast that holds the file."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module(path: Path) -> str:
    """The dotted name of the file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): path for path in FILES}
ROOMS = {room(path) for path in FILES} - FREE


def imported(path: Path) -> set[str]:
    """Modules of this package that the file names in an import, for annotations and inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute: they can be searched for"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    found = set()
    for name in names:
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {"", "kan_fast", module(path), "kan_fast._version"}


def test_every_room_stands_on_one_floor():
    drawn = [name for floor in floors() for name in floor]
    assert sorted(drawn) == sorted(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_go_down(path):
    if room(path) in FREE:
        return
    height = {name: -number for number, floor in enumerate(floors()) for name in floor}
    used = {room(MODULES[name]) for name in imported(path)} - {room(path)}
    upward = {name for name in used if height[name] >= height[room(path)]}
    assert not upward, f"{module(path)} imports from its own floor or one above: {sorted(upward)}"


def test_no_circles():
    edges = {name: imported(path) & MODULES.keys() for name, path in MODULES.items() if name != "kan_fast"}
    while leaves := {name for name in edges if not edges[name] & edges.keys()}:
        for name in leaves:
            del edges[name]
    assert not edges, f"among these modules some import each other in a circle: {sorted(edges)}"


def test_private_names_of_torch_stand_in_one_file():
    private = re.compile(r"\btorch\._[a-z]|from torch\._|import _functorch|torch\.autograd import .*\b_")
    found = [module(path) for path in FILES if private.search(path.read_text())]
    assert found == ["kan_fast._support.torch_internals"]


@pytest.mark.parametrize("folder", [PACKAGE, ROOT / "csrc"], ids=lambda folder: folder.name)
def test_no_folder_is_a_heap(folder):
    for inside in [folder, *(path for path in folder.rglob("*") if path.is_dir() and path.name != "__pycache__")]:
        files = [path.name for path in inside.iterdir() if path.suffix in {".py", ".h", ".cpp", ".cu", ".cuh"}]
        assert len(files) <= 15, f"{inside.relative_to(ROOT)} has {len(files)} files: {files}"


def test_files_are_short():
    others = (path for folder in ("bench", "examples", "tests", "yardstick") for path in (ROOT / folder).rglob("*.py"))
    for path in (*FILES, *SOURCES, *others, ROOT / "setup.py"):
        assert path.read_text().count("\n") <= 400, path.relative_to(ROOT)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_functions_are_short(path):
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            length = node.body[-1].end_lineno - first.lineno + 1
            assert length <= 80, f"{node.name} has {length} lines of code; 80 are allowed"


@pytest.mark.parametrize(("name", "words"), [("reference", {"kan_fast.ops.contract"}), ("contract", set())])
def test_reference_needs_torch_and_the_words_of_the_contract_alone(name, words):
    path = PACKAGE / "ops" / f"{name}.py"
    assert imported(path) == words
    roots = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "torch" in roots
    assert roots - {"torch", "kan_fast"} <= sys.stdlib_module_names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_bindings_know_python_and_nothing_knows_torch(path):
    includes = set(re.findall(r"#\s*include\s*[<\"]([^>\"]+)", path.read_text()))
    assert not {name for name in includes if re.match(r"(torch|ATen|c10)/", name)}
    if path.name != "bindings.cpp":
        assert not {name for name in includes if name.startswith(("pybind11/", "Python.h"))}


def test_import_leaves_the_compiler_and_the_extras_alone() -> None:
    """torch._dynamo takes as long to import as torch itself."""
    heavy = ["torch._dynamo", "sympy", "sklearn", "matplotlib", "pandas"]
    check = f"import sys, kan_fast; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


def test_tests_mirror_the_package():
    """A folder of tests is one of the package, or one of those that stand for something else."""
    folders = {path.name for path in TESTS.iterdir() if path.is_dir() and path.name != "__pycache__"}
    package = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert package <= folders
    assert folders - package == {"fuzz", "golden", "helpers", "packaging"}
    for path in TESTS.glob("test_*.py"):  # modules of the top floor, or the repository as a whole
        name = path.stem.removeprefix("test_")
        whole = ("bench", "documented", "layering", "options", "public_names", "yardstick")
        assert name in whole or (PACKAGE / f"{name}.py").exists(), f"{path.name} belongs into a folder"


@pytest.mark.parametrize("path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: path.stem)
def test_no_test_file_imports_another(path):
    names = re.findall(r"^(?:from|import) (tests\.\S+)(?: import (.*))?", path.read_text(), re.MULTILINE)
    assert not [name for name in names if "test_" in " ".join(name)]
