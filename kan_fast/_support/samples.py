"""Samples: which columns are constant, up to rounding, or of a size beyond arithmetic; rows spread over all of them."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 1e100  # largest number, and inverse of the smallest: squares of others don't fit into float64
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


def check_sizes(name: str, x: Tensor) -> None:
    """Refuse columns of `x` `(n, columns)`, finite, whose squares overflow in float64, or underflow: errors would be 0.

    Raises:
        ValueError: the largest number of a column is above `LARGEST`, or below its inverse and not 0.
    """
    size = x.abs().amax(0).double()
    wrong = ((size > LARGEST) | ((size > 0) & (size < 1 / LARGEST))).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(
            f"{name} reaches {size[wrong[0]].item():.3g} in column {wrong[0]}; numbers must reach {1 / LARGEST:g} to "
            f"{LARGEST:g}, since squares of others don't fit into float64: change the unit of the column"
        )


def evenly(count: int, most: int, device: torch.device | None = None) -> Tensor:
    """Numbers of up to `most` of `count` rows at equal distances, the first and the last among them, int64."""
    return torch.linspace(0, count - 1, min(most, count), dtype=torch.float64, device=device).round().long()
