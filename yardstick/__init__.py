"""The yardstick of tests and bench: exact results of the contractions, from which errors are taken.

Both a kernel and plain torch in the kernel's dtype are measured against it, so that neither the BLAS behind plain torch
nor the processor decides what counts as right.
"""

from __future__ import annotations

from types import ModuleType

import torch

from kan_fast.ops import reference
from yardstick import contractions
from yardstick.double_double import DoubleDouble
from yardstick.rule import complaint

__all__ = ["DoubleDouble", "complaint", "exact_for"]


def exact_for(dtype: torch.dtype) -> ModuleType:
    """The functions of the backend contract that are exact for results of a dtype, given its inputs as float64.

    float64 is measured in double-double arithmetic, and narrower dtypes by the reference in float64, which has twice
    their digits and takes less time.
    """
    return contractions if dtype == torch.float64 else reference
