"""The GPU backends on a GPU: what no interpreter or emulation can show, autograd, and the contract suite."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kan_fast import KAN, KANLinear
from kan_fast.ops import dispatch
from tests.helpers import contract
from tests.helpers.problems import make_problem

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

BACKENDS = ("triton", "cuda")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
CONTRACT = ("forward", "grad_input", "grad_coef", "backward", "edge_magnitude", "edge_magnitude_backward")
real_module = dispatch.module

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function for tensors on the CPU."""

    def call(*arguments: Any) -> Any:
        moved = [a.cuda() if isinstance(a, Tensor) else a for a in arguments]
        result = function(*moved)
        return tuple(t.cpu() for t in result) if isinstance(result, tuple) else result.cpu()

    return call


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the contract suite, which computes its references on the CPU, the GPU backends take tensors from there."""

    def module(name: str) -> Any:
        found = real_module(name)
        if name not in BACKENDS:
            return found
        return SimpleNamespace(**{f: on_device(getattr(found, f)) for f in CONTRACT})

    monkeypatch.setattr(dispatch, "module", module)


def test_both_backends_are_available() -> None:
    states = dispatch.backends()
    for name in BACKENDS:
        assert states[name].available, states[name].detail
    assert KANLinear(2, 3, device="cuda")(torch.zeros(4, 2, device="cuda")).is_cuda


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_results_have_the_same_bits_in_every_run(backend: str, dtype: torch.dtype) -> None:
    p = make_problem(5000, 40, 50, dtype=dtype)
    for call in contract.CALLS.values():
        moved_call = on_device(lambda *tensors, call=call: call(real_module(backend), type(p)(*tensors, p.spec), 0))
        tensors = [t for t in vars(p).values() if isinstance(t, Tensor)]
        runs = [contract.as_tuple(moved_call(*tensors)) for _ in range(3)]
        for other in runs[1:]:
            assert all(map(torch.equal, runs[0], other))


@each_backend
def test_derivatives(backend: str) -> None:
    layer = KANLinear(3, 2, grid_size=4, backend=backend, device="cuda", dtype=torch.float64)
    x = (torch.rand(4, 3, device="cuda", dtype=torch.float64) * 1.8 - 0.9).requires_grad_()
    names, values = zip(*layer.named_parameters(), strict=True)

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *values), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, (x, *values))


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_more_numbers_than_32_bits_count(backend: str, dtype: torch.dtype) -> None:
    """Samples at the far end of a large batch get what they get in a batch of their own."""
    batch, width = (1 << 31) // 512 + 300, 512
    layer = KANLinear(width, 16, backend=backend, device="cuda", dtype=dtype)
    x = torch.empty(batch, width, device="cuda", dtype=dtype).uniform_(-1, 1)
    g = torch.ones(batch, 16, device="cuda", dtype=dtype)
    ends = torch.cat([torch.arange(200), torch.arange(batch - 300, batch)]).cuda()
    results = []
    for rows in (slice(None), ends):
        part = x[rows].requires_grad_()
        y = layer(part)
        (gx,) = torch.autograd.grad(y, part, g[rows])
        results.append((y.detach(), gx))
    order_of_sums = torch.finfo(torch.float32).eps * width**0.5  # cuBLAS may choose another one for another batch
    tolerance = 4 * max(torch.finfo(dtype).eps, order_of_sums)
    for whole, part in zip(*results, strict=True):
        torch.testing.assert_close(whole[ends], part, rtol=tolerance, atol=tolerance)


@each_backend
def test_training_step_in_a_cuda_graph(backend: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(KANLinear(6, 17, backend=backend), KANLinear(17, 3, backend=backend)).cuda()
    x, static = torch.rand(2, 64, 6, device="cuda"), torch.zeros(64, 6, device="cuda")

    def step() -> list[Tensor]:
        return list(torch.autograd.grad(net(static).square().sum(), list(net.parameters())))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()  # compiles the kernels
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = step()
    for batch in x:
        static.copy_(batch)
        graph.replay()
        assert all(map(torch.equal, captured, step()))


@each_backend
def test_calls_wait_for_nothing(backend: str) -> None:
    layer = KANLinear(8, 8, backend=backend, device="cuda")
    x = torch.rand(32, 8, device="cuda", requires_grad=True)
    layer(x).sum().backward()
    torch.cuda.synchronize()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
        (layer(x).sum() + layer.edge_magnitude(x).sum()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@each_backend
def test_memory_does_not_grow_with_the_grid(backend: str) -> None:
    def peak(grid_size: int) -> int:
        layer = KANLinear(64, 64, grid_size=grid_size, backend=backend, device="cuda")
        x = torch.rand(1 << 18, 64, device="cuda", requires_grad=True)
        for _ in range(2):
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()])
        return torch.cuda.max_memory_allocated() - before

    assert peak(40) < 1.3 * peak(5)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "autocast"])
def test_training_gives_what_it_gives_on_the_cpu(compiled: bool, dtype: torch.dtype) -> None:
    def losses(device: str) -> Tensor:
        torch.manual_seed(0)
        net = KAN([3, 8, 2]).to(device)
        call = torch.compile(net, fullgraph=True) if compiled and device == "cuda" else net
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        x = (torch.rand(256, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1).to(device)
        target = torch.stack([x.sin().sum(1), x.prod(1)], 1)
        history = []
        for _ in range(30):
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                loss = (call(x) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.detach().cpu())
        return torch.stack(history).float()

    ours, theirs = losses("cuda"), losses("cpu")
    assert ours[-1] < 0.2 * ours[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-3 if dtype == torch.float32 else 0.1, atol=1e-4)


def test_a_network_does_everything_on_the_gpu() -> None:
    """Fit by LBFGS, Adam and LM, grid update and refinement, pruning, symbolic edges and the formula."""
    torch.manual_seed(0)
    x = torch.rand(500, 2, device="cuda", dtype=torch.float64) * 2 - 1
    dataset = {"train_input": x, "train_label": (torch.pi * x[:, :1]).sin() + x[:, 1:].square()}
    dataset |= {"test_input": x[:50], "test_label": dataset["train_label"][:50]}
    net = KAN([2, 3, 1], seed=1, device="cuda", dtype=torch.float64)
    net.fit(dataset, opt="LBFGS", steps=10, lamb=1e-3)
    net.fit(dataset, opt="Adam", steps=5, update_grid_every=2)
    net = net.prune().refine(8)
    history = net.fit(dataset, opt="LM", steps=20)
    assert history["test_loss"][-1] < 1e-2
    net.auto_symbolic(x=x)
    expression = net.symbolic_formula()[0][0]
    assert {str(s) for s in expression.free_symbols} == {"x_1", "x_2"}
    assert all(p.is_cuda for p in net.parameters())
    error = (net(x) - dataset["train_label"]).square().mean().sqrt()
    assert error < 0.05


@each_backend
@each_dtype
@pytest.mark.parametrize("adaptive", [False, True], ids=["uniform", "adaptive"])
@pytest.mark.parametrize(
    "shape",
    [*contract.SHAPES, (300, 70, 260), (4000, 9, 20), (40, 600, 530)],
    ids=lambda s: "x".join(map(str, s)),
)
def test_shapes(moved: None, backend: str, dtype: torch.dtype, shape: tuple[int, int, int], adaptive: bool) -> None:
    contract.check(backend, make_problem(*shape, dtype=dtype, adaptive=adaptive))


@each_backend
@each_dtype
@pytest.mark.parametrize("name", contract.CALLS)
def test_one_edge(moved: None, backend: str, dtype: torch.dtype, name: str) -> None:
    contract.check_one_edge(backend, dtype, name, adaptive=True)


@each_backend
@each_dtype
@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0, 4), (5, 3, 0), (0, 0, 0)], ids=lambda s: "x".join(map(str, s)))
def test_empty_sizes(moved: None, backend: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    contract.check(backend, make_problem(*shape, dtype=dtype))


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)  # float16 overflows here
@pytest.mark.parametrize("grid_size", [1, 5, 50])
@pytest.mark.parametrize("degree", range(6))
def test_degrees_orders_and_grids(moved: None, backend: str, dtype: torch.dtype, degree: int, grid_size: int) -> None:
    p = make_problem(70, 5, 67, grid_size, degree, dtype=dtype, adaptive=True)
    contract.check(backend, p, orders=tuple(sorted({0, 1, degree + 1})))


@each_backend
@each_dtype
@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
@pytest.mark.parametrize("base", ["silu", "identity", "zero"])
def test_bases_and_extrapolations(moved: None, backend: str, dtype: torch.dtype, base: str, extrapolation: str) -> None:
    p = make_problem(300, 3, 19, 4, base=base, extrapolation=extrapolation, dtype=dtype, adaptive=True)
    contract.check(backend, p, orders=(0, 1, 2))


@each_backend
@each_dtype
@pytest.mark.parametrize("keep", [(True, False), (False, True)], ids=["splines", "base"])
def test_rows_and_results_can_be_left_out(
    moved: None, backend: str, dtype: torch.dtype, keep: tuple[bool, bool]
) -> None:
    contract.check_rows_and_results_left_out(backend, dtype, keep)


@each_backend
@each_dtype
@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
def test_nan_and_infinity_stay_in_their_sample(
    moved: None, backend: str, dtype: torch.dtype, extrapolation: str
) -> None:
    contract.check_nan_and_infinity_stay_in_their_sample(backend, dtype, 5, 3, extrapolation, (37, 5, 9))


@each_backend
@each_dtype
def test_inputs_may_have_any_strides(moved: None, backend: str, dtype: torch.dtype) -> None:
    contract.check_any_strides(backend, dtype)
