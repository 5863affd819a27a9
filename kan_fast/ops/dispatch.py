"""Which backend serves a problem, and why: a pure function of device and dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType, ModuleType
from typing import NamedTuple

import torch

from kan_fast.ops import cuda, native, reference, triton


class Status(NamedTuple):
    """Whether a backend can be used on this machine, and what it runs on or why it can't."""

    available: bool
    detail: str

    def __str__(self) -> str:
        return f"{'available' if self.available else 'unavailable'}: {self.detail}"


class Choice(NamedTuple):
    """The backend that serves a problem, and why each one that was tried before it does not."""

    backend: str
    refusals: Mapping[str, str]

    def __str__(self) -> str:
        return "\n".join([*(f"{name}: {why}" for name, why in self.refusals.items()), f"{self.backend}: used"])


class _Backend(NamedTuple):
    module: ModuleType
    device: str | None  # None: any
    detail: Callable[[], str]  # what it runs on, where it is available


_BACKENDS = {
    "cuda": _Backend(cuda, "cuda", lambda: f"compiled kernels on {torch.cuda.get_device_name()}"),
    "triton": _Backend(triton, "cuda", lambda: f"just-in-time kernels on {torch.cuda.get_device_name()}"),
    "cpu": _Backend(native, "cpu", lambda: f"{native.isa()} kernels on {native.threading()}"),
    "reference": _Backend(reference, None, lambda: f"torch {torch.__version__}, any device"),
}
NAMES = tuple(_BACKENDS)


def module(name: str) -> ModuleType:
    """The module that implements the backend contract of docs/architecture.md under this name."""
    return _BACKENDS[name].module


def backends() -> dict[str, Status]:
    """State of every backend on this machine, in order of preference."""
    states = {}
    for name, backend in _BACKENDS.items():
        why = None if name == "reference" else backend.module.unavailable_reason()
        states[name] = Status(True, backend.detail()) if why is None else Status(False, why)
    return states


@cache
def choose(device: str, dtype: torch.dtype, backend: str | None = None) -> Choice:
    """Choose the backend for tensors of a device type and dtype, or check the one that the user forces.

    On GPUs cuda comes before triton: both leave the products of matrices to torch, its kernels start in less time, and
    it has a second form for large grids.

    Raises:
        ValueError: the forced backend is unknown or can't serve the problem; the message says why.
    """
    if backend is not None:
        if backend not in NAMES:
            raise ValueError(f"unknown backend {backend!r}; allowed: {', '.join(NAMES)}, or None to choose")
        why = refusal(backend, device, dtype)
        if why is not None:
            raise ValueError(f"backend {backend!r} can't be used here: {why}; use backend=None to choose another")
        return Choice(backend, MappingProxyType({}))
    refusals: dict[str, str] = {}
    for name in NAMES:
        why = refusal(name, device, dtype)
        if why is None:
            return Choice(name, MappingProxyType(refusals))
        refusals[name] = why
    raise ValueError(f"no backend serves {dtype} on {device}:\n" + "\n".join(map(": ".join, refusals.items())))


def chosen(device: str, dtype: torch.dtype, backend: str | None = None) -> str:
    """The name that `choose` gives; a constant for torch.compile."""
    return choose(device, dtype, backend).backend


# What torch.compiler.assume_constant_result does. To call it would import the compiler, which takes as long as torch.
chosen._dynamo_marked_constant = True  # type: ignore[attr-defined]


def refusal(name: str, device: str, dtype: torch.dtype) -> str | None:
    """Why a backend can't serve tensors of a device type and dtype here; None if it can."""
    if name == "reference":
        return None
    backend = _BACKENDS[name]
    if device != backend.device:
        return f"needs tensors on {backend.device}, got {device}"
    if dtype not in backend.module.DTYPES:
        return f"computes in {', '.join(str(d).removeprefix('torch.') for d in backend.module.DTYPES)}, got {dtype}"
    return backend.module.unavailable_reason()
