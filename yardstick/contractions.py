"""The contractions of docs/architecture.md in double-double arithmetic: errors some 2^-90 of a result's scale.

The functions take the arguments of the backend contract, all inputs being finite, and return DoubleDouble numbers.
They share no code with kan_fast, the reference included.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from yardstick.double_double import DoubleDouble, concatenate, exp
from yardstick.products import matmul


def bspline(x: Tensor, grid: Tensor, degree: int, order: int) -> DoubleDouble:
    """The B-splines `(batch, in, G + k)` of x `(batch, in)`, or their derivative of an order: Cox-de Boor.

    At each degree p, only the functions c - p .. c differ from 0 in the span c that holds x.
    """
    x, grid = x.double(), grid.double().contiguous()
    knots, rows = grid.shape[1], grid.shape[1] - degree - 1
    if order > degree:
        return DoubleDouble.of(torch.zeros(*x.shape, rows))
    span = torch.searchsorted(grid, x.T.contiguous(), right=True).T - 1
    span = torch.where(x == grid[:, rows], rows - 1, span)  # the grid range is closed
    inside = (span >= 0) & (span < knots - 1)
    span = span.clamp(0, knots - 2)[..., None]

    steps = torch.arange(1, degree + 1) * (grid[:, -1:] - grid[:, :1])  # further knots, of functions that are left out
    further = torch.cat([grid[:, :1] - steps.flip(1), grid, grid[:, -1:] + steps], 1)
    around = further.expand(len(x), -1, -1).gather(2, span + torch.arange(2 * degree + 2))  # c - k .. c + k + 1
    near, x = DoubleDouble.of(around), x[..., None]
    values, zero = DoubleDouble.of(inside.double()[..., None]), DoubleDouble.of(torch.zeros_like(x))
    for p in range(1, degree + 1):
        start, end = near[..., degree - p + 1 : degree + 1], near[..., degree + 1 : degree + p + 1]
        scaled = values / (end - start)
        if p <= degree - order:
            left, right = (-start + x) * scaled, (end - x) * scaled
        else:
            left, right = scaled * float(p), scaled * float(-p)
        values = concatenate([zero, left], -1) + concatenate([right, zero], -1)
    place = span + torch.arange(degree + 1)  # of c - k .. c, if k functions come before the first
    dense = torch.zeros(*x.shape[:-1], rows + 2 * degree, dtype=torch.float64)
    return values.map(lambda t: dense.scatter(2, place, t))[..., degree : degree + rows]


def basis(x: Tensor, rows: Any) -> DoubleDouble:
    """Spline rows `(batch, in, G + k)`, with the extrapolation that `rows.spec` names."""
    grid, order, (degree, _, extrapolation) = rows
    if extrapolation == "zero":
        return bspline(x, grid, degree, order)
    x = x.double()
    nearest = x.clamp(grid[:, degree].double(), grid[:, -1 - degree].double())
    inside = bspline(nearest, grid, degree, order)
    if extrapolation == "linear" and order == 0:
        return inside + (DoubleDouble.of(x) - nearest)[..., None] * bspline(nearest, grid, degree, 1)
    flat = order > (1 if extrapolation == "linear" else 0)
    return inside.where((x == nearest)[..., None]) if flat else inside


def base_function(x: Tensor, base: str, order: int) -> DoubleDouble:
    """silu, identity or zero, or a derivative: silu = x s with s = sigmoid(x), so silu^(n) = x s^(n) + n s^(n-1)."""
    if base not in ("silu", "identity", "zero"):
        raise ValueError(f"the yardstick has the base functions silu, identity and zero, got {base!r}")
    if base != "silu":
        values = {("identity", 0): x, ("identity", 1): torch.ones_like(x)}
        return DoubleDouble.of(values.get((base, order), torch.zeros_like(x)))
    tail = exp(-x.double().abs().clamp(max=700))  # beyond, results are 0 or x to more digits than there are
    small = tail / (tail + 1.0)
    large = -small + 1.0
    sigmoid = small.where(x < 0) + large.where(x >= 0)
    spread = small * large  # s' = s (1 - s)
    value = _sigmoid_derivative(sigmoid, spread, order) * x
    return value + _sigmoid_derivative(sigmoid, spread, order - 1) * float(order) if order else value


def _sigmoid_derivative(s: DoubleDouble, spread: DoubleDouble, order: int) -> DoubleDouble:
    """s^(n) = s (1 - s) Q_n(s) with Q_1 = 1 and Q_(n+1) = Q_n (1 - 2 s) + Q_n' s (1 - s)."""
    if order == 0:
        return s
    q = [1]
    for _ in range(order - 1):
        slope = [j * c for j, c in enumerate(q)][1:]
        terms = [[*q, 0, 0], [0, *(-2 * c for c in q), 0], [0, *slope, 0, 0], [0, 0, *(-c for c in slope), 0]]
        q = [sum(column) for column in zip(*(t[: len(q) + 1] for t in terms), strict=True)]
    value = DoubleDouble.of(torch.zeros_like(s.high))
    for c in reversed(q):
        value = value * s + DoubleDouble.of(c)
    return spread * value


