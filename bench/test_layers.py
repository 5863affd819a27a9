"""pytest-benchmark: one KANLinear against nn.Linear of the same size and of as many parameters.

    pytest bench --benchmark-autosave
    pytest-benchmark compare --group-by=group

One group for each shape and measure. For claims take the side-by-side runner, whose ratios survive a busy machine.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from bench.cases import CASES, EQUAL_PARAMETERS, LINEAR, Case
from bench.side_by_side import OURS, Contender, build

LAYERS = (OURS, LINEAR, EQUAL_PARAMETERS)
MEASURES: dict[str, Callable[[Contender], Callable]] = {
    "inference": lambda contender: contender.forward,
    "forward": lambda contender: lambda: contender.module(contender.x),
    "forward and backward": lambda contender: contender.train,
}


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def race(request: pytest.FixtureRequest) -> tuple[Case, dict[str, Contender]]:
    """A case and its contenders; the gate has let KANLinear pass."""
    torch.manual_seed(0)
    return request.param, build(request.param, with_peers=False)[0]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("measure", MEASURES)
def test_layer(benchmark, race, measure, name):
    case, contenders = race
    benchmark.group = f"{case.name}: {measure}"
    benchmark(MEASURES[measure](contenders[name]))


@pytest.mark.parametrize("name", LAYERS)
def test_layer_training_step(benchmark, race, name):
    case, contenders = race
    benchmark.group = f"{case.name}: training step"
    benchmark(training_step(contenders[name].module, contenders[name].x.detach(), contenders[name].g))


def training_step(module: nn.Module, x: torch.Tensor, target: torch.Tensor) -> Callable[[], None]:
    """Forward, mean squared error, backward and a step of SGD."""
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.mse_loss(module(x), target).backward()
        optimizer.step()

    return step
