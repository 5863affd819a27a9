"""What flows through a network: the output of a call together with what reached every layer in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kan_fast import processes

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from kan_fast.linear import KANLinear


class NotFinite(ValueError):
    """What reaches a layer is NaN or infinite."""


def record(model: nn.Module, layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """`model(x)`, whatever its forward and hooks do, and the input `(..., in)` of every layer in that call.

    A layer that was called several times has the samples of all its calls, `(n, in)`.

    Raises:
        ValueError: a layer was not called.
    """
    seen: list[list[Tensor]] = [[] for _ in layers]

    def hook(inputs: list[Tensor]) -> Any:
        return lambda _, args, kwargs: inputs.append(args[0] if args else kwargs["x"])

    hooks = [
        layer.register_forward_pre_hook(hook(inputs), with_kwargs=True)
        for layer, inputs in zip(layers, seen, strict=True)
    ]
    try:
        output = model(x)
    finally:
        for handle in hooks:
            handle.remove()
    unused = [index for index, inputs in enumerate(seen) if not inputs]
    if unused:
        raise ValueError(
            f"the forward of {type(model).__name__} does not call its layers {unused}; call or remove them"
        )
    return output, [one[0] if len(one) == 1 else torch.cat([t.flatten(0, -2) for t in one]) for one in seen]


def check_finite(layers: Sequence[KANLinear], inputs: Sequence[Tensor], group: ProcessGroup | None) -> None:
    """Raise NotFinite, in all processes of the group, if what reaches a layer in any of them is not finite."""
    local = [processes.local(t) for t in inputs]
    bad = torch.stack([(~t.isfinite()).any() for t in local]).long()
    counts = processes.total(bad, processes.data_group(layers[0].grid, group)).tolist()
    broken = [index for index, count in enumerate(counts) if count]
    if broken:
        what = (
            "clean the data" if broken[0] == 0 else "the parameters or inputs of the layers ahead of it are too large"
        )
        raise NotFinite(f"update_grid needs finite samples; NaN or infinity reaches layer {broken[0]}: {what}")
