"""Training in 2 and 4 processes, started by torchrun, gives what one process gives with all the samples."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as checkpoint
import torch.nn.functional as F
from torch import nn

from kan_fast._support import collectives
from kan_fast.distributed import ColwiseKAN
from kan_fast.ops import native
from tests.helpers import distributed_worker as worker

CHECKS = {
    2: [
        "any_module_ddp",
        "any_module_fsdp",
        "branches",
        "ddp_float32",
        "ddp_float64",
        "fit_of_a_sharded_network",
        "fsdp_layers",
        "fsdp_root",
        "grid_of_unequal_parts",
        "order_statistics",
        "refusals",
        "tensor_parallel",
        "tensor_parallel_any_order",
    ],
    4: ["ddp_float64", "sharded_checkpoint", "grid_of_unequal_parts", "mesh_of_data_and_tensor_parallelism"],
}
# What torch 2.6 can't do on CPUs: its all-gather for FSDP calls a method that its streams of CPUs lack, and it computes
# wrong second derivatives of DTensors, so that `kan_fast.distributed` refuses it.
NEWER = {
    "any_module_fsdp",
    "fit_of_a_sharded_network",
    "fsdp_layers",
    "fsdp_root",
    "mesh_of_data_and_tensor_parallelism",
}
NEWER |= {"sharded_checkpoint", "tensor_parallel", "tensor_parallel_any_order"}
LACKS = NEWER if torch.torch_version.TorchVersion(torch.__version__) < "2.7" else set()


class Launch:
    """One launch of torchrun that runs all checks of a number of processes, when the first of them is asked for."""

    def __init__(self, size: int, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
        try:
            run = subprocess.run(
                [
                    *command,
                    worker.__file__,
                    str(folder),
                    native.isa(),
                    *(check for check in CHECKS[size] if check not in LACKS),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                timeout=worker.TIME_LIMIT + 50,  # the workers end by themselves
            )
            self.output = run.stdout
        except subprocess.TimeoutExpired as error:
            self.output = f"{error}\n{(error.stdout or b'').decode()}"

    def result(self, check: str) -> dict[str, Any]:
        if check in LACKS:
            pytest.skip(f"torch {torch.__version__} can't do this on CPUs")
        file = self.folder / f"{check}.pt"
        assert file.exists(), f"{check} did not finish:\n{self.output[self.output.find('Traceback') :][:5000]}"
        return torch.load(file, weights_only=True)


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return functools.cache(lambda size: Launch(size, tmp_path_factory.mktemp(f"processes{size}")))


@functools.cache
def alone(dtype: torch.dtype) -> dict[str, Any]:
    """What the same training gives in one process on the joined batch."""
    model = worker.network(dtype)
    losses = worker.train(model, *worker.data(dtype))
    return {"losses": losses, "state": model.state_dict()}


TRAININGS = [
    pytest.param(2, "ddp_float32", 1e-5, id="ddp-float32"),
    pytest.param(2, "ddp_float64", 1e-11, id="ddp"),
    pytest.param(2, "fsdp_layers", 1e-11, id="fsdp-layers"),
    pytest.param(2, "fsdp_root", 1e-11, id="fsdp-root"),
    pytest.param(2, "any_module_ddp", 1e-11, id="any-module-ddp"),
    pytest.param(2, "any_module_fsdp", 1e-11, id="any-module-fsdp"),
    pytest.param(2, "tensor_parallel", 1e-11, id="tensor-parallel"),
    pytest.param(4, "ddp_float64", 1e-11, id="ddp-4", marks=pytest.mark.slow),
    pytest.param(4, "sharded_checkpoint", 1e-11, id="fsdp-4", marks=pytest.mark.slow),
    pytest.param(4, "mesh_of_data_and_tensor_parallelism", 1e-11, id="fsdp-2-tensor-2", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("size", "check", "tolerance"), TRAININGS)
def test_training_with_a_grid_update_equals_one_process_on_the_joined_batch(
    launch: Any, size: int, check: str, tolerance: float
) -> None:
    result = launch(size).result(check)
    expected = alone(torch.float32 if "float32" in check else torch.float64)
    assert expected["losses"][-1] < 0.3 * expected["losses"][0]
    torch.testing.assert_close(result["losses"], expected["losses"], atol=tolerance, rtol=0)
    torch.testing.assert_close(result["state"], expected["state"], atol=20 * tolerance, rtol=0)


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_grid_update_is_that_of_the_joined_samples_to_the_bit(launch: Any, size: int) -> None:
    result = launch(size).result("grid_of_unequal_parts")
    assert len(result) == 6
    for name, update in result.items():
        dtype = next(d for d in (torch.float32, torch.float64, torch.bfloat16) if name.endswith(str(d)))
        layer = worker.one_layer(dtype)
        before = layer.grid.clone()
        layer.update_grid(worker.data(torch.float64)[0].to(dtype))
        assert not torch.equal(layer.grid, before)
        for key, value in layer.state_dict().items():
            assert torch.equal(update["state"][key], value), f"{name}: {key}"
        assert update["messages"] == (18 if dtype == torch.float64 else 10)


def test_layers_that_some_processes_do_not_call(launch: Any) -> None:
    result = launch(2).result("branches")
    assert result["moved"] == ["each", "one"]
    x = worker.data(torch.float64)[0].chunk(2)
    for name, samples in {"each": x[0], "one": x[1], "none": None}.items():
        layer = worker.one_layer(torch.float64)
        if samples is not None:
            layer.update_grid(samples, margin=None)
        assert torch.equal(result["state"][f"{name}.grid"], layer.grid)
    assert len(result["messages"]) == 2
    assert all("NaN or infinity reaches layer one" in message for message in result["messages"])


def test_fit_of_a_sharded_network(launch: Any) -> None:
    result = launch(2).result("fit_of_a_sharded_network")
    assert result["sharded"] == pytest.approx(result["alone"], rel=1e-10)
    assert "use Adam, or fit before sharding" in result["refusal"]


def test_order_statistics_are_exact(launch: Any) -> None:
    result = launch(2).result("order_statistics")
    for dtype in (torch.float32, torch.float64):
        expected = worker.awkward(dtype).sort(0).values
        assert torch.equal(result[str(dtype)], expected)
        assert torch.equal(collectives.order_statistics(worker.awkward(dtype), torch.arange(37)), expected)


def test_all_processes_refuse_what_one_of_them_must(launch: Any) -> None:
    first, second = launch(2).result("refusals")["messages"]
    for a, b, expected in zip(
        first,
        second,
        ["finite samples, got NaN or infinity", "finite samples", "at least one sample", "needs whole curves"],
        strict=True,
    ):
        assert expected in a and expected in b


def test_tensor_parallel_shards_gradients_and_communication(launch: Any) -> None:
    result = launch(2).result("tensor_parallel")
    model = worker.network()
    x, y = worker.data(torch.float64)
    output = model(x.requires_grad_())
    F.mse_loss(output, y).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()} | {"x": x.grad}
    torch.testing.assert_close(result["output"], output.detach(), atol=1e-13, rtol=0)
    torch.testing.assert_close(result["gradients"], gradients, atol=1e-13, rtol=0)
    assert [list(counts.values()) for counts in result["counts"]] == [[1], [1]]
    assert all("all_reduce" in op for counts in result["counts"] for op in counts)
    shard = ["(Replicate(),)", "(Shard(dim=0),)", "(Shard(dim=1),)"]
    assert result["placements"] == {
        "layers.0.spline_weight": shard[1],
        "layers.0.base_weight": shard[1],
        "layers.0.bias": shard[1],
        "layers.0.grid": shard[0],
        "layers.1.spline_weight": shard[2],
        "layers.1.base_weight": shard[2],
        "layers.1.bias": shard[0],
        "layers.1.grid": shard[1],
    }


@pytest.mark.parametrize("base", worker.BASES)
def test_tensor_parallel_of_second_order_and_uneven_width(launch: Any, base: str) -> None:
    result = launch(2).result("tensor_parallel_any_order")[base]
    expected = worker.curvature(worker.odd_network(base), torch.clone)
    assert len(result) == len(expected) == (10 if base == "fused" else 8)
    torch.testing.assert_close(result, worker.whole(expected), atol=1e-11, rtol=0)


@pytest.mark.slow
def test_the_group_must_be_given_where_it_is_ambiguous(launch: Any) -> None:
    result = launch(4).result("mesh_of_data_and_tensor_parallelism")
    assert "sharded over 2 of 4 processes: pass the group" in result["ambiguous"]


@pytest.mark.slow
def test_a_checkpoint_of_4_processes_loads_in_one(launch: Any) -> None:
    run = launch(4)
    expected = run.result("sharded_checkpoint")["state"]
    assert len(list((run.folder / "checkpoint").glob("*.distcp"))) == 4
    model = worker.network()
    state = {"model": model.state_dict()}
    with pytest.warns(UserWarning, match="single process"):
        checkpoint.load(state, checkpoint_id=run.folder / "checkpoint")
    model.load_state_dict(state["model"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_plan_shards_nothing_but_kan_layers() -> None:
    with pytest.raises(TypeError, match="ColwiseKAN shards a KANLinear, got Linear"):
        ColwiseKAN()._apply(nn.Linear(2, 2), None)  # type: ignore[arg-type]


def test_update_grid_refuses_another_number_of_columns() -> None:
    with pytest.raises(ValueError, match=r"expected last dimension 3, got 2 \(input shape \(6, 2\)\)"):
        worker.one_layer(torch.float32).update_grid(torch.zeros(6, 2))
