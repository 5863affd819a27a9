"""The interpreter's own checks: they would see a kernel that reads or writes where it must not."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from tests.ops.interpreted import triton_interpreter as checked


@triton.jit
def copy_kernel(source, target, n, STEP: tl.constexpr, OVER: tl.constexpr):
    at = tl.program_id(0) * STEP + tl.arange(0, 8)
    value = tl.load(source + at, mask=at < n + OVER)
    tl.store(target + at, value, mask=at < n)


@triton.jit
def product_kernel(a, b, out):
    m, n = tl.arange(0, 16)[:, None], tl.arange(0, 16)[None, :]
    product = tl.dot(tl.load(a + m * 16 + n), tl.load(b + m * 16 + n), input_precision="tf32")
    tl.store(out + m * 16 + n, product.to(out.dtype.element_ty))


def test_accesses_are_checked() -> None:
    source, target = torch.arange(12.0), torch.empty(12)
    copy_kernel[(2,)](source, target, 12, STEP=8, OVER=0)
    assert torch.equal(source, target)
    with pytest.raises(InterpreterError, match="out of bounds"):
        copy_kernel[(2,)](source, target, 12, STEP=8, OVER=1)
    with pytest.raises(checked.MemoryFault, match="written twice"):
        copy_kernel[(2,)](source, target, 12, STEP=4, OVER=0)
    with pytest.raises(checked.MemoryFault, match="reads what the launch writes"):
        copy_kernel[(2,)](source, source, 12, STEP=8, OVER=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_have_the_precision_of_the_hardware(dtype: torch.dtype) -> None:
    a, b = torch.randn(16, 16).to(dtype), torch.randn(16, 16).to(dtype)
    out = torch.empty(16, 16)
    product_kernel[(1,)](a, b, out)
    if dtype == torch.float32:
        a, b = ((t.view(torch.int32) & ~0x1FFF).view(torch.float32) for t in (a, b))
    torch.testing.assert_close(out, a.float() @ b.float())


def test_rounding_to_bfloat16() -> None:
    numbers = torch.randn(1000) * torch.logspace(-30, 30, 1000)
    rounded = checked.round_to_bfloat16(numbers.numpy())
    assert np.array_equal(rounded, numbers.bfloat16().view(torch.uint16).numpy())
