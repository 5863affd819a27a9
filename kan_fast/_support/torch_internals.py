"""All private names of torch that this package uses, as functions with names of our own.

A new version of torch can break the package only here. Most names are bound, not wrapped, since each call of a layer
calls them several times.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_pop_interpreter_stack
from torch.autograd import _is_checkpoint_valid, forward_ad

# Transforms of torch.func

transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
unwrapped: Callable[[Tensor], Tensor] = _functorch.unwrap_if_dead  # a tensor that outlived its transform
without_batch: Callable[[Tensor], Tensor] = _functorch.get_unwrapped  # a tensor under vmap, with the mapped dimension
with_batch: Callable[[Tensor, int, int], Tensor] = _functorch._add_batch_dim  # the reverse: tensor, dimension, level
outside_of_transform: Callable[[], Any] = temporarily_pop_interpreter_stack  # a context


def vmap_alone() -> int | None:
    """The level of the vmap that is the only transform at work; None if there are others, or none."""
    levels = _functorch.get_interpreter_stack() or []
    if len(levels) != 1 or levels[0].key() != _functorch.TransformType.Vmap:
        return None
    return levels[0].level()


def jvp_levels() -> int:
    """The number of active forward-mode transforms."""
    levels = _functorch.get_interpreter_stack() or ()
    return sum(level.key() == _functorch.TransformType.Jvp for level in levels)


def batch_dimension(t: Tensor) -> int | None:
    """The dimension that vmap maps; None for tensors that vmap does not map."""
    return _functorch.maybe_get_bdim(t) if _functorch.is_batchedtensor(t) else None


# Autograd

backward_wants_all: Callable[[], bool] = _is_checkpoint_valid  # of `y.backward()`, not of `autograd.grad(y, inputs)`
node_will_run: Callable[[Any], bool] = torch._C._will_engine_execute_node


def forward_mode() -> bool:
    """Whether some tensors may be dual."""
    return forward_ad._current_level >= 0


def records() -> bool:
    """Whether autograd, forward mode or a trace wants to know of operations."""
    return bool(torch.is_grad_enabled() or forward_ad._current_level >= 0 or torch._C._get_tracing_state())


tracing: Callable[[], bool] = torch._C._is_tracing  # torch.jit.is_tracing, in half the time


# The dispatcher

Operator = torch._ops.OpOverload
_KEYS = torch._C.DispatchKey
_USUAL_KEYS = functools.reduce(
    operator.or_,
    (torch._C.DispatchKeySet(key).raw_repr() for key in (_KEYS.BackendSelect, _KEYS.ADInplaceOrView)),
)
_PLAIN = {Tensor, torch.nn.Parameter}  # subclasses see every operator
_included_keys = torch._C._dispatch_tls_local_include_set
_profiler_enabled = torch.autograd._profiler_enabled
some_autocast: Callable[[], bool] = torch._C._is_any_autocast_enabled


def dispatcher_observed() -> bool:
    """Whether modes, transforms (also the older vmap of `is_grads_batched`), traces or a profiler watch operators."""
    return bool(_included_keys().raw_repr() & ~_USUAL_KEYS or _profiler_enabled())


def have_numbers(tensors: Iterable[Tensor | None]) -> bool:
    """Whether the numbers of all tensors are where data_ptr says: of no subclass, on no meta device, no lazy view."""
    for t in tensors:  # a call for each, or a generator, takes twice as long
        if t is not None and (type(t) not in _PLAIN or t.is_meta or t.is_neg() or t._is_zerotensor()):
            return False
    return True


# The compiler


def uncompiled() -> AbstractContextManager[Any]:
    """A context in which compiled modules run as they are written.

    Nothing is compiled before torch._dynamo is imported, which takes as long as torch itself.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


# Tensors


def set_data(parameter: Tensor, data: Tensor) -> None:
    """`parameter.data = data`, where the shape may be another.

    A graph that is alive, such as that of the last loss, holds the node that accumulates gradients of the parameter.
    torch uses that node for new graphs too, and it expects the shape it was made for. A change of dtype makes torch let
    go of it.
    """
    other = torch.float16 if parameter.dtype == torch.float32 else torch.float32
    parameter.data = torch.empty(0, dtype=other, device=data.device)
    parameter.data = data


copy_all: Callable[[list[Tensor], list[Tensor]], None] = torch._foreach_copy_  # each of the second to that of the first


def current_stream(device: int) -> int:
    """torch's current CUDA stream, as a handle."""
    return torch._C._cuda_getCurrentRawStream(device)
