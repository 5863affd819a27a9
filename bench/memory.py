"""Peak memory of a training step, each contender in a process of its own.

The figure is the largest resident set during the step less the resident set before anything of the case existed:
inputs, parameters, outputs, everything kept for backward, workspaces and gradients. The operating
system keeps the peak (VmHWM), so nothing that is freed again escapes, as it would from sampling, and it counts memory
that is not torch's, as torch's profiler would not. (ru_maxrss would do, but it starts from the parent's.) Linux only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from bench import peers
from bench.cases import LINEAR, MEMORY, Case
from bench.contenders import inputs
from bench.side_by_side import describe
from kan_fast import KANLinear

Build = Callable[[int, int], nn.Module]

CONTENDERS: dict[str, Build] = {
    MEMORY.ours: KANLinear,
    LINEAR: nn.Linear,
    "Cox-de Boor + F.linear (efficient-kan)": lambda *sizes: peers.CoxDeBoor(KANLinear(*sizes)),
    "Gaussians (FastKAN)": lambda *sizes: peers.Gaussians(KANLinear(*sizes)),
}


def available() -> bool:
    """Whether this system tells the peak of the resident set."""
    return Path("/proc/self/status").exists()


def race(case: Case) -> dict:
    """Peaks in bytes of all contenders, and the claims of the case."""
    sizes = (case.batch, *case.widths)
    peaks = {name: _in_a_process(name, *sizes) for name in CONTENDERS}
    found = [
        {
            "measure": bar.measure,
            "against": bar.against,
            "contender": bar.against,
            "median": peaks[case.ours] / peaks[bar.against],
            "bar": bar.bar,
            "aim": bar.aim,
        }
        for bar in case.bars
    ]
    return {"case": describe(case), "ours": case.ours, "peak_bytes": peaks, "claims": found}


def _in_a_process(name: str, *sizes: int) -> int:
    command = [sys.executable, "-m", "bench.memory", name, *map(str, sizes)]
    return int(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def peak_of_step(build: Build, batch: int, in_features: int, out_features: int) -> int:
    """Bytes that one training step adds to the resident set at its peak."""
    _step(build(8, 8), *inputs(64, 8, 8, torch.float32))  # loads libraries and starts threads
    before = _resident("VmRSS")
    _step(build(in_features, out_features), *inputs(batch, in_features, out_features, torch.float32))
    return _resident("VmHWM") - before


def _step(module: nn.Module, x: Tensor, g: Tensor) -> None:
    module(x).backward(g)


def _resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    name, *sizes = sys.argv[1:]
    print(json.dumps(peak_of_step(CONTENDERS[name], *map(int, sizes))))
