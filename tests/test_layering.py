"""The layers of docs/architecture.md hold: imports go downward only, reference.py needs torch alone, csrc no torch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kan_fast"
FREE = {"__init__", "__main__", "_version"}  # re-exports, the entry point and a constant: they belong to no layer


def documented_layers() -> list[list[str]]:
    """Modules of each layer from the lowest up, as docs/architecture.md lists them; "..." stands for all the others."""
    section = (ROOT / "docs" / "architecture.md").read_text().split("## Layers")[1].split("\n## ")[0]
    lines = [re.split(r"\s{2,}", line.strip())[0] for line in section.splitlines() if line.startswith("    kan_fast/")]
    return [re.findall(r"\.\.\.|\w+(?=\.py|/(?:,|$))", line) for line in lines]


def layer_of(module: str, layers: list[list[str]]) -> int:
    named = (height for height, modules in enumerate(layers) if module in modules)
    return next(named, len(layers) - 1)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imported_names(path: Path) -> set[str]:
    """Absolute dotted names that the file imports when it runs, also those inside functions."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*base, *filter(None, [node.module])])
            names.update(f"{origin}.{alias.name}" for alias in node.names)
        pending.extend(node.orelse if is_type_checking(node) else ast.iter_child_nodes(node))
    return names


def module_of(path: Path) -> str:
    """The module or subpackage directly under kan_fast that holds the file."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_of(path) for path in FILES} - FREE


def uses(path: Path) -> set[str]:
    """The modules of this package, other than its own, that the file imports; a re-export counts as its name."""
    inside = {name.split(".")[1] for name in imported_names(path) if name.startswith("kan_fast.")}
    return inside - {module_of(path), "_version", "_C"}


def test_the_document_lists_modules_that_exist():
    layers = documented_layers()
    assert layers[0] == ["reference"]
    assert layers[-1][-1] == "..."
    assert {name for layer in layers for name in layer} <= MODULES | {"..."}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward_only(path):
    module = module_of(path)
    if module in FREE:
        return
    layers = documented_layers()
    assert uses(path) <= MODULES, "import from modules that exist, not from kan_fast itself"
    upward = {name for name in uses(path) if layer_of(name, layers) > layer_of(module, layers)}
    assert not upward, f"{module} imports from a layer above it: {sorted(upward)}"


def test_no_import_cycles():
    edges: dict[str, set[str]] = {module: set() for module in MODULES}
    for path in FILES:
        if module_of(path) in MODULES:
            edges[module_of(path)] |= uses(path)
    while leaves := {module for module in edges if not edges[module] & edges.keys()}:
        for module in leaves:
            del edges[module]
    assert not edges, f"among these modules some import each other in a circle: {sorted(edges)}"


def test_reference_needs_torch_alone():
    roots = {name.split(".")[0] for name in imported_names(PACKAGE / "reference.py")}
    assert "torch" in roots
    assert roots - {"torch"} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "path",
    sorted(file for file in (ROOT / "csrc").rglob("*") if file.suffix in {".h", ".cpp", ".cu", ".cuh"}),
    ids=lambda path: str(path.relative_to(ROOT)),
)
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
