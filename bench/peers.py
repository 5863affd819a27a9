"""Other KAN layers with the weights of a KANLinear: stand-ins in plain torch, and packages where they are installed.

A peer is exact if it computes the same function; the gate of the runner finds that out, no peer is trusted to be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kan_fast import KANLinear


class Unsuitable(Exception):
    """The peer can't serve the case; the message says why."""


class Peer(NamedTuple):
    """A module, and the coefficients that tensors like its parameters stand for; None if it has no B-splines.

    They are of the shapes (out, in, G + k) and (out, in) for a layer, and such a pair for each layer of several.
    """

    module: nn.Module
    coefficients: Callable[[Sequence[Tensor]], tuple[Tensor, ...]] | None


class CoxDeBoor(nn.Module):
    """All B-splines of all inputs by the Cox-de Boor recursion, then one product: the formula of efficient-kan.

    Args:
        layer: gives the parameters and the knots.
    """

    def __init__(self, layer: KANLinear) -> None:
        super().__init__()
        self.degree = layer.spline_order
        self.spline_weight = nn.Parameter(layer.spline_weight.detach().clone())  # (out, in, G + k)
        self.base_weight = nn.Parameter(layer.base_weight.detach().clone())  # (out, in)
        self.register_buffer("grid", layer.grid.clone())  # (in, G + 2k + 1)

    def basis(self, x: Tensor) -> Tensor:
        """`(batch, in)` to `(batch, in, G + k)`."""
        t, x = self.grid, x[..., None]
        rows = ((x >= t[:, :-1]) & (x < t[:, 1:])).to(x.dtype)
        for p in range(1, self.degree + 1):
            left = (x - t[:, : -p - 1]) / (t[:, p:-1] - t[:, : -p - 1])
            right = (t[:, p + 1 :] - x) / (t[:, p + 1 :] - t[:, 1:-p])
            rows = left * rows[..., :-1] + right * rows[..., 1:]
        return rows

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, in)` to `(batch, out)`."""
        return F.linear(F.silu(x), self.base_weight) + F.linear(self.basis(x).flatten(1), self.spline_weight.flatten(1))


class Gaussians(nn.Module):
    """Gaussian bumps of the normalised input instead of B-splines: the formula of FastKAN, a different function.

    Args:
        layer: gives the sizes; as many bumps as it has spline rows, from -2 to 2.
    """

    def __init__(self, layer: KANLinear) -> None:
        super().__init__()
        out_features, in_features, rows = layer.spline_weight.shape
        options = {"dtype": layer.spline_weight.dtype}
        self.norm = nn.LayerNorm(in_features, **options)
        self.spline = nn.Linear(in_features * rows, out_features, bias=False, **options)
        self.base = nn.Linear(in_features, out_features, **options)
        self.register_buffer("centres", torch.linspace(-2, 2, rows, **options))
        self.width = 4 / (rows - 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, in)` to `(batch, out)`."""
        bumps = torch.exp(-(((self.norm(x)[..., None] - self.centres) / self.width) ** 2))
        return self.spline(bumps.flatten(1)) + self.base(F.silu(x))


class FirstResult(nn.Module):
    """A module that returns (y, extras...) reduced to y."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """The first of the results."""
        return self.module(x)[0]


def cox_de_boor(layer: KANLinear, batch: int) -> Peer:
    """efficient-kan's formula, without its separate scale of each spline."""
    return Peer(CoxDeBoor(layer), lambda parameters: (parameters[0], parameters[1]))


def gaussians(layer: KANLinear, batch: int) -> Peer:
    """FastKAN's formula."""
    return Peer(Gaussians(layer), None)


def inkan(layer: KANLinear, batch: int) -> Peer:
    """`inkan.KANLayer`: splines of a uniform grid by a compiled formula, one product; uniform cubic splines only."""
    module = _uniform_cubic("inkan", layer)
    in_features, rows = layer.spline_weight.shape[1:]

    def coefficients(parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        spline, base = parameters[0].split([in_features * rows, in_features], dim=1)
        return spline.unflatten(1, (in_features, rows)), base

    return _loaded(Peer(module, coefficients), layer)


def flashkan(layer: KANLinear, batch: int) -> Peer:
    """`flashkan.KANLayer`: truncated powers, compiled; uniform cubic splines only."""
    return _loaded(Peer(_uniform_cubic("flashkan", layer), lambda parameters: (parameters[0], parameters[1])), layer)


def pykan(layer: KANLinear, batch: int) -> Peer:
    """`kan.KANLayer` of pykan: every edge of every sample is a number in memory, several times over."""
    if batch * layer.in_features * layer.out_features > 1 << 25:
        raise Unsuitable("needs more than 128 MB for each of its many (batch, in, out) intermediates")
    _version("pykan")
    module = import_module("kan.KANLayer").KANLayer(
        layer.in_features, layer.out_features, num=layer.grid_size, k=layer.spline_order, grid_range=layer.grid_range
    )
    module.to("cpu").type(layer.spline_weight.dtype)
    with torch.no_grad():
        module.scale_sp.fill_(1)
        module.grid.copy_(layer.grid)
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]

    def coefficients(parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        named = dict(zip(names, parameters, strict=True))
        return named["coef"].permute(1, 0, 2), named["scale_base"].t()

    return _loaded(Peer(FirstResult(module), coefficients), layer)


PEERS: dict[str, Callable[[KANLinear, int], Peer]] = {
    "Cox-de Boor + F.linear (efficient-kan)": cox_de_boor,
    "Gaussians (FastKAN)": gaussians,
    "inkan": inkan,
    "flashkan": flashkan,
    "pykan": pykan,
}


def of_layers(serve: Callable[[KANLinear, int], Peer], layers: Sequence[KANLinear], batch: int) -> Peer:
    """A peer that serves these layers, one after the other."""
    served = [serve(layer, batch) for layer in layers]
    return chain(served[0].module if len(served) == 1 else nn.Sequential(*(peer.module for peer in served)), served)


def chain(module: nn.Module, layers: Sequence[Peer]) -> Peer:
    """The module that consists of these layers, whose parameters it has in their order."""
    parts = [(peer.coefficients, len(trained(peer.module))) for peer in layers]

    def coefficients(parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
        rest, found = iter(parameters), []
        for of_layer, count in parts:
            found += of_layer(list(islice(rest, count)))
        return tuple(found)

    return Peer(module, None if any(of_layer is None for of_layer, _ in parts) else coefficients)


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise Unsuitable(f"not installed (pip install {package})") from None


def _uniform_cubic(package: str, layer: KANLinear) -> Any:
    _version(package)
    spacing = layer.grid.diff(dim=1)
    if layer.spline_order != 3 or not torch.allclose(spacing, spacing[:1, :1]):
        raise Unsuitable("has cubic splines on a uniform grid only")
    module = import_module(package).KANLayer(
        layer.in_features, layer.out_features, grid_size=layer.grid_size, grid_range=layer.grid_range
    )
    return module.to(layer.spline_weight.dtype)


def _loaded(peer: Peer, layer: KANLinear) -> Peer:
    assert peer.coefficients is not None and layer.base_weight is not None
    with torch.no_grad():
        spline, base = peer.coefficients(trained(peer.module))
        spline.copy_(layer.spline_weight)
        base.copy_(layer.base_weight)
    return peer
