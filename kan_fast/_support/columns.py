"""Columns of data: which of them have no spread but that of rounding."""

from __future__ import annotations

import torch
from torch import Tensor


def are_constant(x: Tensor, dtype: torch.dtype | None = None, roundings: int = 4) -> Tensor:
    """Whether the numbers of each column of `x` `(n, columns)`, n > 0, are the same but for rounding, `(columns,)`.

    Not by the standard deviation: that of equal numbers is rounding error of their mean, and so almost never 0.

    Args:
        x: finite numbers.
        dtype: in which they were rounded; None for that of `x`.
        roundings: of the largest number of a column: a range up to this is none.
    """
    low, high = x.aminmax(dim=0)
    eps = torch.finfo(x.dtype if dtype is None else dtype).eps
    return high - low <= roundings * eps * torch.maximum(low.abs(), high.abs())
