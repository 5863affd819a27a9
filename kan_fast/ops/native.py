"""The cpu backend: launches the compiled kernels of csrc/cpu on torch tensors.

Implements the backend contract of docs/architecture.md, with groups. Importable without the extension;
`unavailable_reason` then says why. The kernels run on torch's own pool of threads and obey `torch.set_num_threads`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, get_num_threads

from kan_fast.ops import built
from kan_fast.ops.contract import ALL, Coefficients, Needs, NeedsCoef, Rows, Spec
from kan_fast.ops.enums import BASES as _BASES
from kan_fast.ops.enums import DTYPES
from kan_fast.ops.enums import EXTRAPOLATIONS as _EXTRAPOLATIONS


def _thread_pool() -> int:
    """Address of the entry point of the OpenMP runtime that torch calls, or 0.

    The global scope comes first, as it does for torch: a preloaded runtime is there. The libraries that torch's own
    module is linked with come next, because their symbols need not be visible to the whole process.
    """
    for path in (None, torch._C.__file__):
        try:
            pool = ctypes.CDLL(path, mode=os.RTLD_LAZY | os.RTLD_NOLOAD).GOMP_parallel
            return ctypes.cast(pool, ctypes.c_void_p).value or 0
        except (OSError, AttributeError):
            pass
    return 0


_C: Any
try:
    _C = import_module("kan_fast._C")
    _C.use_thread_pool(_thread_pool())
except ImportError as error:
    _C, _import_error = None, error

MAX_ORDER = 20
TAKES_GROUPS = True

_isa = 0  # index into isas()


def unavailable_reason() -> str | None:
    """Why the compiled kernels can't be used; None if they can."""
    if _C is not None:
        return None
    return f"the compiled extension kan_fast._C can't be imported ({built.why_missing('_C') or _import_error})"


def isas() -> list[str]:
    """The instruction sets that have kernels and that this processor can execute, best first."""
    return [] if _C is None else _C.isas()


def isa() -> str:
    """The instruction set whose kernels run: the best one, unless `use_isa` says otherwise; "" without kernels."""
    return isas()[_isa] if isas() else ""


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Run the kernels of one instruction set, for the whole process.

    Raises:
        ValueError: `name` is not in `isas()`.
    """
    global _isa
    if name not in isas():
        raise ValueError(f"unknown instruction set {name!r}; this processor has {', '.join(isas()) or 'none'}")
    previous, _isa = _isa, isas().index(name)
    try:
        yield
    finally:
        _isa = previous


def threading() -> str:
    """How the kernels run in parallel, in one sentence."""
    if _C is None:
        return "no compiled kernels"
    if not _C.has_thread_pool():
        return "one thread: this build of torch shares no OpenMP runtime (GOMP_parallel)"
    if _C.is_forked():
        return "one thread: this process was forked, which the threads of OpenMP don't survive; start it by 'spawn'"
    return "the OpenMP threads of torch"


def forward(x: Tensor, v: Tensor | None, c: Coefficients, bias: Tensor | None, rows: Rows) -> Tensor:
    out = c.edge_shape[0]
    y = x.new_empty(*x.shape[:-1], out)
    _run("forward", x, v, None, c.spline, c.base, bias, rows.grid, rows.order, rows.spec, out, y)
    return y


def grad_input(x: Tensor, g: Tensor, c: Coefficients, rows: Rows) -> Tensor:
    gx = x.new_empty(x.shape)
    _run("backward", x, None, g, c.spline, c.base, None, rows.grid, rows.order, rows.spec, g.shape[-1], gx=gx)
    return gx


def grad_coef(
    x: Tensor, v: Tensor | None, g: Tensor, rows: Rows, needs: NeedsCoef = (True, True)
) -> tuple[Tensor, Tensor]:
    gs, gb = _empty_coefficients(x, g.shape[-1], rows, *needs)
    if needs[0] or needs[1]:
        _run("backward", x, v, g, None, None, None, rows.grid, rows.order, rows.spec, g.shape[-1], gs=gs, gb=gb)
    return gs, gb


def backward(
    x: Tensor, v: Tensor | None, g: Tensor, c: Coefficients, rows: Rows, needs: Needs = ALL
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    groups, out = x.shape[:-2], g.shape[-1]
    need_x, need_spline, need_base, need_bias = needs
    gx = x.new_empty(*x.shape) if need_x else x.new_empty(*groups, 0)
    gs, gb = _empty_coefficients(x, out, rows, need_spline, need_base)
    gbias = x.new_empty(*groups, out if need_bias else 0)
    if not (need_spline or need_base):  # v belongs to them
        rows, v = rows.derivative(), None
    _run("backward", x, v, g, c.spline, c.base, None, rows.grid, rows.order, rows.spec, out, None, gx, gs, gb, gbias)
    return gx, gs, gb, gbias


def edge_magnitude(x: Tensor, c: Coefficients, rows: Rows) -> Tensor:
    edges = c.edge_shape
    m = x.new_empty((*x.shape[:-2], *edges))
    _run("edge_magnitude", x, None, None, c.spline, c.base, None, rows.grid, rows.order, rows.spec, edges[0], y=m)
    return m


def edge_magnitude_backward(x: Tensor, gm: Tensor, c: Coefficients, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    gx = x.new_empty(x.shape)
    gs, gb = (x.new_empty((*x.shape[:-2], 0) if w is None else w.shape) for w in c)
    _run(
        "edge_magnitude_backward",
        x,
        None,
        gm,
        c.spline,
        c.base,
        None,
        rows.grid,
        rows.order,
        rows.spec,
        gm.shape[-2],
        gx=gx,
        gs=gs,
        gb=gb,
    )
    return gx, gs, gb


def _empty_coefficients(x: Tensor, out: int, rows: Rows, need_spline: bool, need_base: bool) -> tuple[Tensor, Tensor]:
    groups, edges = x.shape[:-2], (out, x.shape[-1])
    gs = x.new_empty(*groups, *edges, rows.splines) if need_spline else x.new_empty(*groups, 0)
    return gs, x.new_empty(*groups, *edges) if need_base else x.new_empty(*groups, 0)


def _run(
    kernel: str,
    x: Tensor,
    v: Tensor | None,
    g: Tensor | None,
    spline_weight: Tensor | None,
    base_weight: Tensor | None,
    bias: Tensor | None,
    grid: Tensor,
    order: int,
    spec: Spec,
    out: int,
    y: Tensor | None = None,
    gx: Tensor | None = None,
    gs: Tensor | None = None,
    gb: Tensor | None = None,
    gbias: Tensor | None = None,
) -> None:
    """Call a kernel; results are wanted where they are given and not of shape (..., 0)."""
    if order > MAX_ORDER:
        raise ValueError(f"the cpu backend takes derivatives up to order {MAX_ORDER}, got {order}; use 'reference'")
    # Names keep the contiguous copies alive until the call returns.
    given = (grid, x, v, g, spline_weight, base_weight, bias)
    inputs = [t if t is None or t.is_contiguous() else t.contiguous() for t in given]
    addresses = [0 if t is None else t.data_ptr() for t in (*inputs, y, gx, gs, gb, gbias)]
    degree, base, extrapolation = spec
    assert isinstance(base, str), "callables run unfused"
    *groups, batch, features = x.shape
    getattr(_C, kernel)(
        _isa,
        DTYPES[x.dtype],
        get_num_threads(),
        groups[0] if groups else 1,
        batch,
        features,
        out,
        grid.shape[-1] - 2 * degree - 1,
        degree,
        order,
        _BASES[base],
        _EXTRAPOLATIONS[extrapolation],
        *addresses,
    )
