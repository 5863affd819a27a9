"""Derivatives of any order: one autograd Function per contraction, each differentiated by the other two.

With T_d(v, c, g; x) of docs/architecture.md: the derivative of a contraction in v, c or g is another contraction at
the same d, and the derivative in x is v times `grad_input` at d + 1. `c` stands for (spline_weight, base_weight).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from kan_fast import ops
from kan_fast.reference import Spec

Coef = tuple[Tensor | None, Tensor | None]
Gradients = tuple[Tensor | None, ...]


def forward(
    x: Tensor, v: Tensor | None, c: Coef, bias: Tensor | None, grid: Tensor, order: int, spec: Spec, backend: str
) -> Tensor:
    """Differentiable `forward` contraction, `(batch, out)`; arguments as in the backend contract."""
    return _Forward.apply(x, v, *c, bias, grid, order, spec, backend)


def grad_input(x: Tensor, g: Tensor, c: Coef, grid: Tensor, order: int, spec: Spec, backend: str) -> Tensor:
    """Differentiable `grad_input` contraction, `(batch, in)`."""
    return _GradInput.apply(x, g, *c, grid, order, spec, backend)


def grad_coef(
    x: Tensor, v: Tensor | None, g: Tensor, grid: Tensor, order: int, spec: Spec, backend: str, needs: tuple[bool, bool]
) -> Coef:
    """Differentiable `grad_coef` contraction, `(out, in, G + k)` and `(out, in)`, each None unless needed."""
    if not any(needs):
        return None, None
    gs, gb = _GradCoef.apply(x, v, g, grid, order, spec, backend, needs)
    return (gs if needs[0] else None), (gb if needs[1] else None)


def edge_magnitude(x: Tensor, c: Coef, grid: Tensor, spec: Spec, backend: str) -> Tensor:
    """Mean absolute activation of every edge, `(out, in)`; once differentiable in x and c."""
    return _EdgeMagnitude.apply(x, *c, grid, spec, backend)


def _times(v: Tensor | None, gx: Tensor) -> Tensor:
    return gx if v is None else v * gx


class _Forward(Function):
    """y = T(v, c, .) + bias."""

    @staticmethod
    def forward(x: Tensor, v: Any, spline_weight: Any, base_weight: Any, bias: Any, grid: Tensor, *rest: Any) -> Tensor:
        order, spec, backend = rest
        return ops.forward(x, v, spline_weight, base_weight, bias, grid, order, *spec, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, v, spline_weight, base_weight, _, grid, *ctx.rest = inputs
        ctx.save_for_backward(x, v, spline_weight, base_weight, grid)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        x, v, spline_weight, base_weight, grid = ctx.saved_tensors
        c = spline_weight, base_weight
        order, spec, backend = ctx.rest
        need_x, need_v, *needs, need_bias = ctx.needs_input_grad[:5]
        if v is None and not torch.is_grad_enabled():  # an ordinary training step: one fused operator
            wanted = [need_x, *needs, need_bias]
            grads = ops.backward(x, g, *c, grid, order, wanted, *spec, backend)
            gx, gs, gb, gbias = (grad if want else None for grad, want in zip(grads, wanted, strict=True))
            return gx, None, gs, gb, gbias, None, None, None, None
        gx = _times(v, grad_input(x, g, c, grid, order + 1, spec, backend)) if need_x else None
        gv = grad_input(x, g, c, grid, order, spec, backend) if need_v else None
        gc = grad_coef(x, v, g, grid, order, spec, backend, tuple(needs))
        return gx, gv, *gc, g.sum(0) if need_bias else None, None, None, None, None


class _GradInput(Function):
    """gx = T(., c, g)."""

    @staticmethod
    def forward(x: Tensor, g: Tensor, spline_weight: Any, base_weight: Any, grid: Tensor, *rest: Any) -> Tensor:
        order, spec, backend = rest
        return ops.grad_input(x, g, spline_weight, base_weight, grid, order, *spec, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.order, ctx.spec, ctx.backend = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Gradients:
        x, g, spline_weight, base_weight, grid = ctx.saved_tensors
        c = spline_weight, base_weight
        rest = (grid, ctx.order, ctx.spec, ctx.backend)
        need_x, need_g, *needs = ctx.needs_input_grad[:4]
        gx = v * grad_input(x, g, c, grid, ctx.order + 1, ctx.spec, ctx.backend) if need_x else None
        gg = forward(x, v, c, None, *rest) if need_g else None
        return gx, gg, *grad_coef(x, v, g, *rest, tuple(needs)), None, None, None, None


class _GradCoef(Function):
    """gc = T(v, ., g)."""

    @staticmethod
    def forward(x: Tensor, v: Tensor | None, g: Tensor, grid: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        order, spec, backend, needs = rest
        return ops.grad_coef(x, v, g, grid, order, needs, *spec, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Coef) -> None:
        *tensors, ctx.order, ctx.spec, ctx.backend, ctx.needs = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        x, v, g, grid = ctx.saved_tensors
        gs, gb = (gc if need else None for gc, need in zip(gradients, ctx.needs, strict=True))
        c = gs, gb
        rest = (grid, ctx.order, ctx.spec, ctx.backend)
        need_x, need_v, need_g = ctx.needs_input_grad[:3]
        gx = _times(v, grad_input(x, g, c, grid, ctx.order + 1, ctx.spec, ctx.backend)) if need_x else None
        gv = grad_input(x, g, c, *rest) if need_v else None
        gg = forward(x, v, c, None, *rest) if need_g else None
        return gx, gv, gg, None, None, None, None, None


class _EdgeMagnitude(Function):
    """m = mean_b |phi|."""

    @staticmethod
    def forward(x: Tensor, spline_weight: Any, base_weight: Any, grid: Tensor, spec: Spec, backend: str) -> Tensor:
        return ops.edge_magnitude(x, spline_weight, base_weight, grid, *spec, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.spec, ctx.backend = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, gm: Tensor) -> Gradients:
        x, spline_weight, base_weight, grid = ctx.saved_tensors
        grads = _EdgeMagnitudeGradient.apply(x, gm, spline_weight, base_weight, grid, ctx.spec, ctx.backend)
        return *(g if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=False)), None, None, None


class _EdgeMagnitudeGradient(Function):
    """Not another T_d (its g would belong to edges), so it says that it has no derivative instead of giving zero."""

    @staticmethod
    def forward(x: Tensor, gm: Tensor, spline_weight: Any, base_weight: Any, grid: Tensor, *rest: Any) -> Any:
        spec, backend = rest
        return ops.edge_magnitude_backward(x, gm, spline_weight, base_weight, grid, *spec, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        raise RuntimeError(
            "edge_magnitude can be differentiated once, got a second derivative; "
            "take the mean absolute value of the activations in plain torch where you need more"
        )
