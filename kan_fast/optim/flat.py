"""Parameters and their gradients as one vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kan_fast._support import torch_internals


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
