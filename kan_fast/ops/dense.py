"""The contractions as products of matrices: what the GPU backends share.

A layer is a matrix product over pairs (input, row). The basis rows of a part of the samples, or of the inputs, go to a
workspace of bounded size, and torch multiplies them with the parameters as these lie in memory. So the GPU's own
libraries do the arithmetic that grows with `in * out`, in every dtype; kernels only evaluate rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

from kan_fast.ops import tuning
from kan_fast.ops.contract import Coefficients, NeedsCoef, Rows, or_empty

_MIXED = "dtype" in torch.ops.aten.mm.overloads()  # on GPUs, torch multiplies 16-bit matrices into float32 ones

T = TypeVar("T", Tensor, Tensor | None)


def arithmetic(dtype: torch.dtype) -> str:
    """The units of a GPU that multiply matrices of a dtype: TF32 only where torch is allowed to use it."""
    if dtype.itemsize == 2:
        return "half"
    if dtype == torch.float64:
        return "float64"
    return "tf32" if _tf32() else "ieee"


def _tf32() -> bool:
    """Whether torch may use TF32 for float32 matrices on GPUs."""
    try:
        return torch.backends.cuda.matmul.fp32_precision == "tf32"  # knows both ways to set it, since torch 2.9
    except AttributeError:
        return torch.get_float32_matmul_precision() != "highest"


def _steep(rows: Rows) -> bool:
    """Whether rows are not fractions of 1: derivatives, and slopes beyond a fine grid, are large and cancel."""
    return rows.order > 0 or (rows.spec.extrapolation == "linear" and rows.splines > 5 + rows.spec.degree)


class Basis(ABC):
    """The values of the rows of a layer; a backend brings the kernels."""

    def __init__(self, rows: Rows) -> None:
        self.count = rows.splines
        self.steep = _steep(rows)

    def evaluate(self, x: Tensor, v: Tensor | None, inputs: slice, needs: NeedsCoef, split: bool) -> list[Tensor]:
        """The rows that are needed, times v, for some inputs of x `(batch, in)`.

        Base `(batch, inputs)`, then splines `(batch, inputs * count)`; with `split`, the splines are two matrices,
        whose sum has the digits that 16 bits would lose.
        """
        batch, n_in = x.shape
        part = range(*inputs.indices(n_in))
        splines = [x.new_empty(batch, len(part) * self.count) for _ in range((1 + split) * needs[0])]
        base = [x.new_empty(batch, len(part)) for _ in range(needs[1])]
        high, low = (*reversed(splines), None, None)[:2]
        self.write(x, v, part, high, low, base[0] if base else None)
        return [*base, *splines]

    @abstractmethod
    def write(
        self, x: Tensor, v: Tensor | None, inputs: range, high: Tensor | None, low: Tensor | None, base: Tensor | None
    ) -> None:
        """Write splines (`high`) and base rows, times v, if not None; `low` gets the rounding error of `high`."""

    @abstractmethod
    def contract(self, x: Tensor, splines: Tensor | None, base: Tensor | None, gx: Tensor) -> None:
        """Write to gx `(batch, in)` the sums of rows times `splines` `(batch, in * count)` and `base` `(batch, in)`."""


def forward(basis: Basis, x: Tensor, v: Tensor | None, c: Coefficients, bias: Tensor | None) -> Tensor:
    batch = x.shape[0]  # len(x) takes as long as a small tensor
    n_out, n_in = c.edge_shape
    if batch * n_out == 0 or n_in == 0:
        return x.new_zeros(batch, n_out) if bias is None else bias.repeat(batch, 1)
    split = basis.steep and x.dtype.itemsize == 2  # 16 bits of a steep row would leave few digits
    needs = c.spline is not None, c.base is not None
    # the shortest product first: cuBLAS takes slower kernels where it adds a bias
    weights = [w.flatten(1).T for w in reversed(c) if w is not None]
    if split and c.spline is not None:
        weights.append(weights[-1])
    size = sum(w.shape[0] for w in weights) * x.element_size()
    y = x.new_empty(batch, n_out)
    for part in _parts(batch, size):
        start, out = bias, _of(y, part)
        matrices = basis.evaluate(_of(x, part), _of(v, part), slice(n_in), needs, split)
        for rows, weight in zip(matrices, weights, strict=True):
            if start is None:
                torch.mm(rows, weight, out=out)
            else:
                torch.addmm(start, rows, weight, out=out)
            start = out
    return y


def grad_input(basis: Basis, x: Tensor, g: Tensor, c: Coefficients) -> Tensor:
    n_out, n_in = c.edge_shape
    if x.numel() * n_out == 0:
        return x.new_zeros(x.shape)
    gx = x.new_empty(x.shape)
    weights = [None if w is None else w.flatten(1) for w in c]
    for part in _parts(x.shape[0], (basis.count + 1) * n_in * max(x.element_size(), 4)):
        splines, base = (None if w is None else _product(_of(g, part), w) for w in weights)
        basis.contract(_of(x, part), splines, base, _of(gx, part))
    return gx


def grad_coef(basis: Basis, x: Tensor, v: Tensor | None, g: Tensor, needs: NeedsCoef) -> tuple[Tensor, Tensor]:
    (batch, n_in), n_out = x.shape, g.shape[1]
    gs = or_empty(x.new_empty(n_out, n_in, basis.count) if needs[0] else None, x)
    gb = or_empty(x.new_empty(n_out, n_in) if needs[1] else None, x)
    if batch * n_out * n_in == 0 or not any(needs):
        return gs.zero_(), gb.zero_()
    size = (basis.count * needs[0] + needs[1]) * x.element_size()
    samples = list(_parts(batch, 16 * size))  # all, unless those of few inputs fill the workspace
    for inputs in _parts(n_in, -(-batch // len(samples)) * size, multiple=16):
        results = [grad[:, inputs].flatten(1) for grad, need in zip((gb, gs), reversed(needs), strict=True) if need]
        if len(samples) == 1:
            for rows, result in zip(basis.evaluate(x, v, inputs, needs, False), results, strict=True):
                torch.mm(g.T, rows, out=result)
            continue
        totals = [torch.zeros(r.shape, dtype=_sum_dtype(x), device=x.device) for r in results]
        for part in samples:
            for rows, total in zip(basis.evaluate(x[part], _of(v, part), inputs, needs, False), totals, strict=True):
                total += _product(g[part].T, rows)
        for total, result in zip(totals, results, strict=True):
            result.copy_(total)
    return gs, gb


def _parts(count: int, size: int, multiple: int = 1) -> Iterator[slice]:
    """Equal parts of `count` things of `size` bytes, each as large as the workspace or less."""
    parts = max(1, -(-count * size // tuning.WORKSPACE))
    step = max(1, -(-count // (parts * multiple))) * multiple
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _of(tensor: T, part: slice) -> T:
    """A part of the samples; most often they are one part, and a view of all takes longer than to see that."""
    return tensor if tensor is None or part.stop - part.start == tensor.shape[0] else tensor[part]


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype.itemsize == 2 else x.dtype


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b; in float32 for 16-bit numbers."""
    if a.dtype.itemsize > 2:
        return a @ b
    if a.is_cuda and _MIXED:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()