def values(x: Tensor, v: Tensor | None, rows: Any, wanted: tuple[bool, bool]) -> DoubleDouble:
    """All rows `(batch, in, R)` times v: the spline rows if wanted, then the base row if wanted."""
    parts = [basis(x, rows)] if wanted[0] else []
    if wanted[1]:
        parts.append(base_function(x.double(), rows.spec.base, rows.order)[..., None])
    together = concatenate(parts, -1)
    return together if v is None else together * v.double()[..., None]


def weights(c: Any) -> tuple[Tensor, tuple[bool, bool]]:
    """The coefficients `(out, in, R)` of `values`, and which of the two there are."""
    parts = [] if c.spline is None else [c.spline.double()]
    if c.base is not None:
        parts.append(c.base.double()[..., None])
    return torch.cat(parts, -1), (c.spline is not None, c.base is not None)


def split(gradient: DoubleDouble, needs: tuple[bool, bool]) -> tuple[DoubleDouble, DoubleDouble]:
    """Gradients of the coefficients `(out, in, R)` as those of spline_weight and base_weight, `(0,)` if not there."""
    absent = DoubleDouble.of(torch.empty(0))
    splines = gradient.shape[-1] - needs[1]
    return gradient[..., :splines] if needs[0] else absent, gradient[..., -1] if needs[1] else absent


def forward(x: Tensor, v: Tensor | None, c: Any, bias: Tensor | None, rows: Any) -> DoubleDouble:
    """`(batch, out)`."""
    coefficients, wanted = weights(c)
    y = matmul(values(x, v, rows, wanted).map(_flat), _flat(coefficients).T)
    return y if bias is None else y + bias


def grad_input(x: Tensor, g: Tensor, c: Any, rows: Any) -> DoubleDouble:
    """`(batch, in)`."""
    coefficients, wanted = weights(c)
    products = matmul(g, _flat(coefficients)).map(lambda t: t.reshape(*x.shape, coefficients.shape[-1]))
    return (products * values(x, None, rows, wanted)).sum(-1)


def grad_coef(
    x: Tensor, v: Tensor | None, g: Tensor, rows: Any, needs: tuple[bool, bool] = (True, True)
) -> tuple[DoubleDouble, DoubleDouble]:
    """`(out, in, G + k)` and `(out, in)`."""
    if not any(needs):
        return split(DoubleDouble.of(torch.empty(0)), needs)
    matrix = values(x, v, rows, needs)
    gradient = matmul(g.T, matrix.map(_flat))
    return split(gradient.map(lambda t: t.reshape(g.shape[1], *matrix.shape[1:])), needs)


def backward(
    x: Tensor,
    v: Tensor | None,
    g: Tensor,
    c: Any,
    rows: Any,
    needs: tuple[bool, bool, bool, bool] = (True, True, True, True),
) -> tuple[DoubleDouble, ...]:
    """`(batch, in)`, those of `grad_coef`, and `(out,)`."""
    absent = DoubleDouble.of(torch.empty(0))
    gx = grad_input(x, g, c, rows._replace(order=rows.order + 1)) if needs[0] else absent
    gbias = DoubleDouble.of(g).sum(0) if needs[3] else absent
    return gx, *grad_coef(x, v, g, rows, needs[1:3]), gbias


def edge_magnitude(x: Tensor, c: Any, rows: Any) -> DoubleDouble:
    """`(out, in)`."""
    total = _edges(x, c, rows).abs().sum(1)  # (i, o)
    return (total / float(max(len(x), 1))).map(lambda t: t.T)


def edge_magnitude_backward(
    x: Tensor, gm: Tensor, c: Any, rows: Any
) -> tuple[DoubleDouble, DoubleDouble, DoubleDouble]:
    """`(batch, in)`, and those of `grad_coef`."""
    signs = _edges(x, c, rows).high.sign()  # (i, b, o)
    slopes = _edges(x, c, rows._replace(order=rows.order + 1))
    count = float(max(len(x), 1))
    gx = (slopes * (signs * gm.double().T[:, None])).sum(-1) / count  # (i, b)
    needs = c.spline is not None, c.base is not None
    columns = values(x, None, rows, needs).map(lambda t: t.transpose(0, 1))  # (i, b, R)
    sums = matmul(signs.transpose(1, 2), columns).map(lambda t: t.transpose(0, 1))  # (o, i, R)
    return gx.map(lambda t: t.T), *split(sums * gm.double()[..., None] / count, needs)


def _edges(x: Tensor, c: Any, rows: Any) -> DoubleDouble:
    """What each edge makes of each sample, `(in, batch, out)`."""
    coefficients, wanted = weights(c)
    matrices = values(x, None, rows, wanted).map(lambda t: t.transpose(0, 1))  # (i, b, R)
    return matmul(matrices, coefficients.permute(1, 2, 0))


def _flat(t: Tensor) -> Tensor:
    return t.flatten(1)
