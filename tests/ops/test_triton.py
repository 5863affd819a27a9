"""The Triton backend on a machine without a GPU: its kernels in the interpreter, and what it says when it can't run."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import kan_fast.ops.triton as backend

ROOT = Path(__file__).parents[2]
INTERPRETED = Path(__file__).parent / "interpreted"
OLDEST = ".".join(map(str, backend.OLDEST))


def run_interpreted(*arguments: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", str(INTERPRETED), *arguments]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout


@pytest.mark.slow
def test_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton", minversion=OLDEST)
    run_interpreted()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_all_combinations_in_the_interpreter() -> None:
    pytest.importorskip("triton", minversion=OLDEST)
    run_interpreted("-m", "exhaustive")


def check_compiled(arch: str, units: str) -> None:
    """Machine code of all kernels for an architecture: no spills, shared memory that fits, matrix instructions."""
    pytest.importorskip("triton", minversion=OLDEST)
    command = [sys.executable, "-m", "bench.gpu_static", "--check", "--archs", arch, "--units", units]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"rows_kernel {units.split(',')[0]} {arch}" in result.stdout


@pytest.mark.slow
def test_kernels_compile() -> None:
    check_compiled("sm_90", "half")


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100", "sm_120"])
def test_kernels_compile_for_all_architectures(arch: str) -> None:
    check_compiled(arch, "half,tf32" if arch != "sm_90" else "tf32")


def test_published_table_lists_no_failures() -> None:
    table = (ROOT / "bench" / "results" / "gpu_static.md").read_text()
    assert "Not usable" not in table
    for arch in ("sm_80", "sm_90", "sm_100", "sm_120"):
        for kernel in ("rows", "contract", "edge_magnitude"):
            assert f"| {kernel} | half | {arch} |" in table


def test_the_measuring_command_works_as_far_as_it_can_without_a_gpu() -> None:
    command = [sys.executable, "-m", "bench.gpu", "--dry-run", "--units", "float32", "--backend", "reference"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "| 16x5x6, 3 | float32 | kan_fast |" in result.stdout


def test_reason_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "install it with" in (backend.unavailable_reason() or "")


def test_reason_with_an_old_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__="3.3.1"))
    assert "3.4 (torch 2.8) and later" in (backend.unavailable_reason() or "")
    assert f"triton>={OLDEST};" in (ROOT / "pyproject.toml").read_text()


def test_reason_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", minversion=OLDEST)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU" in (backend.unavailable_reason() or "")


def test_only_the_contract_is_loaded_on_demand() -> None:
    with pytest.raises(AttributeError, match="no attribute 'backwards'"):
        _ = backend.backwards
