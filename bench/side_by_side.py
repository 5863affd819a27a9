"""The side-by-side runner: build the contenders of a case, check their numbers, then let them race in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench import peers, timing
from bench.cases import EQUAL_PARAMETERS, FASTEST_PEER, FORWARD, LINEAR, TRAINING, UNIFORM, Case
from bench.gate import Gate
from bench.peers import Peer
from kan_fast import KANLinear

OURS = "KANLinear"


class WrongResult(Exception):
    """A kernel's numbers are wrong, so its speed means nothing."""


class Contender(NamedTuple):
    """A module with its input, the upstream gradient of its output, and its error where it claims to be a KAN layer."""

    module: nn.Module
    x: Tensor
    g: Tensor
    error: float | None = None
    exact: bool = False

    def forward(self) -> Tensor:
        """Inference."""
        with torch.no_grad():
            return self.module(self.x)

    def train(self) -> tuple[Tensor, ...]:
        """Forward and backward: the gradients of the input and of every parameter."""
        return torch.autograd.grad(self.module(self.x), (self.x, *peers.trained(self.module)), self.g)


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
        WrongResult: the gate did not let KANLinear pass.
    """
    torch.manual_seed(0)
    contenders, left_out = build(case, with_peers)
    errors = {name: c.error for name, c in contenders.items() if c.error is not None}
    result: dict[str, Any] = {"case": describe(case), "errors": errors, "left_out": left_out, "times": {}}
    seconds = {}
    for measure, method in ((FORWARD, Contender.forward), (TRAINING, Contender.train)):
        calls = {name: method.__get__(contender) for name, contender in contenders.items()}
        seconds[measure] = timing.interleaved(calls, rounds, clock)
        result["times"][measure] = {
            name: timing.Spread.of(values)._asdict() for name, values in seconds[measure].items()
        }
    result["ratios"] = {
        measure: {name: ratio(times[OURS], values) for name, values in times.items() if name != OURS}
        for measure, times in seconds.items()
    }
    result["claims"] = claims(case, contenders, seconds)
    return result


def build(case: Case, with_peers: bool) -> tuple[dict[str, Contender], dict[str, str]]:
    """The contenders of a case that pass the gate or are another function, and why others are left out."""
    layer = kan_layer(case, adaptive=case.adaptive)
    x, g = inputs(case.batch, case.in_features, case.out_features, case.dtype)
    gate = Gate(layer, x, g)
    peer = Peer(layer, lambda parameters: (parameters[0], parameters[1]))
    if wrong := gate.complaint(results(peer, x, g)):
        raise WrongResult(f"{case.name}: KANLinear is wrong: {wrong}")
    contenders, left_out = {OURS: checked(peer, x, g, gate)}, {}
    if case.adaptive:
        contenders[UNIFORM] = Contender(kan_layer(case, adaptive=False), x, g)

    scale = (case.grid_size + case.degree + 1) ** 0.5
    wide = round(case.in_features * scale), round(case.out_features * scale)
    for name, sizes in ((LINEAR, (case.in_features, case.out_features)), (EQUAL_PARAMETERS, wide)):
        contenders[name] = Contender(nn.Linear(*sizes, dtype=case.dtype), *inputs(case.batch, *sizes, case.dtype))
    for name, make in peers.PEERS.items() if with_peers else ():
        try:
            contenders[name] = checked(make(layer, case.batch), x, g, gate)
        except peers.Unsuitable as why:
            left_out[name] = str(why)
    return contenders, left_out


def kan_layer(case: Case, adaptive: bool) -> KANLinear:
    """A layer with curves as large as the base function; an adaptive grid has spans from 0.2 to 1.8 of the uniform."""
    layer = KANLinear(
        case.in_features, case.out_features, grid_size=case.grid_size, spline_order=case.degree, dtype=case.dtype
    )
    with torch.no_grad():
        nn.init.normal_(layer.spline_weight, std=case.in_features**-0.5)
        if adaptive:
            layer.grid -= 0.8 / torch.pi * torch.sin(torch.pi * layer.grid)
    return layer


def inputs(batch: int, in_features: int, out_features: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x, uniform in the grid range, whose gradient is wanted, and the upstream gradient g."""
    x = (torch.rand(batch, in_features, dtype=dtype) * 2 - 1).requires_grad_()
    return x, torch.randn(batch, out_features, dtype=dtype)


def results(peer: Peer, x: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """(y, gx, gs, gb) of a peer that has coefficients."""
    assert peer.coefficients is not None
    contender = Contender(peer.module, x, g)
    gx, *gradients = contender.train()
    return contender.forward(), gx, *peer.coefficients(gradients)


def checked(peer: Peer, x: Tensor, g: Tensor, gate: Gate) -> Contender:
    """A contender with its error; one without coefficients is another function and has none."""
    contender = Contender(peer.module, x, g)
    if peer.coefficients is None:
        return contender
    error = gate.error(results(peer, x, g))
    return contender._replace(error=error, exact=error <= gate.exact)


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
            exact = [name for name, c in contenders.items() if c.exact and name != OURS]
            if not exact:
                continue
            against = min(exact, key=lambda name: timing.Spread.of(times[name]).median)
        values = {"measure": bar.measure, "against": bar.against, "contender": against}
        found.append({**values, **ratio(times[OURS], times[against]), "bar": bar.bar, "aim": bar.aim})
    return found


def describe(case: Case) -> dict[str, Any]:
    """The case without its bars, for JSON."""
    fields = {name: value for name, value in case._asdict().items() if name != "bars"}
    return {**fields, "dtype": str(case.dtype).removeprefix("torch.")}
