"""What only the compiled CPU kernels have: instruction sets, threads, reproducible sums, workspaces."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from kan_fast.ops import dispatch, native, problem, reference
from tests.helpers.problems import Problem, make_problem

pytestmark = pytest.mark.skipif(native.unavailable_reason() is not None, reason=str(native.unavailable_reason()))

# Many samples and few edges (the batch is cut into chunks), many edges, and sizes that fill no tile.
SHAPES = [(9001, 2, 3), (300, 70, 130), (65, 33, 257), (5000, 1, 1), (1100, 40, 200)]


def everything(p: Problem) -> list[Tensor]:
    return [
        native.forward(p.x, p.v, p.c, p.bias, p.rows()),
        *native.backward(p.x, p.v, p.g, p.c, p.rows()),
        *native.grad_coef(p.x, p.v, p.g, p.rows()),
        native.edge_magnitude(p.x, p.c, p.rows()),
        *native.edge_magnitude_backward(p.x, p.gm, p.c, p.rows()),
    ]


def same_bits(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("isa", native.isas())
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_bits_do_not_depend_on_the_number_of_threads(isa: str, shape: tuple[int, int, int]) -> None:
    p = make_problem(*shape, adaptive=True)
    with native.use_isa(isa):
        torch.set_num_threads(1)
        expected = everything(p)
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            assert same_bits(everything(p), expected)


def test_instruction_sets_are_listed_best_first_and_can_be_chosen() -> None:
    assert native.isas()[-1] == "baseline"
    with pytest.raises(ValueError, match=r"unknown instruction set 'mmx'.*baseline"), native.use_isa("mmx"):
        pass
    p = make_problem(50, 7, 40)
    usual, best = native.isa(), everything(p)
    with native.use_isa("baseline"):
        assert native.isa() == "baseline" and "baseline kernels" in str(dispatch.backends()["cpu"])
        other = everything(p)
    assert native.isa() == usual
    for a, b in zip(best, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert same_bits(everything(p), best)


@pytest.mark.parametrize("dtype", native.DTYPES, ids=str)
def test_bits_do_not_depend_on_strides(dtype: torch.dtype) -> None:
    p = make_problem(21, 6, 10, dtype=dtype)
    assert same_bits(everything(p.strided()), everything(p))
    p.g = p.g[:1].expand_as(p.g)
    expanded = everything(p)
    p.g = p.g.clone()
    assert same_bits(expanded, everything(p))


def test_calls_from_several_python_threads() -> None:
    problems = [make_problem(400, 40, 50, seed=seed) for seed in range(8)]
    expected = [everything(p) for p in problems]
    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(pool.map(everything, problems), expected, strict=True):
            assert same_bits(got, wanted)


@pytest.mark.parametrize("kernel", ["forward", "backward", "edge_magnitude", "edge_magnitude_backward"])
def test_kernels_let_other_python_threads_run(kernel: str) -> None:
    """Python itself takes no turns here, so the other thread can only run when the kernel gives up the interpreter."""
    p = make_problem(500, 20, 30)
    g = p.gm if kernel.startswith("edge") else p.g
    tensors = {"x": p.x, "v": p.v, "g": g, "spline_weight": p.c.spline, "base_weight": p.c.base}
    tensors |= {"bias": p.bias, "grid": p.grid}
    tensors |= {name: torch.empty(p.g.numel()) for name in ("y", "gx", "gs", "gb", "gbias")}  # y is the largest
    sizes = {"groups": 1, "batch": 500, "inputs": 20, "outputs": 30, "knots": p.grid.shape[1], "degree": p.spec.degree}
    call = problem.Problem(**{name: t.data_ptr() for name, t in tensors.items()}, **sizes, threads=1)
    go, ran = threading.Event(), threading.Event()
    other = threading.Thread(target=lambda: go.wait() and ran.set())
    other.start()
    interval, end = sys.getswitchinterval(), time.monotonic() + 30
    sys.setswitchinterval(1000)
    try:
        go.set()
        while not ran.is_set() and time.monotonic() < end:
            getattr(native._C, kernel)(0, bytes(call))
        assert ran.is_set()
    finally:
        sys.setswitchinterval(interval)
        other.join()


def _checksum(queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)  # as a DataLoader worker does
    queue.put(float(everything(make_problem(400, 40, 50))[0].double().sum()))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_runs_them_too() -> None:
    expected = float(everything(make_problem(400, 40, 50))[0].double().sum())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_checksum, args=(queue,))
    process.start()
    assert queue.get(timeout=600) == expected
    process.join(timeout=600)
    assert process.exitcode == 0


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_groups_are_independent_problems(groups: int) -> None:
    problems = [make_problem(33, 4, 6, seed=seed) for seed in range(groups)]
    tensors = {name: torch.stack([getattr(p, name) for p in problems]) for name in vars(problems[0]) if name != "spec"}
    together = everything(Problem(**tensors, spec=problems[0].spec))
    for got, *wanted in zip(together, *map(everything, problems), strict=True):
        assert torch.equal(got, torch.stack(wanted))


def test_long_sums_stay_accurate() -> None:
    p = make_problem(200_000, 1, 2)
    exact = p.to(torch.float64)
    p.g.abs_()
    exact.g.abs_()
    gs, gb = native.grad_coef(p.x, None, p.g, p.rows())
    exact_gs, exact_gb = reference.grad_coef(exact.x, None, exact.g, exact.rows())
    bias = native.backward(p.x, p.v, p.g, p.c, p.rows())[3]
    m = native.edge_magnitude(p.x, p.c, p.rows())
    exact_m = reference.edge_magnitude(exact.x, exact.c, exact.rows())
    for got, wanted in ((gs, exact_gs), (gb, exact_gb), (bias, exact.g.sum(0)), (m, exact_m)):
        assert (got - wanted).abs().max() <= 1e-6 * wanted.abs().max()


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("shape", [(3, 200, 300, 200), (1500, 40, 600, 5)], ids=lambda s: "x".join(map(str, s)))
def test_forward_in_several_tasks(shape: tuple[int, ...], threads: int) -> None:
    """Several blocks of features, and of samples or outputs."""
    torch.set_num_threads(threads)
    for dtype in (torch.float32, torch.bfloat16):
        p = make_problem(*shape, dtype=dtype)
        got = native.forward(p.x, None, p.c, p.bias, p.rows())
        q = p.to(torch.float64)
        wanted = reference.forward(q.x, None, q.c, q.bias, q.rows())
        assert (got - wanted).abs().max() <= 3 * torch.finfo(dtype).eps * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("features", [600, 601])
def test_gradients_larger_than_the_caches(features: int, dtype: torch.dtype) -> None:
    """They are stored past the caches where rows begin at whole vectors; rows of 601 features don't."""
    p = make_problem(5, features, 500, dtype=dtype)
    q = p.to(torch.float64)
    gs, _ = native.grad_coef(p.x, None, p.g, p.rows())
    assert gs.numel() * gs.itemsize > 8 << 20
    wanted, _ = reference.grad_coef(q.x, None, q.g, q.rows())
    assert (gs - wanted).abs().max() <= 3 * torch.finfo(dtype).eps * wanted.abs().max()


