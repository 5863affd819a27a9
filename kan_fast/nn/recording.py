"""Recording calls of networks and other modules: the output, and the input of every layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from kan_fast._support import collectives

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class NotFinite(ValueError):
    """The input of a layer has numbers that are NaN or infinite."""


class Samples(NamedTuple):
    """The inputs that a network was trained on last, by reference: deepcopy shares them, pickle leaves them out."""

    x: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Samples:
        return self

    def __reduce__(self) -> tuple[type[Samples], tuple[()]]:
        return Samples, ()


def record(model: nn.Module, layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """`model(x)`, and the input `(..., in)` of every layer in that call, whatever the model's forward and hooks do.

    For a layer that is called several times, the samples of all calls are joined to `(n, in)`.

    Raises:
        ValueError: a layer was not called.
    """
    with inputs_of(layers) as seen:
        output = model(x)
    unused = [index for index, inputs in enumerate(seen) if not inputs]
    if unused:
        raise ValueError(
            f"the forward of {type(model).__name__} does not call its layers {unused}; call or remove them"
        )
    return output, [joined(inputs) for inputs in seen]


@contextmanager
def inputs_of(layers: Iterable[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """For every layer a list of its inputs `(..., in)`, which grows with each call of the layer in the `with` block."""
    hooks, seen = [], list[list[Tensor]]()

    def hook(inputs: list[Tensor]) -> Any:
        return lambda _, args, kwargs: inputs.append(args[0] if args else kwargs["x"])

    try:
        for layer in layers:
            seen.append([])
            hooks.append(layer.register_forward_pre_hook(hook(seen[-1]), with_kwargs=True))
        yield seen
    finally:
        for handle in hooks:
            handle.remove()


def joined(inputs: Sequence[Tensor]) -> Tensor:
    """The inputs of a layer in several calls as one tensor `(n, in)`; that of a single call as it is."""
    return inputs[0] if len(inputs) == 1 else torch.cat([t.flatten(0, -2) for t in inputs])


def check_finite(inputs: Mapping[Any, Tensor], what: str, group: ProcessGroup | None = None) -> None:
    """Raise NotFinite if a number that reaches one of the layers is NaN or infinite.

    Args:
        inputs: of every layer `(..., in)`, by its number or name.
        what: the method that needs finite numbers; the message names it.
        group: processes that raise together as soon as one of them has such a number; None for this one alone.
    """
    bad = torch.stack([(~collectives.local(t).isfinite()).any() for t in inputs.values()]).long()
    broken = collectives.total(bad, group).nonzero().flatten().tolist()
    if broken:
        raise NotFinite(
            f"{what} needs finite samples; NaN or infinity reaches layer {list(inputs)[broken[0]]}: clean the data; if "
            "they are finite, the parameters or inputs of the layers ahead of it are too large"
        )
