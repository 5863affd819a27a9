"""The Triton backend on a machine without a GPU: its kernels in the interpreter, and what it says when it can't run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kan_fast._triton as backend

HERE = Path(__file__).parent


def run_interpreted(*arguments: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", str(HERE / "interpreted"), *arguments]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(HERE)}
    result = subprocess.run(command, env=environment, cwd=HERE.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout


def test_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    run_interpreted("-m", "not slow")


@pytest.mark.slow
def test_more_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    run_interpreted("-m", "slow")


def test_reason_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "install it with" in (backend.unavailable_reason() or "")


def test_reason_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU" in (backend.unavailable_reason() or "")


def test_only_the_contract_is_loaded_on_demand() -> None:
    with pytest.raises(AttributeError, match="no attribute 'backwards'"):
        _ = backend.backwards