@pytest.mark.parametrize("shape", [(5, 2, 3), (2100, 2, 31)], ids=lambda s: "x".join(map(str, s)))
def test_the_highest_order(shape: tuple[int, int, int]) -> None:
    p = make_problem(*shape, dtype=torch.float64)
    arguments = (p.x, None, p.g, p.c, p.rows(native.MAX_ORDER))
    for got, wanted in zip(native.backward(*arguments), reference.backward(*arguments), strict=True):
        assert (got - wanted).abs().max() <= 1e-9 * wanted.abs().max().clamp_min(1)


@pytest.mark.parametrize("grid_size", [5, 30])
def test_features_that_share_knots_in_part(grid_size: int) -> None:
    """Equal knots are compiled once, also across blocks of features if all of a block are equal."""
    p = make_problem(70, 53, 40, grid_size, dtype=torch.float64)
    p.grid[16:33] *= 1.5
    p.grid[40:] *= 0.75
    p.grid[47] *= 2
    arguments = (p.x, None, p.c, p.bias, p.rows())
    torch.testing.assert_close(native.forward(*arguments), reference.forward(*arguments), rtol=1e-12, atol=1e-12)


def test_an_order_beyond_the_tables_is_refused() -> None:
    p = make_problem(3, 2, 2)
    with pytest.raises(ValueError, match="derivatives up to order 20, got 21"):
        native.forward(p.x, None, p.c, None, p.rows(21))


def test_threads_are_those_of_torch() -> None:
    if "GNU OpenMP" in torch.__config__.parallel_info() or "OpenMP 201511" in torch.__config__.parallel_info():
        assert native.threading() == "the OpenMP threads of torch"
    assert native.threading() != "no compiled kernels"


@pytest.mark.parametrize("base", ["silu", "identity"])
def test_the_gradient_of_v_at_infinity(base: str) -> None:
    """It is the base function times a sum over outputs of either sign, for outputs that fill no vector as well."""
    for shape in ((5, 3, 4), (70, 2, 37), (300, 2, 2)):
        p = make_problem(*shape, base=base)
        p.x[1], p.x[2, 0] = float("inf"), float("-inf")
        arguments = (p.x, p.g, p.c, p.rows())
        got, wanted = native.grad_input(*arguments), reference.grad_input(*arguments)
        assert wanted[1].isinf().all()
        assert torch.equal(got.isnan(), wanted.isnan())
        assert torch.equal(got[1], wanted[1])


FORK = """
import os, sys, time
import numpy as np
import torch
from kan_fast import KANLinear
from kan_fast.ops import native
torch.set_num_threads(2)
layer, x = KANLinear(20, 30).requires_grad_(False), torch.randn(20_000, 20)
expected = layer(x).numpy()  # starts the threads of OpenMP
child = os.fork()
if child == 0:  # torch's own parallel operators would hang: numpy compares
    same = np.array_equal(layer(x).numpy(), expected)
    os._exit(not (same and native.threading().startswith("one thread: this process was forked")))
for _ in range(600):
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.1)
os.kill(child, 9)
sys.exit("the child hangs")
"""


def test_a_fork_after_a_parallel_kernel_runs_on_one_thread() -> None:
    """Where the threads of GNU OpenMP are waited for, which no fork takes along."""
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
