"""The triton backend: fused kernels for GPUs. Importable without Triton; `unavailable_reason` then says why.

Implements the backend contract of docs/architecture.md; the functions are those of `launch`, loaded at the first call.
"""

from __future__ import annotations

from typing import Any

import torch

from kan_fast.ops.problem import DTYPES as DTYPES

OLDEST = (3, 4)  # version of Triton; pyproject.toml has it too
_FUNCTIONS = ("forward", "grad_input", "grad_coef", "backward", "edge_magnitude", "edge_magnitude_backward")


def __getattr__(name: str) -> Any:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kan_fast.ops.triton import launch

    return getattr(launch, name)


def unavailable_reason() -> str | None:
    """Why the Triton kernels can't be used; None if they can."""
    try:
        import triton
    except ImportError as error:
        return f"Triton can't be imported ({error}); install it with pip install 'kan_fast[triton]'"
    if tuple(map(int, triton.__version__.split(".")[:2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return f"Triton {triton.__version__} can't compile the kernels; {oldest} (torch 2.8) and later can"
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    return None
