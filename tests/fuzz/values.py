"""Random sizes, numbers and strides."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WRONG_DTYPES = (*DTYPES, torch.int64, torch.bool, torch.complex64)
MOST_NUMBERS = 1 << 21  # of the largest temporary of the reference


def sizes(choose: random.Random) -> tuple[int, int, int, int, int]:
    """Batch, in, out, grid size and degree."""
    while True:
        batch = choose.choice((0, 1, 2, 7, 33, 64, 70, 150, 300, 2100))
        features, outs = choose.choice((0, 1, 2, 3, 5, 17, 33)), choose.choice((0, 1, 2, 3, 8, 16, 31, 65, 130))
        size, degree = choose.choice((1, 1, 2, 3, 5, 11, 19, 30, 100)), choose.randrange(6)
        rows = size + degree
        if max(batch * features * max(rows, outs), outs * features * rows) <= MOST_NUMBERS:
            return batch, features, outs, size, degree


def numbers(choose: random.Random, shape: tuple[int, ...], dtype: torch.dtype, wild: float = 0.1) -> Tensor:
    """Normal numbers of any scale; with probability `wild` some are NaN or infinite."""
    most = math.log10(torch.finfo(dtype).max) / 4
    scale = 10.0 ** choose.choice((0, 0, 0, 0, 1, -1, -most, most))
    tensor = (torch.randn(shape, dtype=torch.float64) * scale).to(dtype)
    if choose.random() < wild and tensor.numel():
        for _ in range(choose.randrange(1, 4)):
            place = choose.randrange(tensor.numel())
            tensor.view(-1)[place] = choose.choice((math.nan, math.inf, -math.inf, torch.finfo(dtype).max, 0.0))
    return strided(choose, tensor)


def inputs(choose: random.Random, batch: int, grid: Tensor, dtype: torch.dtype) -> Tensor:
    """Samples in and around the range of a grid, some on its knots, a few NaN or infinite."""
    start, end = grid[:, 0].double(), grid[:, -1].double()
    x = start + (end - start) * (torch.rand(batch, len(grid), dtype=torch.float64) * 1.4 - 0.2)
    if x.numel() and choose.random() < 0.5:
        x[:: choose.randrange(1, 4)] = grid[:, choose.randrange(grid.shape[1])].double()
    x = x.to(grid.dtype).to(dtype)
    if x.numel() and choose.random() < 0.15:
        x.view(-1)[choose.randrange(x.numel())] = choose.choice((math.nan, math.inf, -math.inf))
    return strided(choose, x)


def knots(choose: random.Random, features: int, size: int, degree: int, dtype: torch.dtype) -> Tensor:
    """Increasing ones of any scale, `(in, G + 2k + 1)`."""
    count = size + 2 * degree + 1
    widths = torch.rand(features, count, dtype=torch.float64) + 0.1
    if choose.random() < 0.3:
        widths = torch.ones(features, count, dtype=torch.float64)
    grid = widths.cumsum(1) - choose.uniform(0, count)
    most = {torch.float32: 30, torch.float64: 300}[dtype]
    scale = choose.choice((0, 0, 0, 1, -1, choose.randrange(-most, most)))
    return strided(choose, (grid / size * 10.0**scale).to(dtype))


def strided(choose: random.Random, tensor: Tensor) -> Tensor:
    """The same numbers, maybe not contiguous."""
    way = choose.randrange(6)
    if way == 0 and tensor.dim() > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if way == 1 and tensor.dim():
        return tensor.repeat_interleave(2, -1)[..., ::2]
    if way == 2 and tensor.dim():
        return torch.cat([tensor[:1], tensor])[len(tensor[:1]) :]
    return tensor


def wrong_tensor(choose: random.Random, tensor: Tensor) -> Tensor | None:
    """One that differs in shape, dtype, layout or device; by luck it may still do."""
    if tensor.layout != torch.strided:
        return None
    way = choose.randrange(9)
    dim = choose.randrange(max(tensor.dim(), 1))
    if way == 0:
        return None
    if way == 1:
        return tensor.to(choose.choice(WRONG_DTYPES))
    if way == 2:
        return tensor[0] if tensor.dim() and len(tensor) else tensor.new_empty(())
    if way == 3:
        return tensor[None]
    if way == 4:
        return tensor.to("meta")
    if way == 5:
        return tensor.to_sparse() if tensor.dim() and not tensor.is_meta else tensor
    if way == 6 and tensor.dim():
        return tensor.narrow(dim, 0, choose.randrange(tensor.shape[dim] + 1))
    if way == 7 and tensor.dim():
        return torch.cat([tensor, tensor.narrow(dim, 0, min(1, tensor.shape[dim]))], dim)
    return tensor.transpose(0, -1) if tensor.dim() > 1 else tensor.flatten()[:0]
