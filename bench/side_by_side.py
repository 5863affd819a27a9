"""The side-by-side runner: let the contenders of a case race in turns, and compare their times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from bench import timing
from bench.cases import FASTEST_PEER, Case
from bench.contenders import MEASURES, Contender, build


def race(case: Case, rounds: int, with_peers: bool = True, clock: Callable[[], float] = time.perf_counter) -> dict:
    """Time everything that competes in a case.

    Args:
        case: what to run.
        rounds: how often each contender takes its turn; at least 2.
        with_peers: whether other KAN layers take part.
        clock: seconds.

    Returns:
        A dictionary for JSON: "times" by measure and contender, "errors", "left_out" and the "claims" of the case.

    Raises:
        WrongResult: the gate did not let ours pass.
    """
    contenders, left_out = build(case, with_peers)
    seconds = {
        measure: timing.interleaved({name: prepare(c) for name, c in contenders.items()}, rounds, clock)
        for measure, prepare in MEASURES.items()
    }
    return {
        "case": describe(case),
        "ours": case.ours,
        "errors": {name: c.error for name, c in contenders.items() if c.error is not None},
        "left_out": left_out,
        "times": {
            measure: {name: timing.Spread.of(values)._asdict() for name, values in times.items()}
            for measure, times in seconds.items()
        },
        "ratios": {
            measure: {name: ratio(times[case.ours], values) for name, values in times.items() if name != case.ours}
            for measure, times in seconds.items()
        },
        "claims": claims(case, contenders, seconds),
    }


def ratio(ours: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Ours over the other's, round by round; and of the fastest of all rounds, which a busy machine disturbs less."""
    spread = timing.Spread.of([a / b for a, b in zip(ours, others, strict=True)])
    return {"lower": spread.lower, "median": spread.median, "upper": spread.upper, "of_minima": min(ours) / min(others)}


def claims(case: Case, contenders: dict[str, Contender], seconds: dict[str, dict[str, list[float]]]) -> list[dict]:
    """Each bar of the case with the measured ratio."""
    found = []
    for bar in case.bars:
        times = seconds[bar.measure]
        against = bar.against
        if against == FASTEST_PEER:
            exact = [name for name, c in contenders.items() if c.exact and name != case.ours]
            if not exact:
                continue
            against = min(exact, key=lambda name: timing.Spread.of(times[name]).median)
        values = {"measure": bar.measure, "against": bar.against, "contender": against}
        found.append({**values, **ratio(times[case.ours], times[against]), "bar": bar.bar, "aim": bar.aim})
    return found


def describe(case: Case) -> dict[str, Any]:
    """The case without its bars, for JSON."""
    fields = {name: value for name, value in case._asdict().items() if name != "bars"}
    return {**fields, "dtype": str(case.dtype).removeprefix("torch.")}
