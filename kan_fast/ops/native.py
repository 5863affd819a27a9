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

from kan_fast.ops import built, empty
from kan_fast.ops.contract import ALL, Coefficients, Needs, NeedsCoef, Rows
from kan_fast.ops.problem import BASES, DTYPES, EXTRAPOLATIONS, check_size, pack


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
    check_size(_C.problem_size() if hasattr(_C, "problem_size") else None)
    _C.use_thread_pool(_thread_pool())
except ImportError as error:
    _C, _import_error = None, error

MAX_ORDER = 20
TAKES_GROUPS = True
_NONE = Coefficients(None, None)

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
    y = empty.forward(x, v, c, bias, rows)
    _run("forward", x, c, rows, y.shape[-1], v=v, bias=bias, y=y)
    return y


def grad_input(x: Tensor, g: Tensor, c: Coefficients, rows: Rows) -> Tensor:
    gx = empty.grad_input(x, g, c, rows)
    _run("backward", x, c, rows, g.shape[-1], g=g, gx=gx)
    return gx


def grad_coef(
    x: Tensor, v: Tensor | None, g: Tensor, rows: Rows, needs: NeedsCoef = (True, True)
) -> tuple[Tensor, Tensor]:
    gs, gb = empty.grad_coef(x, v, g, rows, needs)
    if needs[0] or needs[1]:
        _run("backward", x, _NONE, rows, g.shape[-1], v=v, g=g, gs=gs, gb=gb)
    return gs, gb


def backward(
    x: Tensor, v: Tensor | None, g: Tensor, c: Coefficients, rows: Rows, needs: Needs = ALL
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gx, gs, gb, gbias = empty.backward(x, v, g, c, rows, needs)
    if not (needs[1] or needs[2]):  # the kernel then takes the order of gx itself
        rows, v = rows.derivative(), None
    _run("backward", x, c, rows, g.shape[-1], v=v, g=g, gx=gx, gs=gs, gb=gb, gbias=gbias)
    return gx, gs, gb, gbias


def edge_magnitude(x: Tensor, c: Coefficients, rows: Rows) -> Tensor:
    m = empty.edge_magnitude(x, c, rows)
    _run("edge_magnitude", x, c, rows, m.shape[-2], y=m)
    return m


def edge_magnitude_backward(x: Tensor, gm: Tensor, c: Coefficients, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    gx, gs, gb = empty.edge_magnitude_backward(x, gm, c, rows)
    _run("edge_magnitude_backward", x, c, rows, gm.shape[-2], g=gm, gx=gx, gs=gs, gb=gb)
    return gx, gs, gb


def _run(
    kernel: str,
    x: Tensor,
    c: Coefficients,
    rows: Rows,
    outputs: int,
    *,
    v: Tensor | None = None,
    g: Tensor | None = None,
    bias: Tensor | None = None,
    y: Tensor | None = None,
    gx: Tensor | None = None,
    gs: Tensor | None = None,
    gb: Tensor | None = None,
    gbias: Tensor | None = None,
) -> None:
    """Call a kernel. It computes the results that are given, but for those of shape (..., 0)."""
    grid, order, (degree, base, extrapolation) = rows
    if order > MAX_ORDER:
        raise ValueError(f"the cpu backend takes derivatives up to order {MAX_ORDER}, got {order}; use 'reference'")
    assert isinstance(base, str), "callables run unfused"
    given = (x, v, g, *c, bias, grid)
    inputs = [t if t is None or t.is_contiguous() else t.contiguous() for t in given]  # keeps copies until the end
    *groups, batch, features = x.shape
    problem = pack(
        *[0 if t is None else t.data_ptr() for t in (*inputs, y, gx, gs, gb, gbias)],
        *(batch, features, outputs, grid.shape[-1]),
        *(DTYPES[x.dtype], degree, order, BASES[base], EXTRAPOLATIONS[extrapolation]),
        *(get_num_threads(), groups[0] if groups else 1),
    )
    getattr(_C, kernel)(_isa, problem)
