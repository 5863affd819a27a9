"""The KANLinear layers in any module, and the samples that reach them in calls that leave no trace."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kan_fast._support.checks import described
from kan_fast._support.samples import ENOUGH
from kan_fast._support.torch_internals import uncompiled
from kan_fast.nn import recording
from kan_fast.nn.linear import KANLinear

Samples = Tensor | tuple[Any, ...] | Mapping[str, Any] | Iterable[Any]


def layers_in(module: nn.Module, what: str) -> dict[str, KANLinear]:
    """The KANLinear layers in a module by their qualified names, "" for the module itself.

    What torch.compile wraps around a module has no part in the names.

    Raises:
        TypeError: it is no module.
        ValueError: there is no such layer; `what` names the function in the message.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"{what} expected a torch.nn.Module, got {described(module)}")
    found = {name: layer for name, layer in module.named_modules() if isinstance(layer, KANLinear)}
    if not found:
        raise ValueError(f"{what} found no KANLinear in {type(module).__name__}; pass the module that holds the layers")
    return {".".join(part for part in name.split(".") if part != "_orig_mod"): found[name] for name in found}


@torch.no_grad()
def samples_of(module: nn.Module, layers: Mapping[str, KANLinear], x: Samples, what: str) -> dict[str, Tensor]:
    """The samples `(..., in)` that reach each of the layers in calls of the module; layers without a call are left out.

    Calls are made without gradients and without torch.compile, in the mode that the module is in. Buffers, such as the
    averages of batch norm, and torch's random numbers are as before afterwards.

    Args:
        module: what is called.
        layers: those of its layers to watch, by name.
        x: a tensor for the call `module(x)`, a tuple for `module(*x)`, a dict for `module(**x)`; or an iterable of
            such batches (a list counts as a tuple there), read until `ENOUGH` samples have reached each layer.
        what: the function that asks, for messages.

    Raises:
        TypeError: x or a batch is something else, or the module does not take so many inputs.
    """
    devices = {t.device for t in [*module.parameters(), *module.buffers()] if t.device.type == "cuda"}
    with recording.inputs_of(layers.values()) as seen, torch.random.fork_rng(devices=list(devices)), uncompiled():
        for args, kwargs in _calls(module, x, what):
            buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
            torch.func.functional_call(module, buffers, args, kwargs)
            if all(sum(t.shape[:-1].numel() for t in inputs) >= ENOUGH for inputs in seen if inputs):
                break
    return {name: recording.joined(inputs) for name, inputs in zip(layers, seen, strict=True) if inputs}


def _calls(module: nn.Module, x: Samples, what: str) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments of each call."""
    single = isinstance(x, Tensor | tuple | Mapping)
    if isinstance(x, np.ndarray | str) or not (single or isinstance(x, Iterable)):
        raise TypeError(
            f"{what} expected a tensor, a tuple or dict of inputs, or an iterable of such batches, got {described(x)}"
        )
    signature = inspect.signature(getattr(module, "_orig_mod", module).forward)
    for batch in (x,) if single else x:
        args: tuple[Any, ...] = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        kwargs: dict[str, Any] = {}
        if isinstance(batch, Mapping):
            args, kwargs = (), dict(batch)
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(
                f"{what} can't call {type(module).__name__} with {len(args) + len(kwargs)} inputs ({error}); of a "
                "loader that yields inputs and labels, pass the inputs alone: (x for x, _ in loader)"
            ) from None
        yield args, kwargs
