"""pytest-benchmark: whole KANs against MLPs of the same widths and of as many parameters."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from bench.test_layers import training_step
from kan_fast import KAN

SHAPES = {
    "1000x[2,5,1]": (1000, (2, 5, 1)),
    "256x[64,64,10]": (256, (64, 64, 10)),
    "256x[784,64,10]": (256, (784, 64, 10)),
    "1024x[256,256,256,256]": (1024, (256, 256, 256, 256)),
}


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with silu between them."""
    layers: list[nn.Module] = []
    for sizes in pairwise(widths):
        layers += [nn.Linear(*sizes), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def parameters(module: nn.Module) -> int:
    """Number of trained numbers."""
    return sum(p.numel() for p in module.parameters())


def equal_mlp(*widths: int) -> nn.Sequential:
    """The MLP whose hidden layers are wide enough for as many parameters as a KAN of these widths."""
    wanted = parameters(KAN(list(widths)))
    scales = (1 + s / 100 for s in range(10000))
    networks = (mlp(widths[0], *(round(s * w) for w in widths[1:-1]), widths[-1]) for s in scales)
    return next(network for network in networks if parameters(network) >= wanted)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "KAN": lambda *widths: KAN(list(widths)),
    "MLP": mlp,
    "MLP, equal parameters": equal_mlp,
}


@pytest.fixture(scope="module", params=SHAPES)
def shape(request: pytest.FixtureRequest) -> tuple[str, Tensor, tuple[int, ...]]:
    """Name, inputs and widths."""
    torch.manual_seed(0)
    batch, widths = SHAPES[request.param]
    return request.param, torch.rand(batch, widths[0]) * 2 - 1, widths


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest, shape) -> nn.Module:
    """One of the networks with the widths of the shape."""
    return NETWORKS[request.param](*shape[2])


def test_inference(benchmark, shape, network):
    benchmark.group = f"{shape[0]}: inference"
    with torch.no_grad():
        benchmark(network, shape[1])


def test_forward_and_backward(benchmark, shape, network):
    name, x, widths = shape
    benchmark.group = f"{name}: forward and backward"
    x, g = x.clone().requires_grad_(), torch.randn(len(x), widths[-1])
    benchmark(lambda: torch.autograd.grad(network(x), (x, *network.parameters()), g))


def test_training_step(benchmark, shape, network):
    name, x, widths = shape
    benchmark.group = f"{name}: training step"
    benchmark(training_step(network, x, torch.randn(len(x), widths[-1])))
