"""Derivatives of any order: one autograd Function per contraction, each differentiated by the other two.

With T_d(v, c, g; x) of docs/architecture.md: the derivative of a contraction in v, c or g is another contraction at
the same d, and the derivative in x is v times `grad_input` at d + 1. `c` stands for (spline_weight, base_weight).
So are the forward-mode derivatives (`tangent`). Under vmap all tensors get one leading dimension of groups.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from kan_fast._support import torch_internals
from kan_fast.ops import operators, reference
from kan_fast.ops.reference import Spec

Coef = tuple[Tensor | None, Tensor | None]
Gradients = tuple[Tensor | None, ...]

# Samples times edges, and knots times edges: up to here the compiled kernels take less time than to ask what is wanted.
SMALL = 10_000


def forward(
    x: Tensor, v: Tensor | None, c: Coef, bias: Tensor | None, grid: Tensor, order: int, spec: Spec, backend: str
) -> Tensor:
    """Differentiable `forward` contraction, `(batch, out)`; arguments as in the backend contract."""
    if torch_internals.transforms_active() and _torch_gets_wrong():
        return reference.forward(x, v, *c, bias, grid, order, spec)
    return _apply(_Forward, x, v, *c, bias, grid, order, spec, backend)


def grad_input(x: Tensor, g: Tensor, c: Coef, grid: Tensor, order: int, spec: Spec, backend: str) -> Tensor:
    """Differentiable `grad_input` contraction, `(batch, in)`."""
    return _apply(_GradInput, x, g, *c, grid, order, spec, backend)


def grad_coef(
    x: Tensor, v: Tensor | None, g: Tensor, grid: Tensor, order: int, spec: Spec, backend: str, needs: tuple[bool, bool]
) -> Coef:
    """Differentiable `grad_coef` contraction, `(out, in, G + k)` and `(out, in)`, each None unless needed."""
    if not any(needs):
        return None, None
    gs, gb = _apply(_GradCoef, x, v, g, grid, order, spec, backend, needs)
    return (gs if needs[0] else None), (gb if needs[1] else None)


def edge_magnitude(x: Tensor, c: Coef, grid: Tensor, spec: Spec, backend: str) -> Tensor:
    """Mean absolute activation of every edge, `(out, in)`; once differentiable in x and c."""
    return _EdgeMagnitude.apply(x, *c, grid, spec, backend)


def _apply(function: type[_Contraction], *args: Any) -> Any:
    """Apply the form of the Function that fits: all compute the same, but no form can do everything in torch 2.13."""
    if torch.compiler.is_compiling():
        return function.apply(*args)
    if torch_internals.transforms_active():
        level = torch_internals.vmap_alone()
        if level is not None:
            return _apply_under_vmap(function, level, *args)
        return function.transformable.apply(*args)
    # Tensors that outlived a transform are wrapped.
    tensors = [t if t is None else torch_internals.unwrapped(t) for t in args[: function.tensors]]
    return (function.record if torch_internals.records() else function.forward)(*tensors, *args[function.tensors :])


def _apply_under_vmap(function: type[_Contraction], level: int, *args: Any) -> Any:
    """What torch does with a Function under a single vmap, in a tenth of the time."""
    dims = tuple(torch_internals.batch_dimension(t) if isinstance(t, Tensor) else None for t in args)
    values = [t if dim is None else torch_internals.without_batch(t) for t, dim in zip(args, dims, strict=True)]
    sizes = [t.shape[dim] for t, dim in zip(values, dims, strict=True) if dim is not None]
    with torch_internals.outside_of_transform():
        if not sizes:
            return _apply(function, *args)
        result = function.grouped(sizes[0], dims, *values)
    if isinstance(result, tuple):
        return tuple(torch_internals.with_batch(t, 0, level) for t in result)
    return torch_internals.with_batch(result, 0, level)


def _torch_gets_wrong() -> bool:
    """Transforms of a custom Function that torch 2.13 silently gets wrong: compiled ones, and jvp of jvp."""
    return torch.compiler.is_compiling() or torch_internals.jvp_levels() > 1


def _times(v: Tensor | None, gx: Tensor) -> Tensor:
    return gx if v is None else v * gx


def _gradients(
    x: Tensor, v: Tensor | None, g: Tensor, c: Coef, grid: Tensor, order: int, spec: Spec, backend: str, needs: list
) -> Gradients:
    """Derivatives of T(v, c, g) + sum(bias g) in x, spline_weight, base_weight and bias, each None unless needed."""
    if torch.is_grad_enabled() or not any(needs[1:]):
        gx = _times(v, grad_input(x, g, c, grid, order + 1, spec, backend)) if needs[0] else None
        gc = grad_coef(x, v, g, grid, order, spec, backend, (needs[1], needs[2]))
        return gx, *gc, g.sum(-2) if needs[3] else None
    gx, gs, gb, gbias = operators.run(operators.backward, backend, x, v, g, *c, grid, order, spec, needs)
    return (
        _times(v, gx) if needs[0] else None,
        gs if needs[1] else None,
        gb if needs[2] else None,
        gbias if needs[3] else None,
    )


class _Contraction(Function):
    """What the contractions share: groups under vmap, and other forms of the same Function.

    Dynamo refuses a Function that defines jvp, torch.func needs one, with setup_context, and a Function that has
    setup_context spends 15 us per call on matching its signature, more than the kernels of a small layer. The rest of
    what `Function.apply` does is done in `_apply`.
    """

    tensors: int  # the first arguments; the rest are numbers and names
    folds: bool  # whether groups with shared coefficients are just a larger batch
    transformable: type[Function]
    record: Callable[..., Any]  # applies the form for ordinary training
    tangent: Callable[..., Any]

    def __init_subclass__(cls) -> None:
        if "tangent" not in vars(cls):  # one of the forms below
            return

        # torch asks for the signature in every call under a transform, and finds it here without parsing it again.
        cls.forward.__signature__ = inspect.signature(cls.forward)  # type: ignore[attr-defined]

        def forward(ctx: Any, *args: Any) -> Any:
            output = cls.forward(*args)
            cls.setup_context(ctx, args, output)
            ctx.eager = True
            return output

        jvp = {"jvp": staticmethod(cls.tangent)}
        cls.transformable = type(cls.__name__, (cls,), jvp)
        eager = type(cls.__name__, (Function,), {"forward": forward, "backward": cls.backward, **jvp})
        cls.record = super(Function, eager).apply  # type: ignore[misc]

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple, *args: Any) -> tuple[Any, Any]:
        result = cls.grouped(info.batch_size, in_dims, *args)
        return result, (0,) * len(result) if isinstance(result, tuple) else 0

    @classmethod
    def grouped(cls, size: int, in_dims: tuple, *args: Any) -> Any:
        """Groups become a leading dimension of all tensors, or of the batch where that is all they are."""
        rest = args[cls.tensors :]
        plain = args[0].dim() - (in_dims[0] is not None) == 2
        inner = args[0].shape[1 if in_dims[0] == 0 else 0]  # the first dimension beside the mapped one
        shared = plain and cls.folds and not any(dim is not None for dim in in_dims[2 : cls.tensors])
        tensors = list(args[: cls.tensors])
        for i in range(2 if shared else cls.tensors):
            tensors[i] = _lead(args[i], in_dims[i], size, flat=shared or not plain)
        result = _apply(cls, *tensors, *rest)
        if plain and not shared:
            return result
        if isinstance(result, tuple):
            return tuple(t.unflatten(0, (size, inner)) for t in result)
        return result.unflatten(0, (size, inner))


def _lead(tensor: Tensor | None, dim: int | None, size: int, flat: bool) -> Tensor | None:
    """Put the mapped dimension first, or repeat what is not mapped; `flat` merges it with the next."""
    if tensor is None:
        return None
    tensor = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return tensor.flatten(0, 1) if flat else tensor


class _Forward(_Contraction):
    """y = T(v, c, .) + bias."""

    tensors, folds = 6, True

    @staticmethod
    def forward(
        x: Tensor,
        v: Any,
        spline_weight: Any,
        base_weight: Any,
        bias: Any,
        grid: Tensor,
        order: int,
        spec: Spec,
        backend: str,
    ) -> Tensor:
        return operators.run(operators.forward, backend, x, v, spline_weight, base_weight, bias, grid, order, spec)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, v, spline_weight, base_weight, _, grid, *ctx.rest = inputs
        _save(ctx, x, v, spline_weight, base_weight, grid)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        x, v, spline_weight, base_weight, grid = ctx.saved_tensors
        c = spline_weight, base_weight
        order, spec, backend = ctx.rest
        needs = _needs(ctx, x, g, grid, backend)
        gx, gs, gb, gbias = _gradients(x, v, g, c, grid, order, spec, backend, [needs[0], *needs[2:5]])
        gv = grad_input(x, g, c, grid, order, spec, backend) if needs[1] else None
        return gx, gv, gs, gb, gbias, None, None, None, None

    @staticmethod
    def tangent(ctx: Any, dx: Any, dv: Any, ds: Any, db: Any, dbias: Any, *_: Any) -> Tensor:
        x, v, spline_weight, base_weight, grid = ctx.saved_tensors
        c = spline_weight, base_weight
        order, spec, backend = ctx.rest
        terms = []
        if dx is not None:
            terms.append(forward(x, _times(v, dx), c, None, grid, order + 1, spec, backend))
        if dv is not None:
            terms.append(forward(x, dv, c, None, grid, order, spec, backend))
        if ds is not None or db is not None:
            terms.append(forward(x, v, (ds, db), None, grid, order, spec, backend))
        if dbias is not None:
            terms.append(dbias.unsqueeze(-2).expand(*x.shape[:-1], -1))
        return _sum(terms)


class _GradInput(_Contraction):
    """gx = T(., c, g)."""

    tensors, folds = 5, True

    @staticmethod
    def forward(
        x: Tensor, g: Tensor, spline_weight: Any, base_weight: Any, grid: Tensor, order: int, spec: Spec, backend: str
    ) -> Tensor:
        return operators.run(operators.grad_input, backend, x, g, spline_weight, base_weight, grid, order, spec)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.order, ctx.spec, ctx.backend = inputs
        _save(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Gradients:
        x, g, spline_weight, base_weight, grid = ctx.saved_tensors
        c = spline_weight, base_weight
        rest = (grid, ctx.order, ctx.spec, ctx.backend)
        need_x, need_g, *needs = _needs(ctx, x, g, grid, ctx.backend)[:4]
        gx, gs, gb, _ = _gradients(x, v, g, c, *rest, [need_x, *needs, False])
        gg = forward(x, v, c, None, *rest) if need_g else None
        return gx, gg, gs, gb, None, None, None, None

    @staticmethod
    def tangent(ctx: Any, dx: Any, dg: Any, ds: Any, db: Any, *_: Any) -> Tensor:
        x, g, spline_weight, base_weight, grid = ctx.saved_tensors
        c = spline_weight, base_weight
        rest = (grid, ctx.order, ctx.spec, ctx.backend)
        terms = []
        if dx is not None:
            terms.append(dx * grad_input(x, g, c, grid, ctx.order + 1, ctx.spec, ctx.backend))
        if dg is not None:
            terms.append(grad_input(x, dg, c, *rest))
        if ds is not None or db is not None:
            terms.append(grad_input(x, g, (ds, db), *rest))
        return _sum(terms)


class _GradCoef(_Contraction):
    """gc = T(v, ., g)."""

    tensors, folds = 4, False

    @staticmethod
    def forward(
        x: Tensor, v: Any, g: Tensor, grid: Tensor, order: int, spec: Spec, backend: str, needs: tuple[bool, bool]
    ) -> tuple[Tensor, Tensor]:
        return operators.run(operators.grad_coef, backend, x, v, g, grid, order, spec, needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Coef) -> None:
        *tensors, ctx.order, ctx.spec, ctx.backend, ctx.needs = inputs
        _save(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        x, v, g, grid = ctx.saved_tensors
        gs, gb = (gc if need else None for gc, need in zip(gradients, ctx.needs, strict=True))
        c = gs, gb
        rest = (grid, ctx.order, ctx.spec, ctx.backend)
        need_x, need_v, need_g = _needs(ctx, x, g, grid, ctx.backend)[:3]
        gx = _times(v, grad_input(x, g, c, grid, ctx.order + 1, ctx.spec, ctx.backend)) if need_x else None
        gv = grad_input(x, g, c, *rest) if need_v else None
        gg = forward(x, v, c, None, *rest) if need_g else None
        return gx, gv, gg, None, None, None, None, None

    @staticmethod
    def tangent(ctx: Any, dx: Any, dv: Any, dg: Any, *_: Any) -> tuple[Tensor, Tensor]:
        x, v, g, grid = ctx.saved_tensors
        rest = (ctx.spec, ctx.backend, ctx.needs)
        terms = []
        if dx is not None:
            terms.append(_apply(_GradCoef, x, _times(v, dx), g, grid, ctx.order + 1, *rest))
        if dv is not None:
            terms.append(_apply(_GradCoef, x, dv, g, grid, ctx.order, *rest))
        if dg is not None:
            terms.append(_apply(_GradCoef, x, v, dg, grid, ctx.order, *rest))
        return _sum([s for s, _ in terms]), _sum([b for _, b in terms])


def _needs(ctx: Any, x: Tensor, g: Tensor, grid: Tensor, backend: str) -> list[bool]:
    """Which gradients this backward pass asks for.

    `needs_input_grad` only says which inputs have one: for `autograd.grad(y, x)` it names the parameters as well, whose
    gradients would be computed and thrown away. The engine knows more, node by node, but it raises an error for a leaf
    that `autograd.grad` was asked for, which takes longer than all gradients of a small layer. So it is asked little.
    """
    needs = list(ctx.needs_input_grad)
    if torch.compiler.is_compiling() or not hasattr(ctx, "eager") or torch_internals.backward_wants_all():
        return needs  # of another form, or `y.backward()`, which asks for all
    small = g.shape[-1] * max(x.numel(), grid.numel()) <= SMALL
    if backend == "cpu" and small and not torch.is_grad_enabled():
        return needs
    nodes = (node for node, _ in ctx.next_functions if node is not None)
    edges = dict(zip([i for i, need in enumerate(needs) if need], nodes, strict=True))
    with suppress(RuntimeError):
        if 2 in edges:  # spline_weight (or g): if it is asked for itself, the rest is assumed to be asked for
            needs[2] = torch_internals.node_will_run(edges.pop(2))
        for i in reversed(edges):
            if i > 0 or any(needs[1:]):  # else x must be the reason for this pass
                with suppress(RuntimeError):
                    needs[i] = torch_internals.node_will_run(edges[i])
    return needs


def _save(ctx: Any, *tensors: Tensor | None) -> None:
    ctx.save_for_backward(*tensors)
    if torch_internals.forward_mode() or torch_internals.transforms_active():
        ctx.save_for_forward(*tensors)


def _sum(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


class _EdgeMagnitude(Function):
    """m = mean_b |phi|."""

    @staticmethod
    def forward(x: Tensor, spline_weight: Any, base_weight: Any, grid: Tensor, spec: Spec, backend: str) -> Tensor:
        return operators.run(operators.edge_magnitude, backend, x, spline_weight, base_weight, grid, spec)

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
    def forward(
        x: Tensor, gm: Tensor, spline_weight: Any, base_weight: Any, grid: Tensor, spec: Spec, backend: str
    ) -> Any:
        return operators.run(operators.edge_magnitude_backward, backend, x, gm, spline_weight, base_weight, grid, spec)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        raise RuntimeError(
            "edge_magnitude can be differentiated once, got a second derivative; "
            "take the mean absolute value of the activations in plain torch where you need more"
        )
