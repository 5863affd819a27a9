"""Grid updates under torch.distributed: shards, groups, and order statistics of samples in many processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor

_BITS = 4  # bits of an order statistic that each round finds, by summing 2^4 - 1 counts


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether it is a DTensor, of which this process may hold a part alone."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """The part of a DTensor that this process holds; other tensors as they are. Writing to it writes to the DTensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a DTensor, in every process; other tensors as they are."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def reshard(module: nn.Module) -> None:
    """Drop the copies of all parameters that fully_shard may have left in place of this process's shards."""
    for part in module.modules():
        drop = getattr(part, "reshard", None)
        if drop is not None:
            drop()


def data_group(grid: Tensor, group: ProcessGroup | None) -> ProcessGroup | None:
    """The processes whose samples count together: `group`, or else all processes; None for this process alone.

    Raises:
        ValueError: the grid is sharded over some of the processes (tensor parallelism), so that not all of them have
            samples of their own, and no group tells which do.
    """
    if group is not None or not dist.is_available() or not dist.is_initialized():
        return group
    mesh = getattr(grid, "device_mesh", None)
    if mesh is None:
        return dist.group.WORLD
    if mesh.size() != dist.get_world_size():
        raise ValueError(
            f"the layer is sharded over {mesh.size()} of {dist.get_world_size()} processes: pass the group of those "
            "that hold different samples of the same columns, such as mesh['dp'].get_group()"
        )
    return None


def total(counts: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum of `counts` over the processes of the group, in place; `counts` as they are without a group."""
    if group is not None:
        dist.all_reduce(counts, group=group)
    return counts


def order_statistics(x: Tensor, ranks: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """The numbers at the positions `ranks` of each sorted column, exactly, whichever process holds them.

    A radix search: a round finds the next 4 bits of all of them by counting the samples below 15 candidates each, so
    that 8 rounds (float32) or 16 (float64) exchange `rounds * 15 * len(ranks) * in` integers, however many samples
    there are.

    Args:
        x: this process's samples `(n, in)`, finite, float32 or float64; n may be 0 in some processes.
        ranks: positions in the samples of all processes, from 0.
        group: the processes; None for this one alone.

    Returns:
        `(len(ranks), in)`, the same in every process.
    """
    ordered = x.sort(0).values
    if group is None:
        return ordered[ranks]
    keys = _switch(ordered.T.contiguous().view(torch.int64 if x.dtype == torch.float64 else torch.int32))
    limits = torch.iinfo(keys.dtype)
    digits = torch.arange(1, 1 << _BITS, device=x.device)
    found = torch.full((x.shape[1], len(ranks)), limits.min, dtype=torch.int64, device=x.device)
    for shift in range(limits.bits - _BITS, -1, -_BITS):
        candidates = found[..., None] + (digits << shift)  # (in, rank, digit)
        below = torch.searchsorted(keys, candidates.flatten(1).to(keys.dtype)).view(candidates.shape)
        found += (total(below, group) <= ranks[:, None]).sum(2) << shift
    return _switch(found.to(keys.dtype)).view(x.dtype).T


def _switch(bits: Tensor) -> Tensor:
    """Maps the bits of floating point numbers to integers in the same order, and back: the map is its own inverse."""
    limits = torch.iinfo(bits.dtype)
    return bits ^ ((bits >> (limits.bits - 1)) & limits.max)
