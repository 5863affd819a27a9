"""The mathematics of a KAN layer in plain torch: what every backend is checked against.

Functions compute in the dtype of `grid` and return the dtype of `x`. Shapes are given as trailing comments with
b = batch, i = in_features, o = out_features, r = spline row (G + k of them). Equations: docs/architecture.md and
"KAN: Kolmogorov-Arnold Networks" (arXiv 2404.19756), section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from kan_fast.ops.contract import Coefficients, NeedsCoef, Rows, composed_backward, or_empty

MAX_CHUNK = 1 << 24  # numbers per temporary in edge_magnitude


# The rows: B-splines and base function


def bspline(x: Tensor, grid: Tensor, degree: int, order: int = 0) -> Tensor:
    """B-splines on the whole line, or a derivative of them, by the Cox-de Boor recursion.

    Args:
        x: `(..., in)`.
        grid: knots `(in, G + 2k + 1)`, increasing in each row.
        degree: k.
        order: order of the derivative in x; one-sided at knots.

    Returns:
        `(..., in, G + k)`.
    """
    rows = grid.shape[-1] - degree - 1
    clamped = x.clamp(grid[:, 0], grid[:, -1])[..., None]  # keeps infinities out of the products below
    if order > degree:
        return (0 * clamped).expand(*x.shape, rows)

    x = x[..., None]  # (..., i, 1)
    end, last = grid[:, rows, None], rows - 1  # the grid range is closed: its end lies in the last interior span
    span = torch.arange(grid.shape[-1] - 1, device=grid.device)
    inside = (grid[:, :-1] <= x) & (x < grid[:, 1:])
    one_hot = torch.where(x == end, (span == last).to(grid.dtype), inside.to(grid.dtype))
    values = one_hot + 0 * clamped  # (..., i, G + 2k)
    for p in range(1, degree + 1):
        width = grid[:, p:] - grid[:, :-p]
        scaled = values * torch.where(width > 0, 1 / width, 0)
        left, right = scaled[..., :-1], scaled[..., 1:]
        if p <= degree - order:
            values = (clamped - grid[:, : -p - 1]) * left + (grid[:, p + 1 :] - clamped) * right
        else:
            values = p * (left - right)
    return values


def basis(x: Tensor, grid: Tensor, degree: int, order: int = 0, extrapolation: str = "zero") -> Tensor:
    """Spline rows of a layer: `bspline` inside the grid range, `extrapolation` outside of it.

    Args:
        x: `(..., in)`.
        grid: knots `(in, G + 2k + 1)`.
        degree: k.
        order: order of the derivative in x.
        extrapolation: "zero" (the splines fade out), "linear" or "clamp".

    Returns:
        `(..., in, G + k)`.
    """
    if extrapolation == "zero":
        return bspline(x, grid, degree, order)
    start, end = grid[:, degree], grid[:, -1 - degree]
    nearest = x.clamp(start, end)
    rows = bspline(nearest, grid, degree, order)
    if extrapolation == "linear" and order == 0:
        return rows + (x - nearest)[..., None] * bspline(nearest, grid, degree, 1)
    if order == 0 or (extrapolation == "linear" and order == 1):
        return rows
    outside = (x < start) | (x > end)
    return torch.where(outside[..., None], 0, rows)


def base_function(x: Tensor, base: str | Callable[[Tensor], Tensor], order: int = 0) -> Tensor:
    """The base function or a derivative of it, elementwise. `base`: "silu", "identity", "zero" or a callable."""
    if callable(base):
        for _ in range(order):
            base = _derivative(base)
        return base(x)
    if base == "zero" or (base == "identity" and order > 1):
        return 0 * x
    if base == "identity":
        return x if order == 0 else 1 + 0 * x
    # silu = x s with s = sigmoid(x), so silu^(n) = x s^(n) + n s^(n-1)
    value = x * _sigmoid_derivative(x, order)
    return value + order * _sigmoid_derivative(x, order - 1) if order else value


def sigmoid_polynomial(order: int) -> list[float]:
    """Coefficients of Q_n, n = `order` > 0, in powers of t = s - 1/2: s = sigmoid(x) has s^(n) = s (1 - s) Q_n(t).

    Q_1 = 1 and Q_(n+1) = (1/4 - t^2) Q_n' - 2 t Q_n. Polynomials in s itself would cancel more.
    """
    polynomial = [1.0]
    for _ in range(order - 1):
        down = [j * c / 4 for j, c in enumerate(polynomial)][1:]
        up = [-(j + 2) * c for j, c in enumerate(polynomial)]
        polynomial = [a + b for a, b in zip([*down, 0, 0], [0, *up], strict=True)]
    return polynomial


def _sigmoid_derivative(x: Tensor, order: int) -> Tensor:
    """See `sigmoid_polynomial`; s (1 - s) keeps its digits where it is small."""
    if order == 0:
        return torch.sigmoid(x)
    tail = torch.sigmoid(-x.abs())
    t, value = x.sign() * (0.5 - tail), torch.zeros_like(x)
    for c in reversed(sigmoid_polynomial(order)):
        value = value * t + c
    return tail * (1 - tail) * value


def _derivative(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return torch.func.grad(lambda x: f(x).sum())


# The contractions of T_d(v, c, g; x) = sum v[b,i] c[o,i,r] B_ir^(d)(x[b,i]) g[b,o]


def forward(x: Tensor, v: Tensor | None, c: Coefficients, bias: Tensor | None, rows: Rows) -> Tensor:
    """`y[b,o] = bias[o] + sum_ir v[b,i] c[o,i,r] B_ir^(d)(x[b,i])`; v and bias may be None (ones, none)."""
    dtype, (x, v, spline, base, bias) = x.dtype, _cast(rows, x, v, *c, bias)
    terms = [] if bias is None else [bias]
    if spline is not None:
        terms.append(torch.einsum("bir,oir->bo", _weighted(spline_rows(x, rows), v), spline))
    if base is not None:
        terms.append(torch.einsum("bi,oi->bo", _weighted(base_row(x, rows), v), base))
    return sum(terms, start=x.new_zeros(())).to(dtype).contiguous()


def grad_input(x: Tensor, g: Tensor, c: Coefficients, rows: Rows) -> Tensor:
    """`gx[b,i] = sum_or c[o,i,r] B_ir^(d)(x[b,i]) g[b,o]`."""
    dtype, (x, g, spline, base) = x.dtype, _cast(rows, x, g, *c)
    gx = torch.zeros_like(x)
    if spline is not None:
        values = spline_rows(x, rows)
        gx = gx + (torch.einsum("bo,oir->bir", g, spline) * values).sum(-1)
    if base is not None:
        gx = gx + torch.einsum("bo,oi->bi", g, base) * base_row(x, rows)
    return gx.to(dtype).contiguous()


def grad_coef(
    x: Tensor, v: Tensor | None, g: Tensor, rows: Rows, needs: NeedsCoef = (True, True)
) -> tuple[Tensor, Tensor]:
    """`gc[o,i,r] = sum_b v[b,i] B_ir^(d)(x[b,i]) g[b,o]` for the spline rows and the base row."""
    dtype, (x, v, g) = x.dtype, _cast(rows, x, v, g)
    gs = gb = x.new_empty(0)
    if needs[0]:
        gs = torch.einsum("bo,bir->oir", g, _weighted(spline_rows(x, rows), v))
    if needs[1]:
        gb = torch.einsum("bo,bi->oi", g, _weighted(base_row(x, rows), v))
    return gs.to(dtype).contiguous(), gb.to(dtype).contiguous()


backward = composed_backward(grad_input, grad_coef)


# Edge magnitudes


def edges(x: Tensor, c: Coefficients, rows: Rows) -> Tensor:
    """`phi_oi^(d)(x[b,i])` of every edge and sample, `(batch, out, in)`."""
    terms = []
    if c.spline is not None:
        terms.append(torch.einsum("bir,oir->boi", spline_rows(x, rows), c.spline))
    if c.base is not None:
        terms.append(base_row(x, rows)[:, None, :] * c.base)
    return sum(terms, start=x.new_zeros(()))


def edge_magnitude(x: Tensor, c: Coefficients, rows: Rows) -> Tensor:
    """`m[o,i] = mean_b |phi_oi(x[b,i])|` (paper, Eq. 2.17); 0 for an empty batch."""
    dtype, (x, *weights) = x.dtype, _cast(rows, x, *c)
    c = Coefficients(*weights)
    total = x.new_zeros(c.edge_shape)
    for part in _chunks(x, total):
        total = total + edges(x[part], c, rows).abs().sum(0)
    return (total / max(len(x), 1)).to(dtype)


def edge_magnitude_backward(x: Tensor, gm: Tensor, c: Coefficients, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `sum_oi gm[o,i] m[o,i]` in x and in the spline and base weights (empty where these are None)."""
    dtype, (x, gm, *weights) = x.dtype, _cast(rows, x, gm, *c)
    c = Coefficients(*weights)
    gx = torch.zeros_like(x)
    gs, gb = (or_empty(None if w is None else torch.zeros_like(w), x) for w in c)
    for part in _chunks(x, gm):
        g = edges(x[part], c, rows).sign() * gm / len(x)  # (b, o, i)
        gx[part] = (g * edges(x[part], c, rows.derivative())).sum(1)
        if c.spline is not None:
            gs += torch.einsum("boi,bir->oir", g, spline_rows(x[part], rows))
        if c.base is not None:
            gb += torch.einsum("boi,bi->oi", g, base_row(x[part], rows))
    return gx.to(dtype), gs.to(dtype), gb.to(dtype)


def spline_rows(x: Tensor, rows: Rows) -> Tensor:
    """`basis` for the rows of a layer."""
    return basis(x, rows.grid, rows.spec.degree, rows.order, rows.spec.extrapolation)


def base_row(x: Tensor, rows: Rows) -> Tensor:
    """`base_function` for the rows of a layer."""
    return base_function(x, rows.spec.base, rows.order)


def _chunks(x: Tensor, edge: Tensor) -> Iterator[slice]:
    step = max(1, MAX_CHUNK // max(1, edge.numel()))
    return (slice(start, start + step) for start in range(0, len(x), step))


def _weighted(values: Tensor, v: Tensor | None) -> Tensor:
    if v is None:
        return values
    return values * (v if values.dim() == v.dim() else v[..., None])


def _cast(rows: Rows, *tensors: Tensor | None) -> list:
    return [None if t is None else t.to(rows.grid.dtype) for t in tensors]
