"""Tiles of the edge kernels and parts of their sums, for a problem and a device."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

from kan_fast.ops import dense, tuning


class Tile(NamedTuple):
    """What one program computes at a time, of one input."""

    samples: int
    outputs: int


class Device(NamedTuple):
    """What the choices depend on: major compute capability (0 where it means nothing), and processors."""

    major: int
    processors: int


def choose_tile(dtype: torch.dtype, device: Device) -> Tile:
    units = dense.arithmetic(dtype)
    return Tile(*tuning.FEWER_REGISTERS.get((units, device.major), tuning.TILES[units]))


def choose_splits(programs: int, steps: int, processors: int, least: int = 4) -> int:
    """Into how many parts the sum over the batch is cut, so that the programs fill the chip twice.

    Each part has at least `least` steps.
    """
    return max(1, min(2 * processors // max(1, programs), steps // least, 64))


@cache
def device(where: torch.device) -> Device:
    """The properties of a GPU; without one, as in the interpreter, a single processor."""
    if where.type != "cuda":
        return Device(0, 1)
    properties = torch.cuda.get_device_properties(where)
    return Device(0 if torch.version.hip else properties.major, properties.multi_processor_count)
