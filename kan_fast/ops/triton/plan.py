"""Tiles of the edge kernels and parts of their sums, for a problem and a device."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

from kan_fast.ops import dense


class Tile(NamedTuple):
    """What one program computes at a time, of one input."""

    samples: int
    outputs: int


# By arithmetic: 16-bit and tf32 tensor cores, float32 and float64 units. The static gate compiles them without spills.
TILES = {"half": Tile(64, 64), "tf32": Tile(64, 64), "ieee": Tile(32, 32), "float64": Tile(32, 16)}
EXCEPTIONS = {("half", 8): Tile(32, 64), ("half", 12): Tile(32, 64)}  # by major compute capability: fewer registers


class Device(NamedTuple):
    """What the choices depend on: major compute capability (0 where it means nothing), and processors."""

    major: int
    processors: int


def choose_tile(dtype: torch.dtype, device: Device) -> Tile:
    units = dense.arithmetic(dtype)
    return EXCEPTIONS.get((units, device.major), TILES[units])


def choose_splits(programs: int, steps: int, processors: int, least: int = 4) -> int:
    """Parts of the sum, so that `programs` of them fill the chip twice; each part has at least `least` steps."""
    return max(1, min(2 * processors // max(1, programs), steps // least, 64))


@cache
def device(where: torch.device) -> Device:
    """The properties of a GPU; without one, as in the interpreter, a single processor."""
    if where.type != "cuda":
        return Device(0, 1)
    properties = torch.cuda.get_device_properties(where)
    return Device(0 if torch.version.hip else properties.major, properties.multi_processor_count)
