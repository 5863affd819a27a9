"""Tiles and splits for a problem and a device, by a small cost model; argued in docs/gpu.md."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch


class Tile(NamedTuple):
    """What one program computes: a BM x BN tile of the result, BK numbers of the sum at a time."""

    m: int
    n: int
    k: int
    warps: int
    stages: int
    registers: int | None = None  # at most so many per thread; None: as the compiler thinks best


# Per kernel, by arithmetic: 16-bit and tf32 tensor cores, float32 and float64 units. The first entry fills large
# problems, the others waste less on small ones. Every entry is compiled by the static gate, without spills.
TILES: dict[str, dict[str, tuple[Tile, ...]]] = {
    "forward": {
        "half": (Tile(128, 128, 64, 8, 2), Tile(64, 64, 32, 4, 2)),
        "tf32": (Tile(128, 128, 32, 8, 2), Tile(64, 64, 16, 4, 2)),
        "ieee": (Tile(64, 64, 16, 4, 1),),
        "float64": (Tile(32, 64, 16, 4, 1),),
    },
    "forward_split": {  # 16-bit numbers alone: twice the registers for a tile of the basis
        "half": (Tile(64, 64, 32, 4, 2),),
    },
    "grad_input": {
        "half": (Tile(128, 128, 64, 8, 3), Tile(64, 64, 64, 4, 2)),
        "tf32": (Tile(128, 128, 32, 8, 2), Tile(64, 64, 32, 4, 2)),
        "ieee": (Tile(64, 64, 16, 4, 1),),
        "float64": (Tile(32, 64, 16, 4, 1),),
    },
    "grad_coef": {
        "half": (Tile(128, 128, 64, 8, 2), Tile(64, 64, 32, 4, 2)),
        "tf32": (Tile(128, 128, 32, 8, 2), Tile(64, 64, 32, 4, 2)),
        "ieee": (Tile(64, 64, 16, 4, 1),),
        "float64": (Tile(32, 64, 16, 4, 1),),
    },
    "edge_magnitude": {
        "half": (Tile(64, 64, 0, 4, 1),),
        "tf32": (Tile(64, 64, 0, 4, 1),),
        "ieee": (Tile(32, 32, 0, 4, 1),),
        "float64": (Tile(32, 16, 0, 4, 1),),
    },
}
TILES["grad_base"] = TILES["grad_coef"]
TILES["edge_grad_input"] = TILES["edge_magnitude"]

# Other tables where a chip has room for more, or for less: by kernel, arithmetic and compute capability.
EXCEPTIONS: dict[tuple[str, str, int], tuple[Tile, ...]] = {
    ("forward", "half", 90): (Tile(128, 256, 64, 8, 2), *TILES["forward"]["half"]),
    ("forward", "half", 100): (Tile(128, 256, 64, 8, 2), *TILES["forward"]["half"]),
    ("forward", "half", 120): (Tile(128, 64, 64, 8, 2), Tile(64, 64, 32, 4, 2, registers=168)),
    ("grad_input", "half", 100): (Tile(128, 64, 64, 8, 3), Tile(64, 64, 64, 4, 2)),
    ("grad_input", "tf32", 100): (Tile(128, 64, 32, 8, 2), Tile(64, 64, 32, 4, 2)),
    ("grad_coef", "half", 100): (Tile(256, 128, 64, 8, 2), *TILES["grad_coef"]["half"]),
    ("edge_magnitude", "half", 120): (Tile(32, 64, 0, 4, 1),),
}


class Device(NamedTuple):
    """What the choices depend on: compute capability, 90 for 9.0 (0 where it means nothing), and processors."""

    capability: int
    processors: int


def arithmetic(dtype: torch.dtype) -> str:
    """The units that serve a dtype: TF32 only where torch is allowed to use it."""
    if dtype.itemsize == 2:
        return "half"
    if dtype == torch.float64:
        return "float64"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def choose_tile(kernel: str, units: str, m: int, n: int, capability: int = 0) -> Tile:
    """The largest tile that the result fills at least half way in both directions, else the smallest."""
    tiles = EXCEPTIONS.get((kernel, units, capability), TILES[kernel][units])
    return next((tile for tile in tiles if 2 * m > tile.m and 2 * n > tile.n), tiles[-1])


def choose_splits(programs: int, steps: int, processors: int, least: int = 4) -> int:
    """Parts of the sum, so that `programs` of them fill the chip twice; each part has at least `least` steps."""
    return max(1, min(2 * processors // max(1, programs), steps // least, 64))


@cache
def device(where: torch.device) -> Device:
    """The properties of a GPU; without one, as in the interpreter, a single processor."""
    if where.type != "cuda":
        return Device(0, 1)
    properties = torch.cuda.get_device_properties(where)
    capability = 0 if torch.version.hip else 10 * properties.major + properties.minor
    return Device(capability, properties.multi_processor_count)
