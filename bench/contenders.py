"""Who competes in a case, and what is measured of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench import peers
from bench.cases import EQUAL_MLP, EQUAL_PARAMETERS, FORWARD, LINEAR, MLP, STEP, TRAINING, UNIFORM, Case
from bench.gate import Gate
from bench.peers import Peer
from kan_fast import KAN, KANLinear


class WrongResult(Exception):
    """A kernel's numbers are wrong, so its speed means nothing."""


class Contender(NamedTuple):
    """A module with its input, the upstream gradient of its output, and its error where it claims to be a KAN."""

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


def _training_step(contender: Contender) -> Callable[[], None]:
    """Forward, mean squared error, backward and a step of SGD of length 0, so that the checked numbers stay."""
    module, x, target = contender.module, contender.x.detach(), contender.g
    optimizer = torch.optim.SGD(peers.trained(module), lr=0.0)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.mse_loss(module(x), target).backward()
        optimizer.step()

    return step


MEASURES: dict[str, Callable[[Contender], Callable[[], Any]]] = {
    FORWARD: lambda contender: contender.forward,
    TRAINING: lambda contender: contender.train,
    STEP: _training_step,
}


def names(case: Case) -> list[str]:
    """All that may compete in a case, ours first; `build` tells which of them do."""
    return [case.ours, *_rivals(case), *peers.PEERS]


def build(case: Case, with_peers: bool) -> tuple[dict[str, Contender], dict[str, str]]:
    """The contenders of a case that pass the gate or are another function, and why others are left out.

    Raises:
        WrongResult: the gate did not let ours pass.
    """
    torch.manual_seed(0)
    module, layers = ours(case, case.adaptive)
    x, g = inputs(case.batch, case.widths[0], case.widths[-1], case.dtype)
    gate = Gate(layers, x, g)
    peer = peers.chain(module, [Peer(layer, lambda parameters: (parameters[0], parameters[1])) for layer in layers])
    if wrong := gate.complaint(results(peer, x, g)):
        raise WrongResult(f"{case.name}: {case.ours} is wrong: {wrong}")
    contenders, left_out = {case.ours: checked(peer, x, g, gate)}, {}
    for name, make in _rivals(case).items():
        module, sizes = make()
        contenders[name] = Contender(module, *inputs(case.batch, *sizes, case.dtype))
    for name, serve in peers.PEERS.items() if with_peers else ():
        try:
            contenders[name] = checked(peers.of_layers(serve, layers, case.batch), x, g, gate)
        except peers.Unsuitable as why:
            left_out[name] = str(why)
    return contenders, left_out


def _rivals(case: Case) -> dict[str, Callable[[], tuple[nn.Module, tuple[int, int]]]]:
    """What is compared with ours though it is another function: a module, and its numbers of inputs and outputs."""
    ends = case.widths[0], case.widths[-1]
    uniform = {UNIFORM: lambda: (ours(case, adaptive=False)[0], ends)} if case.adaptive else {}
    if len(case.widths) > 2:
        return uniform | {MLP: lambda: (mlp(case.widths, case.dtype), ends), EQUAL_MLP: lambda: (equal_mlp(case), ends)}
    scale = (case.grid_size + case.degree + 1) ** 0.5
    wide = round(ends[0] * scale), round(ends[1] * scale)
    linear = partial(nn.Linear, dtype=case.dtype)
    return uniform | {LINEAR: lambda: (linear(*ends), ends), EQUAL_PARAMETERS: lambda: (linear(*wide), wide)}


def ours(case: Case, adaptive: bool) -> tuple[nn.Module, list[KANLinear]]:
    """A KANLinear, or a KAN if there are hidden levels; and its layers.

    Curves are as large as the base function; an adaptive grid has spans from 0.2 to 1.8 of the uniform.
    """
    if len(case.widths) > 2:
        module: nn.Module = KAN(case.widths, case.grid_size, case.degree, dtype=case.dtype, extrapolation="zero")
        layers = list(module.layers)
    else:
        module = KANLinear(
            *case.widths, grid_size=case.grid_size, spline_order=case.degree, dtype=case.dtype, extrapolation="zero"
        )
        layers = [module]
    with torch.no_grad():
        for layer in layers:
            nn.init.normal_(layer.spline_weight, std=layer.in_features**-0.5)
            if adaptive:
                layer.grid -= 0.8 / torch.pi * torch.sin(torch.pi * layer.grid)
    return module, layers


def mlp(widths: tuple[int, ...], dtype: torch.dtype) -> nn.Sequential:
    """Linear layers with silu between them."""
    layers: list[nn.Module] = []
    for sizes in pairwise(widths):
        layers += [nn.Linear(*sizes, dtype=dtype), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def equal_mlp(case: Case) -> nn.Sequential:
    """The MLP whose hidden layers are just wide enough for as many parameters as the KAN of the case."""
    first, *hidden, last = case.widths
    wanted = sum(out * (n * (case.grid_size + case.degree + 1) + 1) for n, out in pairwise(case.widths))
    scales = (1 + s / 100 for s in range(10000))
    widths = ((first, *(round(scale * width) for width in hidden), last) for scale in scales)
    enough = (sizes for sizes in widths if sum(out * (n + 1) for n, out in pairwise(sizes)) >= wanted)
    return mlp(next(enough), case.dtype)


def inputs(batch: int, in_features: int, out_features: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x, uniform in the grid range, whose gradient is wanted, and the upstream gradient g."""
    x = (torch.rand(batch, in_features, dtype=dtype) * 2 - 1).requires_grad_()
    return x, torch.randn(batch, out_features, dtype=dtype)


def results(peer: Peer, x: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """(y, gx, gs, gb, gs, gb ...) of a peer that has coefficients."""
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
