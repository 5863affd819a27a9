"""What conversion promises: the same function."""

from __future__ import annotations

import torch


def assert_same(result: torch.Tensor, expected: torch.Tensor) -> None:
    """1e-6 of the largest output: the figure that conversions promise in float32."""
    assert result.dtype == expected.dtype and result.shape == expected.shape
    scale = expected.abs().amax(0, keepdim=True).clamp(min=1)
    tolerance = 1e-6 if expected.dtype == torch.float32 else 1e-14
    assert ((result - expected).abs() / scale).max() <= tolerance
