"""Tensor parallelism: how the operators shard as DTensors, and plans that shard a KANLinear by outputs or inputs.

Import this module where layers are sharded. Data parallelism (DistributedDataParallel, fully_shard) needs nothing from
here; see docs/distributed.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.experimental import register_sharding
from torch.distributed.tensor.parallel import ParallelStyle

from kan_fast.nn.linear import KANLinear
from kan_fast.ops import operators

__all__ = ["ColwiseKAN", "RowwiseKAN"]

# The dimensions of every tensor of the operators: b(atch), i(n), o(ut), r(ows of the basis and knots).
_DIMS = {
    "x": "bi",
    "v": "bi",
    "g": "bo",
    "gm": "oi",
    "spline_weight": "oir",
    "base_weight": "oi",
    "bias": "o",
    "grid": "ir",
    "mask": "oi",
}


def _place(name: str, index: str, otherwise: Placement) -> Placement:
    """How a tensor is placed when `index` is sharded: along its dimension of that index, or `otherwise` without one."""
    return Shard(_DIMS[name].index(index)) if index in _DIMS[name] else otherwise


def _register(operator: Any, results: list[str], indices: str) -> None:
    """Tell DTensor that an operator may be sharded along each of `indices`, as a sum over them in Einstein's notation.

    Tensors that have the index are sharded along it, arguments that lack it are replicated and results that lack it are
    partial sums. `results` names tensors of the same dimensions.
    """
    names = [argument.name for argument in operator._schema.arguments]

    def argument(name: str, value: Any, index: str) -> Placement | None:
        if name not in _DIMS or value is None:
            return None
        if (name, index) == ("bias", "i"):  # the one term that is added to the sum over i
            return Partial()
        return _place(name, index, Replicate())

    def result(name: str, needed: bool, index: str) -> Placement:
        if not needed or index == "none" or (name, index) == ("bias", "i"):
            return Replicate()
        return _place(name, index, Partial())

    @register_sharding(operator)
    def shardings(*values: Any) -> list[tuple[list[Placement], list[Placement | None]]]:
        given = dict(zip(names, values, strict=True))
        needs = given.get("needs", [True] * len(results))
        return [
            (
                [result(name, needed, index) for name, needed in zip(results, needs, strict=True)],
                [argument(name, value, index) for name, value in given.items()],
            )
            for index in ("none", *indices)
        ]


_register(operators.forward, ["g"], "bio")
_register(operators.grad_input, ["x"], "bio")
_register(operators.grad_coef, ["spline_weight", "base_weight"], "bio")
_register(operators.backward, ["x", "spline_weight", "base_weight", "bias"], "bio")
_register(operators.edge_magnitude, ["gm"], "io")  # over b it is a mean, not a sum
_register(operators.edge_magnitude_backward, ["x", "spline_weight", "base_weight"], "io")


class _ParallelKAN(ParallelStyle):
    """Shards parameters, grid, input and output of a KANLinear along the dimension `index`, where they have it."""

    index: str

    def __init__(
        self,
        *,
        input_layouts: Placement | None = None,
        output_layouts: Placement | None = None,
        use_local_output: bool = True,
    ) -> None:
        super().__init__()
        self.desired = Shard(-1) if self.index == "i" else Replicate()
        self.input_layouts = input_layouts or self.desired
        self.output_layouts = output_layouts or (Shard(-1) if self.index == "o" else Replicate())
        self.use_local_output = use_local_output

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if not isinstance(module, KANLinear):
            raise TypeError(f"{type(self).__name__} shards a KANLinear, got {type(module).__name__}")
        if module.symbolic is not None:
            raise ValueError(
                f"{type(self).__name__} can't shard a layer with symbolic edges; leave the layer out of the plan"
            )
        if torch.torch_version.TorchVersion(torch.__version__) < "2.7":
            raise RuntimeError(
                f"tensor parallelism needs torch 2.7 or later, got {torch.__version__}, which computes wrong second "
                "derivatives of sharded layers"
            )
        return distribute_module(module, device_mesh, self._shard, self._input, self._output)  # type: ignore[arg-type]

    def _shard(self, _: str, layer: nn.Module, mesh: DeviceMesh) -> None:
        def shard(name: str, tensor: Tensor) -> DTensor:
            return distribute_tensor(tensor, mesh, [_place(name, self.index, Replicate())])

        for name, parameter in list(layer.named_parameters()):
            layer.register_parameter(name, nn.Parameter(shard(name, parameter), parameter.requires_grad))
        for name, buffer in list(layer.named_buffers()):
            layer.register_buffer(name, shard(name, buffer))

    def _input(self, _: nn.Module, args: tuple[Tensor, ...], mesh: DeviceMesh) -> DTensor:
        x = args[0]
        if not isinstance(x, DTensor):
            x = DTensor.from_local(x, mesh, [self.input_layouts], run_check=False)
        return x.redistribute(placements=[self.desired])

    def _output(self, _: nn.Module, y: DTensor, mesh: DeviceMesh) -> Tensor:
        y = y.redistribute(placements=[self.output_layouts])
        return y.to_local() if self.use_local_output else y


class ColwiseKAN(_ParallelKAN):
    """Shard a KANLinear by outputs, as `ColwiseParallel` does nn.Linear; the grid is replicated.

    For `torch.distributed.tensor.parallel.parallelize_module`. The backward pass sums the gradient of the input,
    `(batch, in)`, over the processes.

    Args:
        input_layouts: placement of an input that is not a DTensor; None for Replicate().
        output_layouts: placement of the output; None for Shard(-1), which costs nothing.
        use_local_output: whether the output is this process's part, a plain tensor, instead of a DTensor.
    """

    index = "o"


class RowwiseKAN(_ParallelKAN):
    """Shard a KANLinear by inputs, as `RowwiseParallel` does nn.Linear; the rows of the grid are sharded with them.

    For `torch.distributed.tensor.parallel.parallelize_module`. The forward pass sums the output, `(batch, out)`, over
    the processes.

    Args:
        input_layouts: placement of an input that is not a DTensor; None for Shard(-1), what `ColwiseKAN` gives.
        output_layouts: placement of the output; None for Replicate(), an all-reduce. Shard(0) is a reduce-scatter.
        use_local_output: whether the output is this process's part, a plain tensor, instead of a DTensor.
    """

    index = "i"
