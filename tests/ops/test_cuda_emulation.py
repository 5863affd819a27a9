"""The CUDA kernels, executed on the CPU: the contract suite, sanitizers, and every order of threads."""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kan_fast.ops import cuda, dense, dispatch, reference, tuning
from kan_fast.ops.contract import Coefficients, Rows
from tests.helpers import contract
from tests.helpers.problems import make_problem

ROOT = Path(__file__).parents[2]
EMULATION = Path(__file__).parent / "cuda_emulation"
COMPILER = shlex.split(os.environ.get("CXX", "")) or [shutil.which("g++") or shutil.which("clang++") or ""]
FLAGS = ["-std=c++17", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-DKAN_EMULATION"]

pytestmark = pytest.mark.skipif(
    not COMPILER[0] or platform.system() != "Linux", reason="the emulation needs g++ or clang++ on Linux"
)

dtypes = pytest.mark.parametrize("dtype", cuda.DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def compile_emulation(folder: Path, *flags: str) -> list[str]:
    """Object files of the kernels and of the emulation's own sources, compiled side by side."""
    sources = [*sorted((ROOT / "csrc/cuda").glob("*.cu")), EMULATION / "emulation.cpp"]
    if "-fsanitize" in " ".join(flags):
        sources.append(EMULATION / "sanitize.cpp")
    objects = [str(folder / source.with_suffix(".o").name) for source in sources]
    include = [f"-I{folder}" for folder in (EMULATION, ROOT / "csrc", ROOT / "csrc/cuda")]

    def command(source: Path, built: str) -> list[str]:
        chosen = list(flags)
        if "-fsanitize=thread" in flags and source.name == "emulation.cpp":  # its file says why
            chosen = ["-DKAN_TSAN", *(flag for flag in flags if flag != "-fsanitize=thread")]
        return [*COMPILER, *FLAGS, *include, *chosen, "-x", "c++", "-c", str(source), "-o", built]

    compilers = [
        subprocess.Popen(command(source, built), stderr=subprocess.PIPE, text=True)
        for source, built in zip(sources, objects, strict=True)
    ]
    for compiler in compilers:
        _, messages = compiler.communicate()
        assert compiler.returncode == 0, messages
    return objects


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("cuda emulation")
    objects = compile_emulation(folder, "-O2")
    subprocess.run([*COMPILER, "-shared", *objects, "-o", folder / "kernels.so"], check=True)
    return cuda.load(folder / "kernels.so")


@pytest.fixture(autouse=True)
def emulated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The cuda backend runs on CPU tensors, in an order of threads that depends on the test."""
    if "sanitizer" in request.fixturenames:
        return
    library = request.getfixturevalue("library")
    monkeypatch.setattr(cuda, "_library", lambda: library)
    monkeypatch.setattr(cuda, "_device_and_stream", lambda device: (0, 0))
    library.kan_emulation_configure(zlib.crc32(request.node.name.encode()) % 1000, 4)


def set_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All problems take products of matrices, or the local form."""
    rows = {"products": 1e9, "local": 0.0}[name]
    monkeypatch.setattr(tuning, "ROWS_PER_ROW", dict.fromkeys(tuning.ROWS_PER_ROW, rows))


@pytest.fixture(params=["products", "local"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    set_form(request.param, monkeypatch)


def check(*args: object, orders: tuple[int, ...] = (0,), **kwargs: object) -> None:
    p = make_problem(*args, **kwargs)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_form("products", monkeypatch)
        contract.check("cuda", p, orders)
        set_form("local", monkeypatch)
        contract.check("cuda", p, orders, edges=False)


@dtypes
@pytest.mark.parametrize("shape", [(70, 9, 67), (33, 5, 130)], ids=lambda s: "x".join(map(str, s)))
def test_shapes(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    check(*shape, dtype=dtype, adaptive=shape[0] % 2 == 1)


@dtypes
@pytest.mark.parametrize("name", contract.CALLS)
def test_one_edge(form: None, dtype: torch.dtype, name: str) -> None:
    contract.check_one_edge("cuda", dtype, name, adaptive=True)


@dtypes
@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0, 4), (5, 3, 0)], ids=lambda s: "x".join(map(str, s)))
def test_empty_sizes(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    check(*shape, dtype=dtype)


@dtypes
@pytest.mark.parametrize("degree", range(6))
def test_degrees_and_orders(dtype: torch.dtype, degree: int) -> None:
    extrapolation = ("zero", "linear", "clamp")[degree % 3]
    orders = tuple(sorted({0, 1, degree + 1}))
    check(37, 3, 5, 4, degree, dtype=dtype, adaptive=True, extrapolation=extrapolation, orders=orders)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("degree", [0, 3, 5])
def test_rows_that_pass_in_windows(dtype: torch.dtype, degree: int) -> None:
    check(37, 5, 33, 60, degree, dtype=dtype, adaptive=True)


@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
@pytest.mark.parametrize("exponent", [-900, 900])
def test_grids_of_any_scale(form: None, exponent: int, extrapolation: str) -> None:
    """Powers of their spans are beyond float64."""
    p = make_problem(33, 2, 5, 4, 5, base="zero", extrapolation=extrapolation, dtype=torch.float64)
    scale, c = 2.0**exponent, Coefficients(p.spline_weight, None)
    y = cuda.forward(p.x * scale, None, c, None, Rows(p.grid * scale, 0, p.spec))
    gx = cuda.grad_input(p.x * scale, p.g, c, Rows(p.grid * scale, 1, p.spec)) * scale
    torch.testing.assert_close(y, reference.forward(p.x, None, c, None, p.rows()))
    torch.testing.assert_close(gx, reference.grad_input(p.x, p.g, c, p.rows(1)))


@dtypes
@pytest.mark.parametrize("grid_size", [5, 30], ids=["tile", "no tile"])
def test_blocks_that_take_many_samples(
    dtype: torch.dtype, grid_size: int, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there are more tiles than fill the device; rows of 30 spans exceed the shared memory of a block."""
    library.kan_emulation_configure(0, 1)
    set_form("products", monkeypatch)
    p = make_problem(350, 20, 3, grid_size, dtype=dtype, adaptive=True)
    contract.check("cuda", p, orders=(0,) if dtype == torch.float16 else (0, 1), edges=False)  # it overflows


def test_one_span_of_degree_5_in_the_local_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its 6 rows and a base row just fit into shared memory beside 8 inputs."""
    set_form("local", monkeypatch)
    contract.check("cuda", make_problem(37, 9, 5, 1, 5, dtype=torch.float64), edges=False)


@dtypes
def test_rows_that_are_written_several_at_a_time(dtype: torch.dtype) -> None:
    """Four numbers of a sample, which belong to two inputs where there are 7 rows; the last tile has 4 inputs."""
    check(33, 20, 3, 4, dtype=dtype, adaptive=True, orders=(1,))


@dtypes
@pytest.mark.parametrize("keep", [(True, False), (False, True)], ids=["splines", "base"])
def test_rows_and_results_can_be_left_out(form: None, dtype: torch.dtype, keep: tuple[bool, bool]) -> None:
    contract.check_rows_and_results_left_out("cuda", dtype, keep)


@dtypes
@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
@pytest.mark.parametrize(("grid_size", "degree"), [(5, 3), (1, 1), (4, 0)])
def test_nan_and_infinity_stay_in_their_sample(
    form: None, dtype: torch.dtype, grid_size: int, degree: int, extrapolation: str
) -> None:
    contract.check_nan_and_infinity_stay_in_their_sample("cuda", dtype, grid_size, degree, extrapolation, (37, 5, 9))


@contract.steep_problems
def test_large_rows_that_cancel_keep_their_digits(order: int, extrapolation: str, dtype: torch.dtype) -> None:
    contract.check_large_rows_that_cancel("cuda", order, extrapolation, dtype)


def test_inputs_may_have_any_strides(form: None) -> None:
    contract.check_any_strides("cuda", torch.float32)


@dtypes
@pytest.mark.parametrize("space", [1 << 8, 1 << 13], ids=["parts-of-samples", "parts-of-inputs"])
def test_workspaces_that_hold_a_part(space: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "WORKSPACE", space)
    check(34, 37, 6, dtype=dtype, adaptive=True, orders=(0, 1))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operations that are queued."""
    names: list[str] = []
    run = cuda._run
    monkeypatch.setattr(cuda, "_run", lambda name, *args, **kwargs: (names.append(name), run(name, *args, **kwargs))[1])
    return names


def test_large_grids_take_the_local_form(calls: list[str]) -> None:
    """Where it takes less time: early in float32, never in 16 bits for grids that anyone has."""
    for grid_size, dtype, expected in (
        (5, torch.float32, "rows"),
        (20, torch.float32, "rows"),
        (100, torch.float32, "forward"),
        (100, torch.bfloat16, "rows"),
        (60, torch.float64, "rows"),
        (200, torch.float64, "forward"),
    ):
        p = make_problem(3, 2, 2, grid_size, dtype=dtype)
        cuda.forward(p.x, None, p.c, None, p.rows())
        assert calls[-1] == expected, (grid_size, dtype)


def test_nothing_is_evaluated_for_the_bias_alone(form: None, calls: list[str]) -> None:
    p = make_problem(5, 3, 4)
    needs = (False, False, False, True)
    *rest, gbias = cuda.backward(p.x, None, p.g, p.c, p.rows(), needs)
    assert torch.equal(gbias, p.g.sum(0))
    assert [t.shape for t in rest] == [(0,)] * 3
    assert not calls


def test_a_layer_without_inputs_returns_no_view_of_its_bias() -> None:
    p = make_problem(1, 0, 3)
    y = cuda.forward(p.x, None, p.c, p.bias, p.rows())
    assert torch.equal(y[0], p.bias)
    assert y.data_ptr() != p.bias.data_ptr()


def test_operators_take_parameters_while_gradients_are_enabled(form: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As exported programs call them."""
    monkeypatch.setitem(dispatch._BACKENDS, "cuda", dispatch._BACKENDS["cuda"]._replace(device="cpu"))
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: None)
    p = make_problem(5, 3, 4)
    expected = cuda.forward(p.x, None, p.c, p.bias, p.rows())
    weights = [w.requires_grad_() for w in p.c]
    got = torch.ops.kan_fast.forward(p.x, None, *weights, p.bias, *p.rows()[:2], *p.spec, "cuda")
    assert torch.equal(got, expected)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch 2.9 has it")
def test_both_settings_of_torch_allow_tf32() -> None:
    setting, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.fp32_precision
    try:
        setting.fp32_precision = "tf32"
        assert dense.arithmetic(torch.float32) == "tf32"
        setting.fp32_precision = "ieee"
        assert dense.arithmetic(torch.float32) == "ieee"
        torch.set_float32_matmul_precision("high")
        assert dense.arithmetic(torch.float32) == "tf32"
        torch.set_float32_matmul_precision("highest")
        assert dense.arithmetic(torch.float32) == "ieee"
    finally:
        setting.fp32_precision = before


def test_results_have_the_same_bits_in_every_order_of_threads(form: None, library: ctypes.CDLL) -> None:
    p = make_problem(70, 9, 67)
    for call in contract.CALLS.values():
        results = []
        for seed in range(3):
            library.kan_emulation_configure(seed, 4)
            results.append(contract.as_tuple(call(cuda, p, 0)))
        for other in results[1:]:
            assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("processors", [1, 132])
def test_any_number_of_processors_shares_the_sums(library: ctypes.CDLL, processors: int) -> None:
    library.kan_emulation_configure(0, processors)
    check(130, 17, 33)


def test_launch_errors_carry_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_device_and_stream", lambda device: (1, 0))
    p = make_problem(2, 3, 4)
    with pytest.raises(RuntimeError, match="rows could not be launched: cudaErrorInvalidDevice: invalid device"):
        cuda.forward(p.x, None, p.c, None, p.rows())


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(sanitizer: str, tmp_path: Path) -> None:
    """Reads and writes out of bounds, undefined behaviour; data that threads share with no barrier between them."""
    flags = ("-O1", "-g1", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all")
    objects = compile_emulation(tmp_path, *flags)
    subprocess.run([*COMPILER, *flags, *objects, "-o", tmp_path / "sanitize"], check=True)
    command = [tmp_path / "sanitize", *(["few"] if sanitizer == "thread" else [])]
    fixed_addresses = ["setarch", platform.machine(), "-R"] if shutil.which("setarch") else []
    run = subprocess.run([*fixed_addresses, *command], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stdout == "clean\n"


@pytest.mark.slow
@pytest.mark.parametrize("grid_size", [1, 60])
@pytest.mark.parametrize("degree", range(6))
def test_all_degrees_and_extrapolations(degree: int, grid_size: int) -> None:
    base = ("silu", "identity", "zero")[degree % 3]
    for extrapolation in ("zero", "linear", "clamp"):
        check(33, 5, 19, grid_size, degree, adaptive=True, extrapolation=extrapolation, base=base, orders=(0, 2))


@pytest.mark.slow
@pytest.mark.parametrize("shape", contract.SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_shapes_of_the_contract_suite(shape: tuple[int, int, int]) -> None:
    check(*shape)
