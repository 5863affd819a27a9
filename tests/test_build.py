"""The package builds without torch, installs without a compiler, rebuilds only what changed, and runs unbuilt."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILT = shutil.ignore_patterns("__pycache__", "*.so", "*.dylib")
BUILD_SDIST = "from setuptools import build_meta; print(build_meta.build_sdist({!r}))"
BUILD_WHEEL = "from setuptools import build_meta; print(build_meta.build_wheel({!r}))"


def run(*arguments: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs this Python; compilations are kept short: -O0, and no GPU kernels (test_cuda_build.py)."""
    env = {**os.environ, "CXXFLAGS": "-O0", "KAN_FAST_CUDA": "0", **env}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def output(*arguments: str | Path, cwd: Path, **env: str) -> str:
    """What a command that must succeed prints."""
    result = run(*arguments, cwd=cwd, **env)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def source_tree(tmp_path_factory) -> Path:
    """A private copy of the sources, with nothing built; its path holds a space."""
    tree = tmp_path_factory.mktemp("source tree")
    for folder in ("csrc", "kan_fast", "tests"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=BUILT)
    for file in filter(Path.is_file, ROOT.iterdir()):
        shutil.copy(file, tree)
    return tree


@pytest.fixture(scope="module")
def wheel(source_tree, tmp_path_factory) -> Path:
    """The wheel that pip builds from the source distribution, isolated from this environment and so without torch."""
    folder = tmp_path_factory.mktemp("wheel")
    sdist = folder / output("-c", BUILD_SDIST.format(str(folder)), cwd=source_tree).split()[-1]
    output("-m", "pip", "wheel", "--no-deps", "--no-cache-dir", sdist, "-w", folder, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_sdist_holds_sources_and_nothing_built(source_tree, tmp_path):
    name = output("-c", BUILD_SDIST.format(str(tmp_path)), cwd=source_tree).split()[-1]
    with tarfile.open(tmp_path / name) as archive:
        names = {path.partition("/")[2] for path in archive.getnames()}
    sources = {path.relative_to(source_tree).as_posix() for path in (source_tree / "csrc").rglob("*") if path.is_file()}
    assert sources | {"setup.py", "pyproject.toml", "LICENSE", "tests/test_build.py", "requirements-dev.txt"} <= names
    assert not [path for path in names if path.endswith((".so", ".o", ".pyc"))]


@pytest.mark.slow
def test_wheel_holds_the_package_alone(wheel, unpacked):
    tops = {Path(name).parts[0] for name in zipfile.ZipFile(wheel).namelist()}
    version = wheel.name.split("-")[1]
    assert tops == {"kan_fast", f"kan_fast-{version}.dist-info"}
    assert (unpacked / "kan_fast" / "_version.py").read_text().endswith(f'"{version}"\n')
    assert (unpacked / "kan_fast" / "py.typed").exists()
    metadata = (unpacked / f"kan_fast-{version}.dist-info" / "METADATA").read_text()
    assert "Requires-Dist: torch>=2.6\n" in metadata
    assert "License-Expression: MIT\n" in metadata


@pytest.mark.slow
def test_extension_loads_where_there_is_no_torch(unpacked):
    extension = next((unpacked / "kan_fast").glob("_C.*"))
    code = """
import importlib.util, sys
sys.modules["torch"] = None  # an import of torch now fails
spec = importlib.util.spec_from_file_location("kan_fast._C", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""
    output("-I", "-c", code, extension, cwd=unpacked)


@pytest.mark.slow
def test_wheel_serves_the_native_backend(unpacked):
    code = "import kan_fast; print(kan_fast.__file__, kan_fast.backends()['cpu'].available)"
    file, available = output("-c", code, cwd=unpacked, PYTHONPATH=str(unpacked)).rsplit(maxsplit=1)
    assert Path(file).parent == unpacked / "kan_fast"
    assert available == "True"


def test_package_runs_without_its_extension(tmp_path):
    shutil.copytree(ROOT / "kan_fast", tmp_path / "kan_fast", ignore=BUILT)
    code = """
import sys
sys.meta_path = [f for f in sys.meta_path if "__editable__" not in f.__module__]  # it would find the extension
import torch, kan_fast
layer = kan_fast.KANLinear(3, 2)
layer(torch.randn(5, 3)).sum().backward()
assert layer.spline_weight.grad.abs().sum() > 0
status = kan_fast.backends()["cpu"]
print(kan_fast.__file__, status.available, status.detail, sep="|")
"""
    file, available, reason = output("-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path)).split("|")
    assert Path(file).parent == tmp_path / "kan_fast"
    assert available == "False"
    assert "_C" in reason or "extension" in reason


def test_without_a_compiler_the_package_is_pure_python(source_tree, tmp_path):
    result = run("-c", BUILD_WHEEL.format(str(tmp_path)), cwd=source_tree, PATH="", CXX="")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1].endswith("-py3-none-any.whl")
    assert "without its compiled extension (no C++ compiler found)" in result.stderr


def test_a_compiler_that_fails_is_an_error(source_tree, tmp_path):
    result = run("-c", BUILD_WHEEL.format(str(tmp_path)), cwd=source_tree, CXX="false")
    assert result.returncode != 0
    assert "the C++ build failed" in result.stderr
    assert not list(tmp_path.glob("*.whl"))


@pytest.mark.slow
def test_a_rebuild_compiles_what_changed_alone(source_tree):
    build = ("setup.py", "build_ext", "--inplace")
    assert "compile csrc/bindings.cpp" in output(*build, cwd=source_tree)
    assert "no work to do" in output(*build, cwd=source_tree)

    script = next((source_tree / "build").glob("ninja-*/build.ninja"))
    dry_run = ("-m", "ninja", "-n", "-f", script)
    source = next((source_tree / "csrc" / "cpu").glob("*.cpp"))
    source.touch()
    planned = output(*dry_run, cwd=source_tree)
    assert planned.count("compile ") == 1
    assert source.name in planned
    (source_tree / "csrc" / "kernels.h").touch()
    assert "compile csrc/bindings.cpp" in output(*dry_run, cwd=source_tree)
