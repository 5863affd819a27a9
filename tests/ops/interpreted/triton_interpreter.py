"""Makes Triton's interpreter a check of GPU kernels: right low precision, memory accesses checked, quick device calls.

The interpreter computes on the bits of bfloat16, does not round to TF32, never notices an access out of bounds or two
programs that write the same number, and patches the language anew at every device function. Import this before the
kernels, with TRITON_INTERPRET=1 in the environment.
"""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, TensorHandle

assert os.environ.get("TRITON_INTERPRET") == "1", "set TRITON_INTERPRET=1 before Triton is imported"


class MemoryFault(AssertionError):
    """An access outside of the tensors of a launch, or two programs at one address."""


def decode(handle: TensorHandle) -> np.ndarray:
    """The numbers of a handle; bfloat16, kept as 16 bits, as float32."""
    if handle.dtype.scalar != tl.bfloat16:
        return handle.data
    return (np.asarray(handle.data, np.uint32) << 16).view(np.float32)


def round_to_bfloat16(numbers: np.ndarray) -> np.ndarray:
    """The 16 bits of the nearest bfloat16, ties to even."""
    bits = np.asarray(numbers, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(numbers), np.uint16(0x7FC0), rounded)


def round_to_tf32(numbers: np.ndarray) -> np.ndarray:
    """float32 with 10 bits of mantissa: the hardware reads the upper 19 bits."""
    return (np.asarray(numbers, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


class _Launch:
    """Addresses of one launch: the extent of its tensors and what its programs wrote."""

    def __init__(self, tensors: list[Any]) -> None:
        self.extents = []
        for t in tensors:
            assert t.is_contiguous()
            self.extents.append((t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()))
        self.written: list[np.ndarray] = []
        self.read: list[np.ndarray] = []

    def check(self, pointers: TensorHandle, mask: TensorHandle, store: bool) -> None:
        addresses, mask_data = np.broadcast_arrays(pointers.data, mask.data)
        addresses = addresses[mask_data.astype(bool)].astype(np.int64)
        size = pointers.get_element_ty().primitive_bitwidth // 8
        inside = np.zeros(addresses.shape, bool)
        for start, stop in self.extents:
            inside |= (addresses >= start) & (addresses + size <= stop)
        if not inside.all():
            raise MemoryFault(f"{(~inside).sum()} of {inside.size} {'stores' if store else 'loads'} are out of bounds")
        if store and np.unique(addresses).size != addresses.size:
            raise MemoryFault("one store writes an address twice")
        (self.written if store else self.read).append(np.unique(addresses))

    def finish(self) -> None:
        written = np.concatenate([*self.written, np.empty(0, np.int64)])
        once = np.unique(written)
        if once.size != written.size:
            raise MemoryFault(f"{written.size - once.size} numbers are written twice")
        if self.read and np.isin(once, np.concatenate(self.read)).any():
            raise MemoryFault("a program reads what the launch writes")


_launch: _Launch | None = None
_scope: Any = None


def _patch() -> None:
    builder = InterpreterBuilder
    cast, convert, load = builder.cast_impl, builder.create_fp_to_fp, builder.create_masked_load
    store, binary, patch_language = builder.create_masked_store, builder.binary_op, interpreter._patch_lang

    def cast_impl(self, source, target):
        low, scalar = source.dtype.scalar == tl.bfloat16, target.scalar
        if low and scalar == tl.bfloat16:
            return source
        if low:
            return TensorHandle(decode(source).astype(interpreter._get_np_dtype(target)), scalar)
        if scalar == tl.bfloat16:
            return TensorHandle(round_to_bfloat16(source.data), scalar)
        return cast(self, source, target)

    def create_fp_to_fp(self, source, target, mode):
        if tl.bfloat16 in (source.dtype.scalar, target.scalar):
            return cast_impl(self, source, target)
        return convert(self, source, target, mode)

    def binary_op(self, left, right, op):
        assert tl.bfloat16 not in (left.dtype.scalar, right.dtype.scalar), "no arithmetic on bfloat16: cast to float32"
        return binary(self, left, right, op)

    def create_dot(self, a, b, d, precision, _):
        (m, k), n = a.data.shape, b.data.shape[1]
        assert m >= 16 and n >= 8 and k >= 8, f"tl.dot takes at least 16 x 8 x 8, got {m} x {n} x {k}"
        left, right = decode(a), decode(b)
        if left.dtype == np.float32 and a.dtype.scalar == tl.float32 and str(precision).endswith("TF32"):
            left, right = round_to_tf32(left), round_to_tf32(right)
        with np.errstate(all="ignore"):
            product = np.matmul(left.astype(d.data.dtype), right.astype(d.data.dtype))
        return TensorHandle((product + d.data).astype(d.data.dtype), d.dtype.scalar)

    def create_masked_load(self, pointers, mask, *rest):
        if _launch is not None:
            _launch.check(pointers, mask, store=False)
        return load(self, pointers, mask, *rest)

    def create_masked_store(self, pointers, value, mask, *rest):
        if _launch is not None:
            _launch.check(pointers, mask, store=True)
        return store(self, pointers, value, mask, *rest)

    builder.cast_impl, builder.create_fp_to_fp, builder.binary_op = cast_impl, create_fp_to_fp, binary_op
    builder.create_dot = create_dot
    builder.create_masked_load, builder.create_masked_store = create_masked_load, create_masked_store

    def patch_once(fn):
        """The language stays patched while a kernel runs; device functions need nothing more."""
        return patch_language(fn) if _scope is None else _scope

    interpreter._patch_lang = patch_once
    execute = GridExecutor.__call__

    def call(self, *args, **kwargs):
        global _launch, _scope
        _launch = _Launch([a for a in (*args, *kwargs.values()) if hasattr(a, "data_ptr")])
        _scope = patch_language(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
        restore, _scope.restore = _scope.restore, lambda: None
        try:
            with np.errstate(all="ignore"):
                execute(self, *args, **kwargs)
            _launch.finish()
        finally:
            restore()
            _launch = _scope = None

    GridExecutor.__call__ = call


_patch()
# Three more operations for every sum of integers; the sizes that fit the interpreter are far from overflow.
interpreter.interpreter_builder.options = replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
