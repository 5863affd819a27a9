"""The cuda backend: launches the compiled kernels of csrc/cuda on torch's current stream.

Implements the backend contract of docs/architecture.md. The contractions have two forms: matrix products of all rows
(`dense`), and kernels that evaluate only the k + 1 rows that are not 0, for large grids. The kernels are a plain shared
library behind the C interface of csrc/cuda/interface.h, with the CUDA runtime inside: it loads on any machine, and
`unavailable_reason` says what is missing there. Nothing here waits for the device, so every function can be captured in
a CUDA graph.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

from kan_fast._support import torch_internals
from kan_fast.ops import built, dense, empty, tuning
from kan_fast.ops.contract import ALL, Coefficients, Needs, NeedsCoef, Rows, Spec, composed_backward
from kan_fast.ops.problem import BASES, DTYPES, EXTRAPOLATIONS, Problem, check_size

_OPERATIONS = [
    "forward",
    "grad_input",
    "grad_coef",
    "edge_magnitude",
    "edge_grad_input",
    "edge_grad_coef",
    "rows",
    "contract",
]


def load(path: Path) -> ctypes.CDLL:
    """Load a library with the interface of csrc/cuda/interface.h.

    Raises:
        OSError: the file is missing or not a library for this machine.
        ImportError: it was built from other sources.
    """
    library = ctypes.CDLL(str(path))
    check_size(library.kan_cuda_problem_size() if hasattr(library, "kan_cuda_problem_size") else None)
    library.kan_cuda_workspace.argtypes = [ctypes.c_int32, ctypes.POINTER(Problem)]
    library.kan_cuda_launch.argtypes = [ctypes.c_int32, ctypes.POINTER(Problem)]
    library.kan_cuda_workspace.restype = ctypes.c_int64
    library.kan_cuda_error_name.restype = library.kan_cuda_error_text.restype = ctypes.c_char_p
    return library


@cache
def _library() -> ctypes.CDLL | str:
    """The kernels, or why there are none."""
    for suffix in EXTENSION_SUFFIXES:
        path = built.FOLDER / ("_cuda_kernels" + suffix)
        if path.exists():
            try:
                return load(path)
            except (OSError, ImportError) as error:
                return f"the compiled kernels can't be loaded ({error})"
    why = built.why_missing("_cuda_kernels") or "they are compiled where nvcc is found"
    return f"this installation has no CUDA kernels; {why}"


@cache
def unavailable_reason() -> str | None:
    """Why the kernels can't be used; None if they can."""
    library = _library()
    if isinstance(library, str):
        return library
    devices = library.kan_cuda_devices()
    if devices <= 0:
        return "no CUDA device" if devices == 0 else f"no CUDA device ({_error(library, -devices)})"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} does not see the CUDA device"
    return None


class Basis(dense.Basis):
    """Rows by the kernels of csrc/cuda/rows.cuh."""

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows)
        self._of = rows
        self._table: Tensor | None = None

    def write(
        self, x: Tensor, v: Tensor | None, inputs: range, high: Tensor | None, low: Tensor | None, base: Tensor | None
    ) -> None:
        self._call("rows", x, inputs, v=v, gs=high, low=low, gb=base)

    def contract(self, x: Tensor, splines: Tensor | None, base: Tensor | None, gx: Tensor) -> None:
        self._call("contract", x, spline_weight=splines, base_weight=base, gx=gx)

    def _call(self, operation: str, x: Tensor, inputs: range = range(0), **tensors: Tensor | None) -> None:
        """Run an operation. The first one makes the table in its workspace, which later ones reuse."""
        grid, order, spec = self._of
        tensors["table"] = self._table
        workspace = _run(operation, x, grid, order, spec, inputs, **tensors)
        self._table = workspace if self._table is None else self._table


def _dense(x: Tensor, rows: Rows) -> bool:
    """Whether products of all rows take less time than the k + 2 rows of the local form."""
    return rows.splines + 1 <= tuning.ROWS_PER_ROW[dense.arithmetic(x.dtype)] * (rows.spec.degree + 2)


def forward(x: Tensor, v: Tensor | None, c: Coefficients, bias: Tensor | None, rows: Rows) -> Tensor:
    if _dense(x, rows):
        return dense.forward(Basis(rows), x, v, c, bias)
    y = empty.forward(x, v, c, bias, rows)
    _run("forward", x, *rows, v=v, spline_weight=c.spline, base_weight=c.base, bias=bias, y=y)
    return y


