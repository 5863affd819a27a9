"""The rule of accuracy: at most twice as wrong as plain torch in the same dtype, plus one rounding unit."""

from __future__ import annotations

import torch
from torch import Tensor

from yardstick.double_double import DoubleDouble


def complaint(result: Tensor, plain: Tensor, exact: Tensor | DoubleDouble) -> str | None:
    """What is wrong with a result; None if it is as accurate as it should be.

    The root mean square of its errors may be twice that of plain torch, plus a rounding unit of the largest exact
    number, since plain torch can be exact by luck where there are few numbers. The largest error may stand out from
    this as far as the largest of plain torch stands out from its own, or three times: errors are not alike where some
    numbers are sums of larger terms than others, and of few errors the largest is a matter of luck.

    Args:
        result: of a kernel.
        plain: what the reference gives in the dtype of `result`.
        exact: what `yardstick.exact_for` this dtype gives.
    """
    exact = DoubleDouble.of(exact)
    if result.dtype != plain.dtype or result.shape != exact.shape:
        return f"{result.dtype} {tuple(result.shape)}, expected {plain.dtype} {tuple(exact.shape)}"
    if not result.isfinite().all():
        return f"{(~result.isfinite()).sum()} of {result.numel()} numbers are not finite"
    if not result.numel():
        return None
    unit = torch.finfo(result.dtype).eps * exact.high.abs().max()
    error, plain_error = exact.error_of(result), exact.error_of(plain)
    rms, plain_rms = (e.square().mean().sqrt() for e in (error, plain_error))
    largest, plain_largest = error.max(), plain_error.max()
    allowed = 2 * plain_rms + unit
    stands_out = (plain_largest / plain_rms).nan_to_num().clamp(min=3)
    if rms > allowed:
        return f"rms error {rms:.3g}, plain torch {plain_rms:.3g}, unit {unit:.3g}: allowed are {allowed:.3g}"
    if largest > stands_out * allowed:
        many = f"plain torch {plain_largest:.3g}, unit {unit:.3g}"
        return f"largest error {largest:.3g}, {many}: allowed are {stands_out * allowed:.3g}"
    return None
