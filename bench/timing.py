"""Interleaved timing: all contenders take turns, so that what slows the machine slows them all."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

import kan_fast

SAMPLE_SECONDS = 5e-3  # shorter calls are repeated up to this time within one sample


class Spread(NamedTuple):
    """Minimum, quartiles and median of some numbers."""

    minimum: float
    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Summarise at least two values."""
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(min(values), lower, median, upper)


def interleaved(
    calls: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds per call, one number for each round; in every round each contender runs once, in rotating order."""
    repeats = {name: _repeats(call, clock) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                call, count = calls[name], repeats[name]
                call()  # brings its own data and code back into the caches
                begin = clock()
                for _ in range(count):
                    call()
                seconds[name].append((clock() - begin) / count)
    finally:
        if collecting:
            gc.enable()
    return seconds


def _repeats(call: Callable[[], Any], clock: Callable[[], float]) -> int:
    """Warm up, compile, and find how many calls fill a sample."""
    call()
    fastest = float("inf")
    for _ in range(3):
        begin = clock()
        call()
        fastest = min(fastest, clock() - begin)
    return max(1, round(SAMPLE_SECONDS / max(fastest, 1e-7)))


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "backend": str(kan_fast.backends()["cpu"]),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
    except OSError:
        return platform.processor() or platform.machine()
    named = {name.strip(): value.strip() for name, value in fields.items()}
    return f"{named.get('model name', platform.machine())}, family {named.get('cpu family')} model {named.get('model')}"
