"""torch.compile, torch.export, autocast, checkpointing and inference mode around KANLinear."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.func import functional_call, grad, jvp, vmap
from torch.utils.checkpoint import checkpoint

from kan_fast import KANLinear
from kan_fast.convert import replace_linear


@pytest.fixture(autouse=True)
def fresh_dynamo() -> None:
    torch._dynamo.reset()


def network(**options: object) -> nn.Module:
    return nn.Sequential(KANLinear(3, 8, **options), KANLinear(8, 2, **options))


def gradients(net: nn.Module, call: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(call(x).sin().sum(), list(net.parameters()))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_training_has_no_graph_break(backend: str) -> None:
    net, x = network(), torch.rand(6, 3)
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    for mine, eager in zip(gradients(net, compiled, x), gradients(net, net, x), strict=True):
        torch.testing.assert_close(mine, eager)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), net(x))


def test_batch_sizes_do_not_recompile() -> None:
    net = network()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(net, fullgraph=True, backend=counter)
    for batch in (3, 7, 11, 64, 5):
        x = torch.rand(batch, 3)
        torch.testing.assert_close(compiled(x), net(x))
    assert counter.frame_count <= 2  # one for the first size, one for all others


@pytest.mark.slow
def test_compiled_transforms_are_right() -> None:
    """torch 2.13 compiles grad, jvp and vmap of a custom Function to wrong numbers or fails; we step around it."""
    net, x = network(), torch.rand(6, 3)
    parameters = dict(net.named_parameters())

    def f(z: Tensor) -> Tensor:
        return functional_call(net, parameters, (z,)).sin().sum()

    for transformed in (grad(f), vmap(grad(f)), lambda z: jvp(f, (z,), (z.cos(),))[1], vmap(net)):
        torch._dynamo.reset()
        compiled = torch.compile(transformed, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), transformed(x))


def test_compiled_second_derivatives_raise() -> None:
    net, x = network(), torch.rand(6, 3, requires_grad=True)
    (g,) = torch.autograd.grad(torch.compile(net, backend="aot_eager")(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(g.sum(), x)


def test_export_with_dynamic_batch() -> None:
    net, x = network(), torch.rand(6, 3)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: Dim("batch")},), strict=False)
    longer = torch.rand(17, 3)
    torch.testing.assert_close(program.module()(longer), net(longer))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's own
def test_aot_inductor_package_with_dynamic_batch(tmp_path: Path) -> None:
    net, x = network().eval(), torch.rand(6, 3)
    with torch.no_grad():
        program = torch.export.export(net, (x,), dynamic_shapes=({0: Dim("batch", max=1024)},), strict=False)
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "net.pt2"))
        loaded = torch._inductor.aoti_load_package(package)
        for batch in (6, 17):
            z = torch.rand(batch, 3)
            torch.testing.assert_close(loaded(z), net(z))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_training(dtype: torch.dtype) -> None:
    net, x = nn.Sequential(KANLinear(3, 8), nn.Linear(8, 8), KANLinear(8, 2)), torch.rand(16, 3)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=dtype == torch.float16)
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    exact = gradients(net, net, x)
    with torch.autocast("cpu", dtype=dtype):
        y = net(x)
    assert y.dtype == dtype
    scaler.scale(y.float().sin().sum()).backward()
    scaler.unscale_(optimiser)
    for parameter, g in zip(net.parameters(), exact, strict=True):
        assert parameter.grad.dtype == torch.float32
        torch.testing.assert_close(parameter.grad, g, rtol=0.05, atol=0.05)
    scaler.step(optimiser)


def test_compiled_autocast() -> None:
    net, x = network(), torch.rand(16, 3)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, eager = compiled(x), net(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, eager)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool) -> None:
    net, x = network(), torch.rand(6, 3, requires_grad=True)
    mine = gradients(net, lambda z: checkpoint(net, z, use_reentrant=reentrant), x) if not reentrant else None
    if mine is None:  # the reentrant form works with backward() only
        checkpoint(net, x, use_reentrant=True).sin().sum().backward()
        mine = [p.grad for p in net.parameters()]
    for a, b in zip(mine, gradients(net, net, x), strict=True):
        assert torch.equal(a, b)


def test_inference_mode_and_no_grad() -> None:
    net, x = network(), torch.rand(6, 3)
    y = net(x).detach()
    with torch.inference_mode():
        assert torch.equal(net(x), y)
    with torch.no_grad():
        assert not net(x).requires_grad


def _keep_bucket(_, bucket):  # DDP does not take annotations that are strings
    """The mean over one process. gloo would send it through threads that can deadlock with Python's lock."""
    mean = torch.futures.Future()
    mean.set_result(bucket.buffer())
    return mean


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo reads it
def test_transformer_layer_trains_compiled_in_bfloat16_under_ddp_without_a_graph_break() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    replace_linear(layer, filter=lambda name, _: name in ("linear1", "linear2"))
    assert sum(isinstance(module, KANLinear) for module in layer.modules()) == 2
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)  # DDP itself breaks a graph around it
        model = nn.parallel.DistributedDataParallel(compiled)
        model.register_comm_hook(None, _keep_bucket)
        torch._dynamo.utils.counters.clear()
        x, y = torch.randn(8, 5, 16), torch.randn(8, 5, 16)
        optimiser, losses = torch.optim.Adam(layer.parameters(), 1e-2), []
        for _ in range(8):
            optimiser.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = (model(x) - y).square().mean()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert not torch._dynamo.utils.counters["graph_break"]
        assert losses[-1] < losses[0]
    finally:
        torch.distributed.destroy_process_group()
