"""Damage to files: to their bytes, and to the values in them."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 7, 10**9, 2**63, -(2**70), 0.5, -0.5, 1e300, float("inf"), float("nan")),
    *(
        "",
        "x",
        "sin",
        "silu",
        "zero",
        "float64",
        "x^" + "9" * 400,
        "\ud800",
        b"x",
        1j,
        [],
        {},
        (),
        [1],
        [[1]],
        {"a": 1},
    ),
    *([10**9, 10**9], [2, [10**9, 0], 1], [[], [10**9]], {1: 2}, torch.float64, torch.Size([2])),
]


def damaged_bytes(content: bytes, chance: random.Random) -> bytes:
    """Some bits flipped, the end cut off, parts exchanged, doubled or overwritten."""
    changed = bytearray(content)
    kind = chance.randrange(5)
    if kind == 0:
        for _ in range(chance.choice([1, 1, 2, 20])):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        return bytes(changed)
    if kind == 1:
        return content[: chance.randrange(len(content))]
    start, end = sorted(chance.randrange(len(content)) for _ in range(2))
    if kind == 2:
        return content[:start] + content[end:]
    if kind == 3:
        return content[:end] + content[start:]
    changed[start : min(end, start + 50)] = bytes(chance.randrange(256) for _ in range(min(end - start, 50)))
    return bytes(changed)


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in the data, with the key or index of something in it."""
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in entries:
        yield data, key
        yield from places(value)


def as_lists(data: Any) -> Any:
    """The same with lists in place of tuples, and copies of tensors: something that can be changed in place."""
    if isinstance(data, dict):
        return type(data)({key: as_lists(value) for key, value in data.items()})
    if isinstance(data, list | tuple):
        return [as_lists(value) for value in data]
    return data.clone() if isinstance(data, Tensor) else data


def damaged_tensor(tensor: Tensor, chance: random.Random) -> Tensor:
    """Of another shape, dtype, layout or device, or with other numbers."""
    if tensor.layout != torch.strided or tensor.is_meta:  # damaged before
        return torch.zeros(0)
    choices: list[Callable[[], Tensor]] = [
        lambda: tensor[..., :-1].contiguous() if tensor.dim() else tensor.new_zeros(1),
        lambda: torch.cat([tensor.reshape(1, *tensor.shape)] * 2),
        lambda: tensor.flip(0).contiguous(),
        lambda: tensor.to(torch.float64 if tensor.dtype != torch.float64 else torch.float32),
        lambda: tensor.to(torch.int64) if tensor.is_floating_point() else tensor + 10**6,
        lambda: tensor.new_zeros(1).expand(10**6, 10**6),
        lambda: tensor.new_zeros(()).expand(tensor.shape),
        lambda: torch.empty(tensor.shape, device="meta"),
        lambda: torch.zeros(0),
        lambda: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else torch.full_like(tensor, 255),
        lambda: torch.sparse_coo_tensor(size=tuple(tensor.shape), check_invariants=True),
        lambda: tensor.mT if tensor.dim() > 1 else tensor,
        lambda: torch.zeros_like(tensor),
        lambda: -tensor if tensor.is_floating_point() else tensor,
    ]
    if tensor.numel():
        index = tuple(chance.randrange(n) for n in tensor.shape)
        value = chance.choice([float("nan"), float("inf"), 1e30, -1.0, 0.0]) if tensor.is_floating_point() else 200

        def one_number() -> Tensor:
            changed = tensor.clone()
            changed[index] = value if changed.dtype != torch.bool else not changed[index]
            return changed

        choices += [one_number] * 4
    return chance.choice(choices)()


def damaged_data(data: Any, chance: random.Random) -> Any:
    """One to three values replaced, removed, added, doubled or exchanged."""
    data = as_lists(data)
    for _ in range(chance.choice([1, 1, 2, 3])):
        found = list(places(data))
        if not found:
            return chance.choice(VALUES)
        container, key = chance.choice(found)
        kind = chance.randrange(7)
        if kind == 0 and isinstance(container, dict):
            del container[key]
        elif kind == 0:
            container.insert(key, container[key])
        elif kind == 1:
            other, there = chance.choice(found)
            container[key] = copy.deepcopy(other[there])
        elif kind == 2 and isinstance(container, dict):
            container[chance.choice(["a", "step", 0, 99, None, "layers.0.mask", "layers.9.bias"])] = chance.choice(
                VALUES
            )
        elif isinstance(container[key], Tensor) and kind < 6:
            container[key] = damaged_tensor(container[key], chance)
        elif type(container[key]) in (int, float) and kind < 5:
            container[key] += chance.choice([1, -1, 1000, 10**10])
        else:
            container[key] = chance.choice(VALUES)
    return data
