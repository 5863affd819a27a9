"""What flows through a network: the output of a call together with what reached every layer in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from kan_fast._support import collectives

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from kan_fast.nn.linear import KANLinear
    from kan_fast.nn.network import KAN


class NotFinite(ValueError):
    """What reaches a layer is NaN or infinite."""


class Samples(NamedTuple):
    """The inputs that a network was trained on last, by reference: deepcopy shares them, pickle leaves them out."""

    x: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Samples:
        return self

    def __reduce__(self) -> tuple[type[Samples], tuple[()]]:
        return Samples, ()


@torch.no_grad()
def samples(model: KAN, x: Tensor | None, what: str) -> Tensor:
    """The samples `(n, width_in[0])` that `what` is to use: x, or else the inputs that `fit` trained on last.

    Raises:
        ValueError: there are none, or fewer than two, or they have another number of columns.
    """
    x = model.last_inputs.x if x is None else x
    if x is None:
        raise ValueError(f"{what} needs samples: pass x=..., or train with fit first, whose inputs it then uses")
    like = model.layers[0].spline_weight
    x = torch.as_tensor(x).detach().to(like.device, like.dtype)
    if x.dim() < 2 or x.shape[-1] != model.width_in[0]:
        raise ValueError(f"{what} expected samples (n, {model.width_in[0]}), got x of shape {tuple(x.shape)}")
    x = x.reshape(-1, x.shape[-1])
    if len(x) < 2:
        raise ValueError(f"{what} compares deviations over the samples: give at least 2, got {len(x)}")
    return x


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
    local = [collectives.local(t) for t in inputs]
    bad = torch.stack([(~t.isfinite()).any() for t in local]).long()
    counts = collectives.total(bad, collectives.data_group(layers[0].grid, group)).tolist()
    broken = [index for index, count in enumerate(counts) if count]
    if broken:
        what = (
            "clean the data" if broken[0] == 0 else "the parameters or inputs of the layers ahead of it are too large"
        )
        raise NotFinite(f"update_grid needs finite samples; NaN or infinity reaches layer {broken[0]}: {what}")
