"""The GPU kernels build for all architectures without spills, load without a driver, and can be left out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kan_fast.ops import built, cuda

ROOT = Path(__file__).parents[2]
STRICT = "-Xptxas -v,--warn-on-spills,-Werror --Werror all-warnings -Xcompiler=-Wall,-Wextra"
ASK = "from kan_fast.ops import cuda; print(cuda.unavailable_reason())"

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc on PATH")


def copy_sources(tree: Path) -> Path:
    for folder in ("csrc", "kan_fast"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.dylib"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    return tree


def build(tree: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    env = {**os.environ, "CXXFLAGS": "-O0", "KAN_FAST_NATIVE": "1", **env}
    return subprocess.run(command, cwd=tree, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def plan(tree: Path, **env: str) -> str:
    """What ninja is told, without compiling: `false` stands for the C++ compiler."""
    build(tree, CXX="false", **env)
    return next((tree / "build").glob("ninja-*/build.ninja")).read_text()


@pytest.mark.slow
@pytest.mark.exhaustive
@needs_nvcc
def test_all_architectures_build_without_spills_or_warnings(tmp_path: Path) -> None:
    tree = copy_sources(tmp_path)
    result = build(tree, NVCC_APPEND_FLAGS=STRICT)
    log = result.stdout + result.stderr
    assert result.returncode == 0, log[-4000:]
    for architecture in ("75", "80", "86", "89", "90", "100", "120"):
        assert f"for 'sm_{architecture}'" in log
    spills = [line for line in log.splitlines() if "spill stores" in line]
    assert spills
    assert all("0 bytes spill stores, 0 bytes spill loads" in line for line in spills)

    library = next((tree / "kan_fast").glob("_cuda_kernels*.so"))
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    assert "cudart" not in needed, "the CUDA runtime must be linked statically"
    reason = subprocess.run([sys.executable, "-c", ASK], cwd=tree, capture_output=True, text=True, check=True).stdout
    assert reason == "None\n" or reason.startswith(("no CUDA device", "torch")), reason


@needs_nvcc
def test_kernels_can_be_left_out_or_chosen(tmp_path: Path) -> None:
    tree = copy_sources(tmp_path)
    assert "float64.cu" not in plan(tree, KAN_FAST_CUDA="0")
    one = plan(tree, KAN_FAST_CUDA="90")
    assert "code=[sm_90,compute_90]" in one
    assert "sm_80" not in one
    whole = plan(tree)
    assert "arch=compute_75,code=[sm_75]" in whole
    assert "arch=compute_80,code=[sm_80,sm_86,sm_89,sm_90,sm_100,sm_120,compute_80]" in whole


@needs_nvcc
def test_unknown_architectures_are_named(tmp_path: Path) -> None:
    result = build(copy_sources(tmp_path), KAN_FAST_CUDA="12")
    assert result.returncode != 0
    assert "knows none of the architectures 12" in result.stderr


def test_without_nvcc_the_rest_is_built(tmp_path: Path) -> None:
    tree = copy_sources(tmp_path)
    empty = tmp_path / "no toolkit"
    empty.mkdir()
    assert "float64.cu" not in plan(tree, CUDA_HOME=str(empty))


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """What `_cuda` found once is forgotten before and after the test."""
    for pause in (True, False):
        cuda._library.cache_clear()
        cuda.unavailable_reason.cache_clear()
        if pause:
            yield


def test_an_installation_without_kernels_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked_anew: None
) -> None:
    monkeypatch.setattr(built, "FOLDER", tmp_path)
    assert "compiled where nvcc is found" in str(cuda.unavailable_reason())


def test_what_is_built_is_found() -> None:
    built = [*(ROOT / "kan_fast").glob("_cuda_kernels.*")]
    assert ("has no CUDA kernels" in str(cuda.unavailable_reason())) == (not built)


def test_a_library_that_does_not_load_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked_anew: None
) -> None:
    monkeypatch.setattr(built, "FOLDER", tmp_path)
    (tmp_path / ("_cuda_kernels" + cuda.EXTENSION_SUFFIXES[0])).write_text("not a library")
    assert "can't be loaded" in str(cuda.unavailable_reason())
