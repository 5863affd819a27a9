"""Derivatives of any order: one autograd Function per contraction, each differentiated by the other two.

With T_d(v, c, g; x) of docs/architecture.md: the derivative of a contraction in v, c or g is another contraction at
the same d, and the derivative in x is v times `grad_input` at d + 1. So are the forward-mode derivatives (`tangent`).

Autograd and dynamo find tensors only if they are arguments themselves: a Function takes `Coefficients` and `Rows` in
parts, and puts them together again where it is differentiated. Under vmap all tensors get one leading dimension of
groups.
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
from kan_fast.ops import operators, reference, tuning
from kan_fast.ops.contract import Coefficients, NeedsCoef, Rows, Spec

Gradients = tuple[Tensor | None, ...]


def forward(x: Tensor, v: Tensor | None, c: Coefficients, bias: Tensor | None, rows: Rows, backend: str) -> Tensor:
    """Differentiable `forward` contraction, `(batch, out)`; arguments as in the backend contract."""
    if torch_internals.transforms_active() and _torch_gets_wrong():
        return reference.forward(x, v, c, bias, rows)
    return _apply(_Forward, x, v, c.spline, c.base, bias, rows.grid, rows.order, rows.spec, backend)


def grad_input(x: Tensor, g: Tensor, c: Coefficients, rows: Rows, backend: str) -> Tensor:
    """Differentiable `grad_input` contraction, `(batch, in)`."""
    return _apply(_GradInput, x, g, c.spline, c.base, rows.grid, rows.order, rows.spec, backend)


def grad_coef(x: Tensor, v: Tensor | None, g: Tensor, rows: Rows, needs: NeedsCoef, backend: str) -> Coefficients:
    """Differentiable `grad_coef` contraction: the gradients of spline and base weights, each None unless needed."""
    if not any(needs):
        return Coefficients(None, None)
    gs, gb = _apply(_GradCoef, x, v, g, *rows, needs, backend)
    return Coefficients(gs if needs[0] else None, gb if needs[1] else None)


def edge_magnitude(x: Tensor, c: Coefficients, rows: Rows, backend: str) -> Tensor:
    """Mean absolute activation of every edge, `(out, in)`; once differentiable in x and c."""
    return _EdgeMagnitude.apply(x, *c, rows.grid, rows.spec, backend)


def _apply(function: type[_Contraction], *args: Any) -> Any:
    """Apply one form of the Function: all compute the same, but in torch 2.13 none of them can do everything."""
    if torch.compiler.is_compiling():
        return function.apply(*args)
    if torch_internals.transforms_active():
        level = torch_internals.vmap_alone()
        if level is not None:
            return _apply_under_vmap(function, level, *args)
        return function.transformable.apply(*args)
    # A tensor that was made inside of a transform stays wrapped when that has ended.
    tensors = [t if t is None else torch_internals.unwrapped(t) for t in args[: function.tensors]]
    return (function.record if torch_internals.records() else function.forward)(*tensors, *args[function.tensors :])


def _apply_under_vmap(function: type[_Contraction], level: int, *args: Any) -> Any:
    """Apply a Function under a single vmap as torch would, in a tenth of the time."""
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
    """Whether torch 2.13 would get this transform of a custom Function wrong: a compiled one, or jvp of jvp."""
    return torch.compiler.is_compiling() or torch_internals.jvp_levels() > 1


def _times(v: Tensor | None, gx: Tensor) -> Tensor:
    return gx if v is None else v * gx


def _gradients(
    x: Tensor, v: Tensor | None, g: Tensor, c: Coefficients, rows: Rows, needs: list[bool], backend: str
) -> Gradients:
    """Derivatives of T(v, c, g) + sum(bias g) in x, the two weights of c, and bias, each None unless needed."""
    if torch.is_grad_enabled() or not any(needs[1:]):
        gx = _times(v, grad_input(x, g, c, rows.derivative(), backend)) if needs[0] else None
        gc = grad_coef(x, v, g, rows, (needs[1], needs[2]), backend)
        return gx, *gc, g.sum(-2) if needs[3] else None
    grid, order, spec = rows
    gx, gs, gb, gbias = operators.run("backward", backend, x, v, g, c.spline, c.base, grid, order, needs, spec)
    return (
        _times(v, gx) if needs[0] else None,
        gs if needs[1] else None,
        gb if needs[2] else None,
        gbias if needs[3] else None,
    )


class _Contraction(Function):
    """The base of the Functions: it handles groups under vmap and makes two further forms of each class.

    No form serves all callers. Dynamo refuses a Function that defines jvp, so the class itself has none. torch.func
    needs jvp and setup_context, so `transformable` has both. A Function with setup_context spends 15 us per call on
    matching its signature, more than the kernels of a small layer take, so `record`, for ordinary training, has none.
    """

    tensors: int  # the first arguments; the rest are numbers and names
    folds: bool  # whether groups with shared coefficients are just a larger batch
    transformable: type[Function]
    record: Callable[..., Any]  # applies the form for ordinary training
    tangent: Callable[..., Any]

    def __init_subclass__(cls) -> None:
        if "tangent" not in vars(cls):  # the class is one of the forms made below
            return

        # Under a transform torch asks for the signature in every call; here it finds one that is parsed already.
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
        """Apply the Function to groups: a leading dimension of all tensors, or part of the batch where that suffices.

        The batch suffices if only x and its neighbour are mapped, and the results don't sum over the batch (`folds`).
        """
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
        x: Tensor, v: Any, spline: Any, base: Any, bias: Any, grid: Tensor, order: int, spec: Spec, backend: str
    ) -> Tensor:
        return operators.run("forward", backend, x, v, spline, base, bias, grid, order, spec)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, v, spline, base, _, grid, *ctx.rest = inputs
        _save(ctx, x, v, spline, base, grid)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        x, v, spline, base, grid = ctx.saved_tensors
        order, spec, backend = ctx.rest
        c, rows = Coefficients(spline, base), Rows(grid, order, spec)
        needs = _needs(ctx, x, g, grid, backend)
        gx, gs, gb, gbias = _gradients(x, v, g, c, rows, [needs[0], *needs[2:5]], backend)
        gv = grad_input(x, g, c, rows, backend) if needs[1] else None
        return gx, gv, gs, gb, gbias, None, None, None, None

    @staticmethod
    def tangent(ctx: Any, dx: Any, dv: Any, ds: Any, db: Any, dbias: Any, *_: Any) -> Tensor:
        x, v, spline, base, grid = ctx.saved_tensors
        order, spec, backend = ctx.rest
        c, rows = Coefficients(spline, base), Rows(grid, order, spec)
        terms = []
        if dx is not None:
            terms.append(forward(x, _times(v, dx), c, None, rows.derivative(), backend))
        if dv is not None:
            terms.append(forward(x, dv, c, None, rows, backend))
        if ds is not None or db is not None:
            terms.append(forward(x, v, Coefficients(ds, db), None, rows, backend))
        if dbias is not None:
            terms.append(dbias.unsqueeze(-2).expand(*x.shape[:-1], -1))
        return _sum(terms)


class _GradInput(_Contraction):
    """gx = T(., c, g)."""

    tensors, folds = 5, True

    @staticmethod
    def forward(
        x: Tensor, g: Tensor, spline: Any, base: Any, grid: Tensor, order: int, spec: Spec, backend: str
    ) -> Tensor:
        return operators.run("grad_input", backend, x, g, spline, base, grid, order, spec)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, g, spline, base, grid, *ctx.rest = inputs
        _save(ctx, x, g, spline, base, grid)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Gradients:
        x, g, spline, base, grid = ctx.saved_tensors
        order, spec, backend = ctx.rest
        c, rows = Coefficients(spline, base), Rows(grid, order, spec)
        need_x, need_g, *needs = _needs(ctx, x, g, grid, backend)[:4]
        gx, gs, gb, _ = _gradients(x, v, g, c, rows, [need_x, *needs, False], backend)
        gg = forward(x, v, c, None, rows, backend) if need_g else None
        return gx, gg, gs, gb, None, None, None, None

    @staticmethod
    def tangent(ctx: Any, dx: Any, dg: Any, ds: Any, db: Any, *_: Any) -> Tensor:
        x, g, spline, base, grid = ctx.saved_tensors
        order, spec, backend = ctx.rest
        c, rows = Coefficients(spline, base), Rows(grid, order, spec)
        terms = []
        if dx is not None:
            terms.append(dx * grad_input(x, g, c, rows.derivative(), backend))
        if dg is not None:
            terms.append(grad_input(x, dg, c, rows, backend))
        if ds is not None or db is not None:
            terms.append(grad_input(x, g, Coefficients(ds, db), rows, backend))
        return _sum(terms)


class _GradCoef(_Contraction):
    """gc = T(v, ., g)."""

    tensors, folds = 4, False

    @staticmethod
    def forward(
        x: Tensor, v: Any, g: Tensor, grid: Tensor, order: int, spec: Spec, needs: NeedsCoef, backend: str
    ) -> tuple[Tensor, Tensor]:
        return operators.run("grad_coef", backend, x, v, g, grid, order, needs, spec)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        x, v, g, grid, *ctx.rest = inputs
        _save(ctx, x, v, g, grid)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        x, v, g, grid = ctx.saved_tensors
        order, spec, needs, backend = ctx.rest
        rows = Rows(grid, order, spec)
        c = Coefficients(*(gc if need else None for gc, need in zip(gradients, needs, strict=True)))
        need_x, need_v, need_g = _needs(ctx, x, g, grid, backend)[:3]
        gx = _times(v, grad_input(x, g, c, rows.derivative(), backend)) if need_x else None
        gv = grad_input(x, g, c, rows, backend) if need_v else None
        gg = forward(x, v, c, None, rows, backend) if need_g else None
        return gx, gv, gg, None, None, None, None, None

    @staticmethod
    def tangent(ctx: Any, dx: Any, dv: Any, dg: Any, *_: Any) -> tuple[Tensor, Tensor]:
        x, v, g, grid = ctx.saved_tensors
        order, spec, *rest = ctx.rest
        rows = Rows(grid, order, spec)
        terms = []
        if dx is not None:
            terms.append(_apply(_GradCoef, x, _times(v, dx), g, *rows.derivative(), *rest))
        if dv is not None:
            terms.append(_apply(_GradCoef, x, dv, g, *rows, *rest))
        if dg is not None:
            terms.append(_apply(_GradCoef, x, v, dg, *rows, *rest))
        return _sum([s for s, _ in terms]), _sum([b for _, b in terms])


def _needs(ctx: Any, x: Tensor, g: Tensor, grid: Tensor, backend: str) -> list[bool]:
    """Which gradients this backward pass wants, one for each argument of the Function.

    `needs_input_grad` tells which arguments have a gradient at all. For `autograd.grad(y, x)` that includes the
    parameters, although nobody wants theirs. The engine knows which nodes of the graph it will run, so it is asked
    about the node behind each argument. An argument that `autograd.grad` itself was given is a leaf with no such node:
    the engine then raises an error, which takes longer than all gradients of a small layer. The order of the questions
    keeps such errors rare, and small layers on a CPU compute all gradients without a question.
    """
    needs = list(ctx.needs_input_grad)
    if torch.compiler.is_compiling() or not hasattr(ctx, "eager") or torch_internals.backward_wants_all():
        return needs  # a Function under a transform, or `y.backward()`, which wants all
    small = g.shape[-1] * max(x.numel(), grid.numel()) <= tuning.SMALL
    if backend == "cpu" and small and not torch.is_grad_enabled():
        return needs
    nodes = (node for node, _ in ctx.next_functions if node is not None)
    edges = dict(zip([i for i, need in enumerate(needs) if need], nodes, strict=True))
    with suppress(RuntimeError):
        if 2 in edges:  # spline_weight (or g): an error here means that it is wanted, and the rest is taken as wanted
            needs[2] = torch_internals.node_will_run(edges.pop(2))
        for i in reversed(edges):
            if i > 0 or any(needs[1:]):  # if nothing else is wanted, x is what this pass is for
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
    def forward(x: Tensor, spline: Any, base: Any, grid: Tensor, spec: Spec, backend: str) -> Tensor:
        return operators.run("edge_magnitude", backend, x, spline, base, grid, spec)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.spec, ctx.backend = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, gm: Tensor) -> Gradients:
        x, spline, base, grid = ctx.saved_tensors
        grads = _EdgeMagnitudeGradient.apply(x, gm, spline, base, grid, ctx.spec, ctx.backend)
        return *(g if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=False)), None, None, None


class _EdgeMagnitudeGradient(Function):
    """The gradients of `_EdgeMagnitude`. They are no T_d, since gm belongs to edges, and have no derivative here.

    A Function of their own raises an error for second derivatives, which would be zero without one.
    """

    @staticmethod
    def forward(x: Tensor, gm: Tensor, spline: Any, base: Any, grid: Tensor, spec: Spec, backend: str) -> Any:
        return operators.run("edge_magnitude_backward", backend, x, gm, spline, base, grid, spec)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        raise RuntimeError(
            "edge_magnitude can be differentiated once, got a second derivative; "
            "take the mean absolute value of the activations in plain torch where you need more"
        )
