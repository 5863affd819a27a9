"""Parameters as they act on every sample, with gradients that can be read sample by sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from kan_fast._support import torch_internals

_LIBRARY = torch.library.Library("kan_fast", "FRAGMENT")
_LIBRARY.define("collect(Tensor gradients, Tensor parameter) -> Tensor")
_LIBRARY.impl("collect", lambda gradients, parameter: gradients.sum(-1), "CompositeExplicitAutograd")
torch.library.register_fake(
    "kan_fast::collect", lambda gradients, parameter: gradients.new_empty(parameter.shape), lib=_LIBRARY
)


def spread(parameter: Tensor, samples: int) -> Tensor:
    """A parameter `(...)` that broadcasts against `(..., samples)`.

    In ordinary training a Function of its own expands the parameter to that shape. Its backward pass receives one
    gradient for each sample, however the parameter was used, and sums them with the operator `collect`.
    `optim.jacobian` watches the calls of that operator and so reads the gradients sample by sample.
    """
    plain = (
        not torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch_internals.transforms_active()
        or torch_internals.forward_mode()
        or torch_internals.tracing()
    )
    return parameter[..., None] if plain else _Spread.apply(parameter, samples)


class _Spread(Function):
    """`(...)` to `(..., samples)`."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, samples: int) -> Tensor:
        ctx.save_for_backward(parameter)
        return parameter[..., None].expand(*parameter.shape, samples)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None]:
        return _Collect.apply(gradients, *ctx.saved_tensors), None


class _Collect(Function):
    """The sum over the samples, `(..., samples)` to `(...)`, of the gradients of `parameter`."""

    @staticmethod
    def forward(ctx: Any, gradients: Tensor, parameter: Tensor) -> Tensor:
        ctx.samples = gradients.shape[-1]
        return torch.ops.kan_fast.collect(gradients, parameter)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None]:
        return v[..., None].expand(*v.shape, ctx.samples), None
