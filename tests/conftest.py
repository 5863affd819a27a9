"""What every test runs under: a fixed seed, NaN in memory never written, no display, GPU tests only with a GPU."""

import builtins
import os
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it in deterministic mode

import pytest
import torch

pytest.register_assert_rewrite("tests.helpers")


@pytest.fixture(autouse=True)
def torch_state() -> Iterator[None]:
    """Seeds torch, fills `torch.empty` with NaN, and puts torch's global settings back after the test."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@pytest.fixture
def double() -> None:
    """Makes float64 the default dtype; `torch_state` puts it back."""
    torch.set_default_dtype(torch.float64)


@pytest.fixture
def library() -> Iterator[dict[str, Any]]:
    """The library of functions, put back after the test."""
    from kan_fast.nn.functions import LIBRARY  # tests/ops/interpreted changes triton before the package is imported

    before = dict(LIBRARY)
    yield LIBRARY
    LIBRARY.clear()
    LIBRARY.update(before)


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes imports of a package fail, as where it is not installed."""

    def hidden(package: str) -> None:
        original = builtins.__import__

        def without(name: str, *args: Any) -> Any:
            if name.split(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=package)
            return original(name, *args)

        monkeypatch.setattr(builtins, "__import__", without)

    return hidden


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--isa", metavar="NAME", help="run the CPU kernels of one instruction set: avx512, avx2 or baseline"
    )


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("isa")
    if name is None:
        return
    from kan_fast.ops import native

    # Accuracy is judged against torch as on a processor that has no other instructions. Torch and MKL read these
    # variables when they compute for the first time.
    os.environ.setdefault("ATEN_CPU_CAPABILITY", {"baseline": "default"}.get(name, name))
    if name == "baseline":
        os.environ.setdefault("MKL_CBWR", "COMPATIBLE")
    chosen = native.use_isa(name)
    try:
        chosen.__enter__()
    except ValueError as error:
        raise pytest.UsageError(f"--isa: {error}") from None
    config.add_cleanup(lambda: chosen.__exit__(None, None, None))


def pytest_report_header(config: pytest.Config) -> list[str]:
    kernels = config.getoption("isa") or "the best instruction set"
    blas = "MKL" if torch.backends.mkl.is_available() else "another BLAS than MKL"
    capability = torch.backends.cpu.get_cpu_capability()
    return [
        f"CPU kernels: {kernels}; torch {torch.__version__}: {capability}, {blas}, {torch.get_num_threads()} threads",
        "the whole suite takes under 10 minutes on 2 idle cores; -m 'not slow' leaves out builds, demos, processes,"
        " compilers and the interpreter of GPU kernels",
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
