"""The operators of this package in terms of aten, for exported programs."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from kan_fast._support import torch_internals
from kan_fast.ops import operators, reference
from kan_fast.ops.reference import Spec


def decompositions() -> dict[torch_internals.Operator, Callable[..., Tensor]]:
    """For `torch.export.export(model, ...).run_decompositions(...)`: leaves aten operators only.

    A program that is exported this way can be loaded without this package.
    """
    return {operators.forward: _forward, operators.grad_input: _grad_input}


def _forward(
    x: Tensor,
    v: Tensor | None,
    spline_weight: Tensor | None,
    base_weight: Tensor | None,
    bias: Tensor | None,
    grid: Tensor,
    order: int,
    degree: int,
    base: str,
    extrapolation: str,
    backend: str,
) -> Tensor:
    spec = Spec(degree, base, extrapolation)
    return reference.forward(x, v, spline_weight, base_weight, bias, grid, order, spec)


def _grad_input(
    x: Tensor,
    g: Tensor,
    spline_weight: Tensor | None,
    base_weight: Tensor | None,
    grid: Tensor,
    order: int,
    degree: int,
    base: str,
    extrapolation: str,
    backend: str,
) -> Tensor:
    return reference.grad_input(x, g, spline_weight, base_weight, grid, order, Spec(degree, base, extrapolation))
