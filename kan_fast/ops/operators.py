"""The operators `torch.ops.kan_fast.*`: definitions, fakes and dispatch to a backend.

The operators know nothing of autograd (autograd.py does). They check their arguments, whoever calls them; `run` goes
past that where it can, for arguments that functional.py has checked. All tensors may have one leading dimension of
groups, independent problems of one size (vmap makes them).

An operator takes tensors, numbers and names, because the dispatcher and its transforms find tensors nowhere else. Its
arguments are those of the backend contract in docs/architecture.md with `Coefficients`, `Rows` and `Spec` written out,
what belongs to `Spec` last, then the backend's name. The functions `_call_...` put them together again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kan_fast._support import torch_internals
from kan_fast.ops import arguments, empty
from kan_fast.ops.contract import Coefficients, Rows, Spec
from kan_fast.ops.dispatch import module


class _Operator(NamedTuple):
    """An operator, the number of its tensor arguments, which come first, and what passes its arguments to a backend."""

    defined: Any
    tensors: int
    call: Callable[..., Any]


_OPERATORS: dict[str, _Operator] = {}
_new: Any = tuple.__new__  # makes a NamedTuple in half the time of its constructor
_LIBRARY = torch.library.Library("kan_fast", "DEF")
_WEIGHTS = "Tensor? spline_weight, Tensor? base_weight"
_SPEC = "int degree, str base, str extrapolation, str backend"


def _define(name: str, inputs: str, results: int, call: Callable[..., Any]) -> Any:
    """Define an operator that returns `results` tensors; `call` passes its arguments to the function of a backend."""
    names = [argument.split()[-1] for argument in f"{inputs}, {_SPEC}".split(",")]

    def checked(args: tuple[Any, ...]) -> tuple[Any, ...]:
        arguments.check(name, dict(zip(names, args, strict=True)))
        *flat, degree, base, extrapolation, _ = args
        return (*flat, Spec(degree, base, extrapolation))

    def fake(*args: Any) -> Any:
        return call(getattr(empty, name), *checked(args))

    def compute(*args: Any) -> Any:
        given = checked(args)
        if args[0].dim() == 3 and not args[0].shape[0]:
            return call(getattr(empty, name), *given)
        return _run(args[-1], name, call, given)

    returned = ", ".join(["Tensor"] * results)
    _LIBRARY.define(f"{name}({inputs}, {_SPEC}) -> ({returned})")
    # Exported programs come this way with gradients enabled; from autograd.py they never are.
    _LIBRARY.impl(name, torch.no_grad()(compute), "CompositeExplicitAutograd")
    torch.library.register_fake(f"kan_fast::{name}", fake, lib=_LIBRARY)
    packet = getattr(torch.ops.kan_fast, name)
    defined = packet.default
    register_flop_formula(packet)(functools.partial(_flops, name, names))
    _OPERATORS[name] = _Operator(defined, inputs.count("Tensor"), call)
    return defined


def _flops(name: str, names: list[str], *values: Any, **_: Any) -> int:
    """For torch's FlopCounterMode: multiply-adds of the local form, one per active row, edge and sample, times 2."""
    given = dict(zip(names, values, strict=True))

    def rows(spline: Any, base: Any) -> int:
        return (given["degree"] + 1) * bool(spline) + bool(base)

    weights = given.get("spline_weight"), given.get("base_weight")
    needs = given.get("needs", ())
    total = {
        "grad_coef": lambda: rows(*needs),
        "backward": lambda: needs[0] * rows(*weights) + rows(*needs[1:3]),
        "edge_magnitude_backward": lambda: 3 * rows(*weights),
    }.get(name, lambda: rows(*weights))()
    out = given["g"][-1] if "g" in given else (weights[0] or weights[1] or ())[len(given["x"]) - 2]
    return 2 * total * math.prod(given["x"]) * out


