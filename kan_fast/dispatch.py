"""Which backend serves a problem, and why: a pure function of device and dtype."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType, ModuleType
from typing import NamedTuple

import torch

from kan_fast import _cuda, _native, reference

MAX_DEGREE = 5


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


def backends() -> dict[str, Status]:
    """State of every backend on this machine, in order of preference."""
    return {
        "triton": Status(False, "this version has no Triton kernels"),
        "cuda": _cuda_status(),
        "cpu": _native_status(),
        "reference": Status(True, f"torch {torch.__version__}, any device"),
    }


NAMES = ("triton", "cuda", "cpu", "reference")


def module(name: str) -> ModuleType:
    """The module that implements the backend contract of docs/architecture.md under this name."""
    return {"cuda": _cuda, "cpu": _native, "reference": reference}[name]


@cache
def choose(device: str, dtype: torch.dtype, backend: str | None = None) -> Choice:
    """Choose the backend for tensors of a device type and dtype, or check the one that the user forces.

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


@torch.compiler.assume_constant_result
def chosen(device: str, dtype: torch.dtype, backend: str | None = None) -> str:
    """The name that `choose` gives; a constant for torch.compile."""
    return choose(device, dtype, backend).backend


def refusal(name: str, device: str, dtype: torch.dtype) -> str | None:
    """Why a backend can't serve tensors of a device type and dtype here; None if it can."""
    if name in ("cpu", "cuda", "triton"):
        wanted = "cpu" if name == "cpu" else "cuda"
        if device != wanted:
            return f"needs tensors on {wanted}, got {device}"
        status = backends()[name]
        if not status.available:
            return status.detail
    if name == "cpu" and dtype not in _native.DTYPES:
        return f"computes in {', '.join(str(d).removeprefix('torch.') for d in _native.DTYPES)}, got {dtype}"
    return None


def _native_status() -> Status:
    why = _native.unavailable_reason()
    return Status(False, why) if why else Status(True, f"{_native.isas()[0]} kernels on {_native.threading()}")


def _cuda_status() -> Status:
    why = _cuda.unavailable_reason()
    return Status(False, why) if why else Status(True, "compiled kernels for compute capability 7.5 and later")
