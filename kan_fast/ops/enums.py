"""The numbers by which the kernels of csrc know dtypes, base functions and extrapolations (csrc/kernels.h)."""

from __future__ import annotations

import torch

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
BASES = {"silu": 0, "identity": 1, "zero": 2}
EXTRAPOLATIONS = {"zero": 0, "linear": 1, "clamp": 2}