def run(name: str, backend: str, *args: Any) -> Any:
    """Call an operator, without the dispatcher of torch where that would only call the backend.

    Arguments are those of the operator, in its order, with a `Spec` at the end.
    """
    defined, tensors, call = _OPERATORS[name]
    if _unobserved(args[:tensors]):
        x = args[0]
        if x.dim() == 2 and not torch_internals.some_autocast():  # as `_run`, which would ask again
            return call(getattr(module(backend), name), *args)
        if x.dim() == 2 or x.shape[0]:
            return _run(backend, name, call, args)
    return defined(*args[:-1], *args[-1], backend)


def _unobserved(tensors: tuple) -> bool:
    """Whether nothing watches the dispatcher, which takes as long as the kernel of a small layer."""
    observed = torch.compiler.is_compiling() or torch_internals.dispatcher_observed()
    return not observed and torch_internals.have_numbers(tensors)


def _run(backend: str, name: str, call: Callable[..., Any], args: Sequence[Any]) -> Any:
    """Call a backend's function, for each group if the tensors have a leading dimension of groups it doesn't take.

    Autocast is settled in functional.py: inside, plain torch must not round once more.
    """
    x, implementation = args[0], module(backend)
    if torch_internals.some_autocast() and torch.is_autocast_enabled(x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            return _run(backend, name, call, args)
    function = getattr(implementation, name)
    if x.dim() == 2 or getattr(implementation, "TAKES_GROUPS", False):
        return call(function, *args)
    groups = ((t[i] if isinstance(t, Tensor) else t for t in args) for i in range(len(x)))
    results = [call(function, *group) for group in groups]
    if isinstance(results[0], Tensor):
        return torch.stack(results)
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


def _call_forward(f: Any, x: Any, v: Any, spline: Any, base: Any, bias: Any, grid: Any, order: int, spec: Spec) -> Any:
    return f(x, v, _new(Coefficients, (spline, base)), bias, _new(Rows, (grid, order, spec)))


def _call_grad_input(f: Any, x: Any, g: Any, spline: Any, base: Any, grid: Any, order: int, spec: Spec) -> Any:
    return f(x, g, _new(Coefficients, (spline, base)), _new(Rows, (grid, order, spec)))


def _call_grad_coef(f: Any, x: Any, v: Any, g: Any, grid: Any, order: int, needs: Any, spec: Spec) -> Any:
    return f(x, v, g, _new(Rows, (grid, order, spec)), needs)


def _call_backward(
    f: Any, x: Any, v: Any, g: Any, spline: Any, base: Any, grid: Any, order: int, needs: Any, spec: Spec
) -> Any:
    return f(x, v, g, _new(Coefficients, (spline, base)), _new(Rows, (grid, order, spec)), needs)


def _call_edge_magnitude(f: Any, x: Any, spline: Any, base: Any, grid: Any, spec: Spec) -> Any:
    return f(x, _new(Coefficients, (spline, base)), _new(Rows, (grid, 0, spec)))


def _call_edge_magnitude_backward(f: Any, x: Any, gm: Any, spline: Any, base: Any, grid: Any, spec: Spec) -> Any:
    return f(x, gm, _new(Coefficients, (spline, base)), _new(Rows, (grid, 0, spec)))


_ROWS = "Tensor grid, int order"
forward = _define("forward", f"Tensor x, Tensor? v, {_WEIGHTS}, Tensor? bias, {_ROWS}", 1, _call_forward)
grad_input = _define("grad_input", f"Tensor x, Tensor g, {_WEIGHTS}, {_ROWS}", 1, _call_grad_input)
grad_coef = _define("grad_coef", f"Tensor x, Tensor? v, Tensor g, {_ROWS}, bool[2] needs", 2, _call_grad_coef)
backward = _define("backward", f"Tensor x, Tensor? v, Tensor g, {_WEIGHTS}, {_ROWS}, bool[4] needs", 4, _call_backward)
edge_magnitude = _define("edge_magnitude", f"Tensor x, {_WEIGHTS}, Tensor grid", 1, _call_edge_magnitude)
edge_magnitude_backward = _define(
    "edge_magnitude_backward", f"Tensor x, Tensor gm, {_WEIGHTS}, Tensor grid", 3, _call_edge_magnitude_backward
)
