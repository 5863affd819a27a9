"""Jacobians of residuals in the parameters of KAN layers, read off from the contractions of one backward pass.

Every gradient of a layer's coefficients is a `grad_coef`, `sum_b v[b,i] B_ir^(d)(x[b,i]) g[b,o]`, also those behind
derivatives in x (docs/architecture.md). If residual b depends on sample b alone, its own gradient is the b-th term of
that sum in the backward pass of the sum of all residuals. So nothing has to be differentiated sample by sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kan_fast.nn.linear import KANLinear
from kan_fast.ops import dispatch, operators
from kan_fast.ops.reference import base_function


class Term(NamedTuple):
    """A contraction that adds to the gradient of a layer's coefficients: x, v `(batch, in)`, g `(batch, out)`."""

    layer: KANLinear
    x: Tensor
    v: Tensor | None
    g: Tensor
    order: int


class PerSample(NamedTuple):
    """The gradients of a parameter sample by sample, `(..., batch)`; see `kan_fast.ops.per_sample`."""

    parameter: Tensor
    gradients: Tensor


class _Recorder(TorchDispatchMode):
    """Keeps the arguments of every `grad_coef`, of every `backward`, which contains one, and of every `collect`."""

    def __init__(self, layers: Iterable[KANLinear], params: Iterable[Tensor]) -> None:
        super().__init__()
        self.layers = {layer.grid.data_ptr(): layer for layer in layers}
        self.params = {p.data_ptr(): p for p in params}
        self.terms: list[Term | PerSample] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if func is torch.ops.kan_fast.backward.default:
            x, v, g, _, _, grid, order = args[:7]
            self._keep(x, v, g, grid, order)
        elif func is torch.ops.kan_fast.grad_coef.default:
            self._keep(*args[:5])
        elif func is torch.ops.kan_fast.collect.default and args[1].data_ptr() in self.params:
            self.terms.append(PerSample(self.params[args[1].data_ptr()], args[0]))
        return func(*args, **(kwargs or {}))

    def _keep(self, x: Tensor, v: Tensor | None, g: Tensor, grid: Tensor, order: int) -> None:
        layer = self.layers.get(grid.data_ptr())
        if layer is not None:
            self.terms.append(Term(layer, x, v, g, order))


class Jacobian:
    """The Jacobian of residuals in some parameters, in blocks of rows.

    Args:
        layers: the layers that hold the parameters.
        params: the parameters of the Jacobian, in the order of its columns.
        residuals: `(n, ...)` with a graph; residual b depends on the b-th sample alone in every call of a layer.

    Raises:
        ValueError: a layer was called with another number of samples than there are residuals.
    """

    def __init__(self, layers: Sequence[KANLinear], params: Sequence[Tensor], residuals: Tensor) -> None:
        self._count, self._like = len(residuals), residuals.detach().new_empty(0, dtype=torch.float64)
        sizes = [p.numel() for p in params]
        ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
        self._columns = {id(p): slice(a, b) for p, a, b in zip(params, ends[:-1], ends[1:], strict=True)}
        self.width = ends[-1]
        self._terms: list[list[Term | PerSample]] = []
        columns = residuals.reshape(len(residuals), -1)
        for j in range(columns.shape[1]):
            with _Recorder(layers, params) as recorder:
                torch.autograd.grad(columns[:, j].sum(), params, retain_graph=True, allow_unused=True)
            self._terms.append(recorder.terms)
        for term in (term for terms in self._terms for term in terms):
            samples = len(term.x) if isinstance(term, Term) else term.gradients.shape[-1]
            if samples != len(residuals):
                raise ValueError(
                    f"got {len(residuals)} residuals of a layer that was called with {samples} samples; a residual "
                    "belongs to one sample: return a tuple with a tensor for each call of the network"
                )

    def blocks(self, numbers: int = 1 << 23) -> Iterator[Tensor]:
        """Rows `(m, width)` in float64 in the order of the residuals, in blocks of about `numbers` numbers at most."""
        step = max(1, numbers // max(self.width, 1))
        for terms in self._terms:
            for start in range(0, self._count, step):
                yield self._rows(terms, slice(start, start + step))

    def _rows(self, terms: list[Term | PerSample], part: slice) -> Tensor:
        rows = self._like.new_zeros(len(range(self._count)[part]), self.width)
        for term in terms:
            if isinstance(term, PerSample):
                self._add(rows, term.parameter, term.gradients[..., part].double().movedim(-1, 0))
                continue
            layer, x, v, g, order = term
            x, g = x[part].double(), g[part].double()
            edges = g[:, :, None] if v is None else g[:, :, None] * v[part].double()[:, None]  # (b, o, i or 1)
            if not layer.only_splines():
                edges = edges * layer.kinds.spline
            if self._wants(layer.spline_weight):
                self._add(rows, layer.spline_weight, edges[..., None] * _spline_rows(layer, x, order)[:, None])
            if layer.base_weight is not None and self._wants(layer.base_weight):
                self._add(rows, layer.base_weight, edges * base_function(x, layer.base, order)[:, None])
            if v is None and order == 0 and layer.bias is not None and self._wants(layer.bias):  # the layer's own call
                self._add(rows, layer.bias, g)
        return rows

    def _add(self, rows: Tensor, parameter: Tensor, values: Tensor) -> None:
        rows[:, self._columns[id(parameter)]] += values.flatten(1)

    def _wants(self, parameter: Tensor) -> bool:
        return id(parameter) in self._columns


def _spline_rows(layer: KANLinear, x: Tensor, order: int) -> Tensor:
    """The splines at x, `(batch, in, G + k)`, by the kernels: each feature as a layer with one output per spline."""
    grid = layer.grid.to(x)
    features, rows = len(grid), grid.shape[1] - layer.spline_order - 1
    curves = torch.eye(rows, dtype=x.dtype, device=x.device)[:, None].expand(features, rows, 1, rows)
    spec = (layer.spline_order, "zero", layer.extrapolation, dispatch.chosen(x.device.type, x.dtype))
    values = operators.forward(x.T[..., None], None, curves, None, None, grid[:, None], order, *spec)
    return values.transpose(0, 1)
