"""What every process of a torchrun launch does: `torchrun worker.py FOLDER ISA CHECK...`.

A check returns a dict of results, the same in all processes; process 0 saves it as FOLDER/CHECK.pt. The tests compute
the same in one process and compare.
"""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.parallel import DistributedDataParallel

from kan_fast import KAN, KANLinear, update_grids
from kan_fast._support import collectives
from kan_fast.distributed import ColwiseKAN, RowwiseKAN
from kan_fast.ops import native

TIME_LIMIT = 600  # seconds until a process that hangs says where and ends; a busy machine needs some 100
STEPS, GRID_STEP = 50, 10


def data(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The joined batch; its first half differs from the second, so that neither has the quantiles of the whole."""
    x = torch.randn(48, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[24:] = 0.5 * x[24:] + 1
    return x.to(dtype), (x[:, :1] * x[:, 1:2]).sin().to(dtype)


def network(dtype: torch.dtype = torch.float64, width: tuple[int, ...] = (3, 8, 1)) -> KAN:
    return KAN(width, seed=0, dtype=dtype)


def train(
    model: KAN, x: Tensor, y: Tensor, run: nn.Module | None = None, group: Any = None, *, any_module: bool = False
) -> Tensor:
    """The losses of 50 steps of Adam with a grid update in the tenth; `run` is the model with what wraps it.

    The update is that of the network, or the one for `any_module`.
    """
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step in range(STEPS):
        if step == GRID_STEP and any_module:
            assert len(update_grids(run or model, x, optimiser, margin=0.0, group=group)) == len(model.layers)
        elif step == GRID_STEP:
            model.update_grid(x, group=group)
            for layer in model.layers:
                optimiser.state.pop(layer.spline_weight, None)
        loss = F.mse_loss((run or model)(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def part(tensor: Tensor, group: Any = None) -> Tensor:
    """The rows of this process."""
    return tensor.chunk(dist.get_world_size(group))[dist.get_rank(group)]


def trained(
    model: KAN, dtype: torch.dtype, run: nn.Module | None = None, group: Any = None, **options: bool
) -> dict[str, Any]:
    """Train on this process's part of the data; the mean losses of all, and the whole state."""
    x, y = data(dtype)
    losses = train(model, part(x, group), part(y, group), run, group, **options)
    dist.all_reduce(losses)
    return {"losses": losses / dist.get_world_size(), "state": whole(model.state_dict())}


def whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (t.full_tensor() if isinstance(t, DTensor) else t).detach() for name, t in state.items()}


def sharded(model: KAN, each_layer: bool, **options: Any) -> KAN:
    if each_layer:
        for layer in model.layers:
            fully_shard(layer, **options)
    return fully_shard(model, **options)


def ddp_float32() -> dict[str, Any]:
    model = network(torch.float32)
    return trained(model, torch.float32, DistributedDataParallel(model))


def ddp_float64() -> dict[str, Any]:
    model = network()
    return trained(model, torch.float64, DistributedDataParallel(model))


def fit_of_a_sharded_network() -> dict[str, Any]:
    options: dict[str, Any] = {"opt": "Adam", "steps": 5, "grid_update_num": 2, "stop_grid_update_step": 4, "clip": 1.0}
    histories = [
        model.fit(data(torch.float64), progress=False, **options) for model in (network(), sharded(network(), True))
    ]
    try:
        sharded(network(), True).fit(data(torch.float64), opt="LBFGS", steps=1, progress=False)
    except ValueError as error:
        refusal = str(error)
    return {"alone": histories[0]["train_loss"], "sharded": histories[1]["train_loss"], "refusal": refusal}


def any_module_ddp() -> dict[str, Any]:
    model = network()
    return trained(model, torch.float64, DistributedDataParallel(model), any_module=True)


def any_module_fsdp() -> dict[str, Any]:
    return trained(sharded(network(), each_layer=True), torch.float64, any_module=True)


