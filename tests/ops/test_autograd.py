"""Derivatives through the Functions: gradcheck, second and third order, opcheck, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

from kan_fast import KANLinear, functional
from kan_fast.ops import dispatch, reference, tuning
from tests.helpers.problems import make_problem

BACKENDS = [name for name, status in dispatch.backends().items() if status.available]


def layer_and_tensors(backend: str, **options: object) -> tuple[Callable[..., Tensor], list[Tensor]]:
    p = make_problem(5, 3, 4, grid_size=3, dtype=torch.float64, **options)
    tensors = [(p.x + 0.01).requires_grad_(), p.spline_weight.requires_grad_(), p.base_weight.requires_grad_()]

    def layer(x: Tensor, spline_weight: Tensor, base_weight: Tensor, bias: Tensor = p.bias) -> Tensor:
        return functional.kan_linear(
            x,
            spline_weight,
            base_weight,
            p.grid,
            bias,
            spline_order=p.spec.degree,
            base=p.spec.base,
            extrapolation=p.spec.extrapolation,
            backend=backend,
        )

    return layer, [*tensors, p.bias.requires_grad_()]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
@pytest.mark.parametrize("base", ["silu", "identity", "zero"])
@pytest.mark.parametrize("degree", [1, 3])
def test_first_and_second_derivatives(backend: str, base: str, extrapolation: str, degree: int) -> None:
    layer, tensors = layer_and_tensors(backend, base=base, extrapolation=extrapolation, degree=degree, adaptive=True)
    if base == "zero":
        layer, tensors = (lambda x, s, b, f=layer: f(x, s, None, b)), [tensors[0], tensors[1], tensors[3]]
    assert gradcheck(layer, tensors)
    assert gradgradcheck(layer, tensors)


@pytest.mark.parametrize("backend", BACKENDS)
def test_third_derivative_in_x(backend: str) -> None:
    layer, (x, *weights) = layer_and_tensors(backend)
    mine, plain = (f(x, *weights).sum() for f in (layer, layer_and_tensors("reference")[0]))
    p = make_problem(5, 3, 4, grid_size=3, dtype=torch.float64)
    for _ in range(3):
        (mine,) = torch.autograd.grad(mine.sum(), x, create_graph=True)
    plain = reference.grad_input(x, torch.ones_like(p.g), p.c, p.rows(3))
    torch.testing.assert_close(mine, plain)
    gs = torch.autograd.grad(mine.sum(), weights[0])[0]
    expected = reference.grad_coef(x, None, torch.ones_like(p.g), p.rows(3))[0]
    torch.testing.assert_close(gs, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_gradients_asked_for(backend: str) -> None:
    layer, tensors = layer_and_tensors(backend)
    full = torch.autograd.grad(layer(*tensors).square().sum(), tensors)
    for i, tensor in enumerate(tensors):
        alone = [t.detach().requires_grad_(j == i) for j, t in enumerate(tensors)]
        (gradient,) = torch.autograd.grad(layer(*alone).square().sum(), alone[i])
        torch.testing.assert_close(gradient, full[i])
        assert gradient.shape == tensor.shape


@pytest.mark.parametrize("backend", BACKENDS)
def test_edge_magnitude(backend: str) -> None:
    p = make_problem(9, 3, 4, dtype=torch.float64)
    tensors = [(p.x + 0.01).requires_grad_(), p.spline_weight.requires_grad_(), p.base_weight.requires_grad_()]

    def magnitude(x: Tensor, spline_weight: Tensor, base_weight: Tensor) -> Tensor:
        return functional.edge_magnitude(x, spline_weight, base_weight, p.grid, spline_order=3, backend=backend)

    assert gradcheck(magnitude, tensors)
    (gx,) = torch.autograd.grad(magnitude(*tensors).sum(), tensors[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(gx.sum(), tensors[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_that_nobody_asked_for_are_not_computed(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = KANLinear(3, 2, backend=backend), torch.rand(tuning.SMALL // 6 + 1, 3, requires_grad=True)
    monkeypatch.delattr(dispatch.module(backend), "grad_coef")
    (slope,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    torch.autograd.grad(slope.sum(), x, retain_graph=True)
    monkeypatch.undo()
    gradients = torch.autograd.grad(slope.sum(), [x, *layer.parameters()], allow_unused=True)
    assert [g is not None for g in gradients] == [True, True, True, False]  # the slope does not depend on the bias


@pytest.mark.parametrize("backend", BACKENDS)
def test_operators(backend: str) -> None:
    p = make_problem(5, 3, 4)
    c, rest, ops = (p.spline_weight, p.base_weight), (*p.spec, backend), torch.ops.kan_fast
    for v in (None, p.v):
        torch.library.opcheck(ops.forward.default, (p.x, v, *c, p.bias, p.grid, 0, *rest))
        torch.library.opcheck(ops.grad_coef.default, (p.x, v, p.g, p.grid, 0, [True, False], *rest))
    torch.library.opcheck(ops.grad_input.default, (p.x, p.g, *c, p.grid, 1, *rest))
    torch.library.opcheck(ops.backward.default, (p.x, p.v, p.g, *c, p.grid, 0, [True, False, True, True], *rest))
    torch.library.opcheck(ops.edge_magnitude.default, (p.x, *c, p.grid, *rest))
    torch.library.opcheck(ops.edge_magnitude_backward.default, (p.x, p.gm, p.spline_weight, None, p.grid, *rest))


def test_flops_are_counted() -> None:
    layer, samples = KANLinear(3, 4, grid_size=7), tuning.SMALL // 12 + 1
    x = torch.rand(samples, 3, requires_grad=True)
    edges, rows = samples * 3 * 4, 4 + 1  # k + 1 splines and the base function

    def flops(call: Callable[[], Any]) -> int:
        with FlopCounterMode(display=False) as counter:
            call()
        return counter.get_total_flops()

    assert flops(lambda: layer(x)) == 2 * rows * edges
    assert flops(lambda: layer(x).sum().backward()) == 3 * 2 * rows * edges
    assert flops(lambda: torch.autograd.grad(layer.forward(x).sum(), x)) == 2 * 2 * rows * edges
    assert flops(lambda: torch.autograd.grad(layer.forward(x).sum(), layer.base_weight)) == 2 * (rows + 1) * edges
    assert flops(lambda: layer.edge_magnitude(x)) == 2 * rows * edges
    assert flops(lambda: torch.func.vmap(layer)(x.detach()[None])) == 2 * rows * edges


@pytest.mark.parametrize("backend", BACKENDS)
def test_small_layers_on_cpu_compute_all_gradients(backend: str) -> None:
    layer, x = KANLinear(3, 4, backend=backend), torch.rand(5, 3, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        gradient = torch.autograd.grad(layer(x).sum(), layer.bias)
    assert torch.equal(gradient[0], torch.full((4,), 5.0))
    assert counter.get_total_flops() == (3 if backend == "cpu" else 1) * 2 * 5 * 60
