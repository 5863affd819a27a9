"""Networks with large random weights, and samples for them."""

from __future__ import annotations

import torch

from kan_fast import KAN


def samples(n=200, columns=2, dtype=torch.float64):
    return torch.rand(n, columns, dtype=dtype) * 2 - 1


def large(width, *, scale=1.0, **options):
    """A network whose splines and biases are not small, so that every edge matters."""
    model = KAN(width, **{"grid": 4, "seed": 0, "dtype": torch.float64, **options})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in model.layers:
            for p in layer.parameters():
                p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model
