"""Parameters and their gradients as one vector, and steps that are computed in their dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from kan_fast._support import torch_internals

Step = Callable[[Any, Callable[[], Any]], Tensor]


def in_own_dtype(step: Step) -> Step:
    """An optimiser's step without gradients and without autocast; its closure has gradients, and autocast as outside.

    Products of gradients in 16 bits are too coarse for a line search.
    """

    @wraps(step)
    def call(self: Any, closure: Callable[[], Any]) -> Tensor:
        device = self.param_groups[0]["params"][0].device.type
        enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        # Without the cache, which would hold parameters as they were before a step.
        outside = torch.autocast(device, dtype, enabled, cache_enabled=False)
        with torch.no_grad(), torch.autocast(device, dtype, enabled=False):
            return step(self, torch.enable_grad()(outside(closure)))

    return call


def flatten(params: Sequence[Tensor]) -> Tensor:
    """All parameters, end to end, in a new vector."""
    return torch.cat([p.reshape(-1) for p in params])


def flatten_gradients(params: Sequence[Tensor]) -> Tensor:
    """The gradients of the parameters, end to end; zeros for a parameter without one."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in params])


def write(params: Sequence[Tensor], flat: Tensor) -> None:
    """Copy a vector into the parameters, in their dtype."""
    parts = flat.split([p.numel() for p in params])
    torch_internals.copy_all(list(params), [part.view_as(p) for part, p in zip(parts, params, strict=True)])
