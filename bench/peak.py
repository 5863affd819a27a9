"""Measured limits of one core, and how near the kernels and torch's matrix product come: `python -m bench.peak`."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.cases import Case
from bench.contenders import inputs, ours
from kan_fast.ops import native
from kan_fast.ops.reference import Spec


class Peaks(NamedTuple):
    """Multiply-adds and bytes per second of one core."""

    f32: float
    f64: float
    l1: float
    l2: float
    memory: float


def measure() -> Peaks:
    """Compile the probe with the C++ compiler of this machine (`CXX`, else c++) and run it."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peak.so"
        compiler = os.environ.get("CXX", "c++")
        options = ["-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-o", str(library)]
        subprocess.run([compiler, *options, str(Path(__file__).with_name("peak.cpp"))], check=True)
        probe = ctypes.CDLL(str(library))
        for name in ("peak_f32", "peak_f64", "peak_loads"):
            getattr(probe, name).restype = ctypes.c_double
        data = torch.zeros(1 << 28, dtype=torch.uint8)
        start = data.data_ptr() + (-data.data_ptr()) % 64

        def loads(size: int) -> float:
            return probe.peak_loads(ctypes.c_void_p(start), ctypes.c_int64(size))

        return Peaks(probe.peak_f32(), probe.peak_f64(), loads(1 << 14), loads(1 << 19), loads(1 << 27))


def rates(case: Case) -> dict[str, float]:
    """Useful multiply-adds per second of processor time on one thread, for the parts of a case and for torch.mm.

    Useful are k + 2 for each edge and sample (k + 1 splines and the base function), k + 1 for the input gradient (see
    docs/cpu_kernels.md), and 1 for each of a matrix product.
    """
    (layer,) = ours(case, case.adaptive)[1]
    x, g = (t.detach() for t in inputs(case.batch, *case.widths, case.dtype))
    spline, base, grid = layer.spline_weight.detach(), layer.base_weight.detach(), layer.grid
    spec, weight = Spec(case.degree), base.t().contiguous()
    edges = case.batch * layer.in_features * layer.out_features
    work, slopes = edges * (case.degree + 2), edges * (case.degree + 1)
    calls: dict[str, tuple[int, Callable[[], Any]]] = {
        "torch.mm": (edges, lambda: x @ weight),
        "forward": (work, lambda: native.forward(x, None, spline, base, None, grid, 0, spec)),
        "grad_input": (slopes, lambda: native.grad_input(x, g, spline, base, grid, 1, spec)),
        "grad_coef": (work, lambda: native.grad_coef(x, None, g, grid, 0, spec)),
        "backward": (work + slopes, lambda: native.backward(x, None, g, spline, base, grid, 0, spec)),
    }
    return {name: work / _fastest(call) for name, (work, call) in calls.items()}


def _fastest(call: Callable[[], Any], trials: int = 30) -> float:
    call()
    best = float("inf")
    for _ in range(trials):
        begin = time.thread_time()
        call()
        best = min(best, time.thread_time() - begin)
    return best


def main() -> None:
    """Print the peaks, then the rates as fractions of them."""
    torch.set_num_threads(1)
    peaks = measure()
    print(f"one core: {peaks.f32 / 1e9:.0f} and {peaks.f64 / 1e9:.0f} G multiply-adds/s in float32 and float64;")
    print(f"loads: L1 {peaks.l1 / 1e9:.0f}, L2 {peaks.l2 / 1e9:.0f}, memory {peaks.memory / 1e9:.0f} GB/s")
    for case in (
        Case("1024x256x256", 1024, (256, 256)),
        Case("1024x256x256 G=20", 1024, (256, 256), grid_size=20),
        Case("256x1024x1024", 256, (1024, 1024)),
        Case("1024x256x256 float64", 1024, (256, 256), dtype=torch.float64),
    ):
        peak = peaks.f32 if case.dtype == torch.float32 else peaks.f64
        parts = (f"{name} {rate / 1e9:.0f} G/s ({rate / peak:.0%})" for name, rate in rates(case).items())
        print(f"{case.name}: {', '.join(parts)}")


if __name__ == "__main__":
    main()