def grad_input(x: Tensor, g: Tensor, c: Coefficients, rows: Rows) -> Tensor:
    if _dense(x, rows):
        return dense.grad_input(Basis(rows), x, g, c)
    gx = empty.grad_input(x, g, c, rows)
    _run("grad_input", x, *rows, g=g, spline_weight=c.spline, base_weight=c.base, gx=gx)
    return gx


def grad_coef(
    x: Tensor, v: Tensor | None, g: Tensor, rows: Rows, needs: NeedsCoef = (True, True)
) -> tuple[Tensor, Tensor]:
    if _dense(x, rows):
        return dense.grad_coef(Basis(rows), x, v, g, needs)
    gs, gb = empty.grad_coef(x, v, g, rows, needs)
    if any(needs):
        _run("grad_coef", x, *rows, v=v, g=g, gs=gs, gb=gb)
    return gs, gb


_backward = composed_backward(grad_input, grad_coef)


def backward(
    x: Tensor, v: Tensor | None, g: Tensor, c: Coefficients, rows: Rows, needs: Needs = ALL
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _backward(x, v, g.contiguous(), c, rows, needs)


def edge_magnitude(x: Tensor, c: Coefficients, rows: Rows) -> Tensor:
    m = empty.edge_magnitude(x, c, rows)
    _run("edge_magnitude", x, *rows, spline_weight=c.spline, base_weight=c.base, y=m)
    return m


def edge_magnitude_backward(x: Tensor, gm: Tensor, c: Coefficients, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    gx, gs, gb = empty.edge_magnitude_backward(x, gm, c, rows)
    _run("edge_grad_input", x, *rows, g=gm, spline_weight=c.spline, base_weight=c.base, gx=gx)
    _run("edge_grad_coef", x, *rows, g=gm, spline_weight=c.spline, base_weight=c.base, gs=gs, gb=gb)
    return gx, gs, gb


def _run(
    operation: str, x: Tensor, grid: Tensor, order: int, spec: Spec, inputs: range = range(0), **tensors: Tensor | None
) -> Tensor:
    """Queue one operation; results are among `tensors`, contiguous, as the fields of `Problem` name them.

    Returns the workspace.
    """
    library = _library()
    if isinstance(library, str):
        raise RuntimeError(library)
    # copies live until the launch; the allocator then gives their memory to later work on the same stream
    held = {name: t.contiguous() for name, t in {"x": x, "grid": grid, **tensors}.items() if t is not None}
    device, stream = _device_and_stream(x.device)
    problem = Problem(
        **{name: t.data_ptr() for name, t in held.items()},
        device=device,
        stream=stream,
        batch=x.shape[0],
        inputs=x.shape[1],
        outputs=_outputs(**held),
        knots=grid.shape[1],
        first=inputs.start,
        count=len(inputs),
        dtype=DTYPES[x.dtype],
        degree=spec.degree,
        order=order,
        base=BASES[spec.base],  # type: ignore[index]  # callables are computed in functional.py
        extrapolation=EXTRAPOLATIONS[spec.extrapolation],
    )
    number = _OPERATIONS.index(operation)
    workspace = torch.empty(library.kan_cuda_workspace(number, problem), dtype=torch.uint8, device=x.device)
    problem.workspace = workspace.data_ptr()
    error = library.kan_cuda_launch(number, problem)
    if error:
        raise RuntimeError(f"the CUDA kernels of {operation} could not be launched: {_error(library, error)}")
    return workspace


def _device_and_stream(device: torch.device) -> tuple[int, int]:
    # torch.cuda.current_stream makes an object and takes as long as a launch
    return device.index, torch_internals.current_stream(device.index)


def _outputs(**tensors: Tensor) -> int:
    """The number of outputs, from the weights or g (batch, out); 0 for operations that have neither."""
    for name, dimension in (("spline_weight", 0), ("base_weight", 0), ("g", 1)):
        if name in tensors:
            return tensors[name].shape[dimension]
    return 0


def _error(library: ctypes.CDLL, error: int) -> str:
    name, text = library.kan_cuda_error_name(error), library.kan_cuda_error_text(error)
    return f"{name.decode()}: {text.decode()}"