class Branches(nn.Module):
    """The last process alone calls the second layer; no process calls the third."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.one, self.none = (one_layer(torch.float64) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) if dist.get_rank() == dist.get_world_size() - 1 else self.each(x)


def branches() -> dict[str, Any]:
    """Layers that some processes do not call, and samples that are bad in one process."""
    x = data(torch.float64)[0]
    model = Branches()
    moved = update_grids(model, part(x))
    bad = part(x) * (float("nan") if dist.get_rank() else 1)
    messages: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(messages, message(lambda samples: update_grids(model, samples), bad))
    return {"moved": moved, "state": model.state_dict(), "messages": messages}


def fsdp_layers() -> dict[str, Any]:
    return trained(sharded(network(), each_layer=True), torch.float64)


def fsdp_root() -> dict[str, Any]:
    return trained(sharded(network(), each_layer=False), torch.float64)


def grid_of_unequal_parts() -> dict[str, Any]:
    """One layer whose samples lie in the processes in any number, 0 among them."""
    results = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = data(torch.float64)[0].to(dtype)
        parts = [*x.split([31, 17]), *[x[:0]] * (dist.get_world_size() - 2)]
        for name, mine in (("unequal", parts[dist.get_rank()]), ("empty", x if dist.get_rank() == 1 else x[:0])):
            layer = one_layer(dtype)
            with CommDebugMode() as mode:
                layer.update_grid(mine)
            results[f"{name} {dtype}"] = {"state": layer.state_dict(), "messages": mode.get_total_counts()}
    return results


def one_layer(dtype: torch.dtype) -> KANLinear:
    torch.manual_seed(0)
    return KANLinear(3, 4, dtype=dtype)


def order_statistics() -> dict[str, Any]:
    """Every sample of columns with ties, zeros of both signs, subnormal and huge numbers."""
    results = {}
    for dtype in (torch.float32, torch.float64):
        x = awkward(dtype)
        results[str(dtype)] = collectives.order_statistics(part(x), torch.arange(len(x)), dist.group.WORLD)
    return results


def awkward(dtype: torch.dtype) -> Tensor:
    x = torch.randn(37, 6, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x[:, 1] = x[:, 1].round()
    x[:, 2] = 0
    x[::2, 2] = -0.0
    x[:, 3] *= torch.finfo(dtype).tiny
    x[:, 4] *= torch.finfo(dtype).max / 8
    x[5:, 5] = torch.finfo(dtype).min
    return x


def refusals() -> dict[str, Any]:
    """All processes raise, whichever has the bad samples, so that none waits for the others."""
    messages = []
    for bad in (torch.tensor([[float("nan"), 0, 0]]), torch.tensor([[0, float("inf"), 0]])):
        messages.append(message(lambda x: one_layer(x.dtype).update_grid(x), bad if dist.get_rank() else bad * 0 + 1))
    messages.append(message(one_layer(torch.float32).update_grid, torch.empty(0, 3)))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    layer = fully_shard(KANLinear(4, 4), mesh=mesh, shard_placement_fn=lambda p: Shard(min(1, p.dim() - 1)))
    messages.append(message(layer.update_grid, torch.randn(5, 4)))
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, messages)
    return {"messages": everyone}


def message(function: Callable[[Tensor], Any], x: Tensor) -> str:
    try:
        function(x)
    except ValueError as error:
        return str(error)
    return "no error"


PLAN = {"layers.0": ColwiseKAN(), "layers.1": RowwiseKAN()}


def tensor_parallel() -> dict[str, Any]:
    """Columns, then rows: all processes have all samples, and communicate once forward and once backward."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = parallelize_module(network(), mesh, PLAN)
    x, y = data(torch.float64)
    x.requires_grad_()
    with CommDebugMode() as forward:
        output = model(x)
    with CommDebugMode() as backward:
        F.mse_loss(output, y).backward()
    results = {
        "counts": [{str(op): count for op, count in mode.get_comm_counts().items()} for mode in (forward, backward)],
        "placements": {name: str(t.placements) for name, t in model.state_dict().items()},
        "gradients": whole({name: p.grad for name, p in model.named_parameters()}) | {"x": x.grad},
        "output": output.detach(),
    }
    model.zero_grad()
    return results | {"losses": train(model, x.detach(), y), "state": whole(model.state_dict())}


def tensor_parallel_any_order() -> dict[str, Any]:
    """A width that processes do not divide, second derivatives, edge magnitudes, masks, output sharded by samples."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    rows = RowwiseKAN(output_layouts=Shard(0), use_local_output=False)
    plan = {"layers.0": ColwiseKAN(use_local_output=False), "layers.1": rows}
    results = {}
    for base in BASES:
        model = parallelize_module(odd_network(base), mesh, plan)
        results[base] = whole(curvature(model, lambda t: DTensor.from_local(t, mesh, [Replicate()])))
    return results


BASES = {"fused": "silu", "callable": torch.tanh}


def odd_network(base: str) -> KAN:
    model = KAN([3, 5, 2], seed=0, dtype=torch.float64, base=BASES[base], extrapolation="linear")
    for layer in model.layers:
        layer.mask = torch.arange(layer.out_features * layer.in_features).view(layer.out_features, -1) % 4 > 0
    return model


def curvature(model: KAN, distribute: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Gradients of the squared input gradient and the squared edge magnitudes (where the base function is fused)."""
    x = distribute(data(torch.float64)[0]).requires_grad_()
    flow = model.activations(x)
    results = {"input gradient": torch.autograd.grad(flow[-1].square().sum(), x, create_graph=True)[0]}
    for i, layer in enumerate(model.layers):
        if layer.base == "silu":
            results[f"edges of layer {i}"] = layer.edge_magnitude(flow[i])
    sum(t.square().sum() for t in results.values()).backward()
    return results | {name: p.grad for name, p in model.named_parameters()} | {"x": x.grad}


def mesh_of_data_and_tensor_parallelism() -> dict[str, Any]:
    """fully_shard over one dimension of the mesh, columns and rows of the layers over the other."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("dp", "tp"))
    model = parallelize_module(network(), mesh["tp"], PLAN)
    ambiguous = message(model.layers[0].update_grid, part(data(torch.float64)[0]))
    sharded(model, each_layer=True, mesh=mesh["dp"])
    return trained(model, torch.float64, group=mesh["dp"].get_group()) | {"ambiguous": ambiguous}


def sharded_checkpoint() -> dict[str, Any]:
    """A trained network is saved in parts, one by each process, with the state of its optimiser."""
    model = sharded(network(), each_layer=True)
    results = trained(model, torch.float64)
    checkpoint.save({"model": model.state_dict()}, checkpoint_id=folder / "checkpoint")
    return results


if __name__ == "__main__":
    folder, isa, *checks = Path(sys.argv[1]), *sys.argv[2:]
    faulthandler.dump_traceback_later(TIME_LIMIT, exit=True)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIME_LIMIT // 2))
    with native.use_isa(isa) if isa else nullcontext():
        for check in checks:
            result = globals()[check]()
            if dist.get_rank() == 0:
                torch.save(result, folder / f"{check}.pt")
    dist.destroy_process_group()
