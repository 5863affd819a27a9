"""Samples: which columns are constant, up to rounding, and rows spread over all of them."""

from __future__ import annotations

import torch
from torch import Tensor

ENOUGH = 4096  # samples of a stream of batches that stand for all of them


def are_constant(x: Tensor, dtype: torch.dtype | None = None, roundings: int = 4) -> Tensor:
    """Whether the numbers of each column of `x` `(n, columns)`, n > 0, are the same but for rounding, `(columns,)`.

    Not by the standard deviation: that of equal numbers is rounding error of their mean, and so almost never 0.

    Args:
        x: finite numbers.
        dtype: the dtype in which the numbers were rounded; None for that of `x`.
        roundings: a column whose range is at most this many rounding errors of its largest number counts as constant.
    """
    low, high = x.aminmax(dim=0)
    eps = torch.finfo(x.dtype if dtype is None else dtype).eps
    return high - low <= roundings * eps * torch.maximum(low.abs(), high.abs())


def evenly(count: int, most: int, device: torch.device | None = None) -> Tensor:
    """Numbers of up to `most` of `count` rows at equal distances, the first and the last among them, int64."""
    return torch.linspace(0, count - 1, min(most, count), dtype=torch.float64, device=device).round().long()
