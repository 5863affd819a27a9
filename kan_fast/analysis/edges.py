"""The functions on the edges of a layer: their values, deviations and curvature."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kan_fast.nn.linear import KANLinear
from kan_fast.ops import reference

CHUNK = 1 << 22  # numbers of float64 in a temporary


@torch.no_grad()
def edge_values(layer: KANLinear, x: Tensor, edges: Tensor) -> Tensor:
    """Values `phi_oi(x_i)` of some edges in float64: splines and symbolic edges; 0 for masked edges.

    Args:
        layer: the layer of the edges.
        x: inputs of the layer, `(n, in)`.
        edges: places (output, input) `(m, 2)`.

    Returns:
        `(n, m)`.
    """
    x, weights = x.double(), _weights(layer)
    symbolic = terms = None
    if layer.symbolic is not None:
        terms = layer.symbolic.terms(x)
        symbolic = layer.symbolic.matrix(torch.arange(1, 1 + len(terms), device=x.device))
    parts = []
    for some in edges.split(max(1, CHUNK // (len(x) * weights.shape[2]))):
        output, input_ = some.unbind(1)
        values = (_rows(layer, x, input_) * weights[output, input_]).sum(2)
        if symbolic is not None and terms is not None:
            number = symbolic[output, input_]
            values = torch.where(number > 0, terms.T[:, number - 1], values)
        parts.append(values)
    return torch.cat(parts, 1) if parts else x.new_empty(len(x), 0)


def edge_deviation(layer: KANLinear, x: Tensor) -> Tensor:
    """Standard deviation of the activation of every edge over the samples; differentiable.

    Args:
        layer: a layer with `out * in` edges.
        x: inputs of the layer, `(..., in)`, at least two samples.

    Returns:
        `(out, in)` in the dtype of the layer, at least 1e-30, which keeps gradients finite.
    """
    if layer.symbolic is None:
        return spline_deviation(layer, x)
    terms = layer.symbolic.terms(x.reshape(-1, x.shape[-1]).double())
    symbolic = layer.symbolic.matrix(terms.var(1).clamp_min(1e-60).sqrt()).to(layer.spline_weight.dtype)
    return torch.where(layer.symbolic.where, symbolic, spline_deviation(layer, x)) if layer.has_splines() else symbolic


def spline_deviation(layer: KANLinear, x: Tensor) -> Tensor:
    """`edge_deviation` of the splines; 1e-30 for symbolic edges.

    The variance is a quadratic form in the weights of the edge with the covariance of the splines, so that memory is
    O(in * (G + k)^2) whatever `out` is. It is computed in float64, since its terms cancel for a curve that is constant.
    """
    x, weights = x.reshape(-1, x.shape[-1]).double(), _weights(layer)
    first, *others = x.split(max(1, CHUNK // max(1, x.shape[1] * weights.shape[2])))
    part = _rows(layer, first).transpose(0, 1)  # (in, samples, r)
    origin = part.detach().mean(1, keepdim=True)  # near the mean, so that little cancels below
    total, products = (part - origin).sum(1), (part - origin).mT @ (part - origin)
    for chunk in others:
        part = _rows(layer, chunk).transpose(0, 1) - origin
        total, products = total + part.sum(1), products + part.mT @ part
    covariance = (products - total[:, :, None] * total[:, None] / len(x)) / (len(x) - 1)
    by_input = weights.transpose(0, 1)  # (in, out, r)
    variance = ((by_input @ covariance) * by_input).sum(2).T
    return variance.clamp_min(1e-60).sqrt().to(layer.spline_weight.dtype)


def bending(layer: KANLinear) -> Tensor:
    """The integral of `phi''(x)^2` over the grid range, for the spline of every edge (without the base function).

    On each span the integrand is a polynomial of degree 2k - 4, which k - 1 Gauss-Legendre nodes integrate exactly, and
    only k + 1 splines differ from 0. It penalises the wiggles of a fine grid, as smoothing splines do (Reinsch,
    Numerische Mathematik 10, 1967).

    Args:
        layer: of degree k >= 2; masked edges count as 0.

    Returns:
        `(out, in)`, non-negative, differentiable in `spline_weight`. Its unit is y^2 / x^3.

    Raises:
        ValueError: the degree is below 2, so that there is no second derivative to integrate.
    """
    k = layer.spline_order
    if k < 2:
        raise ValueError(f"the smoothness penalty needs splines of degree 2 or more, this layer has spline_order={k}")
    curvature = span_curvature(layer.grid, k).to(layer.spline_weight.dtype)
    weight = layer.edge_weights()[0].unfold(2, k + 1, 1)  # (out, in, span, r)
    return torch.einsum("oisr,isrp->oisp", weight, curvature).square().sum((2, 3))


@torch.no_grad()
def span_curvature(grid: Tensor, degree: int) -> Tensor:
    """Second derivatives of the k + 1 splines of each span at its Gauss-Legendre nodes, times the roots of the weights.

    Args:
        grid: knots `(in, G + 2k + 1)`.
        degree: k >= 2.

    Returns:
        `(in, G, k + 1, k - 1)` in float64.
    """
    window = grid.double().unfold(1, 2 * degree + 2, 1)  # the knots of the splines of each span, (in, G, 2k + 2)
    left, right = window[..., degree], window[..., degree + 1]
    node, share = (torch.as_tensor(a, device=grid.device) for a in np.polynomial.legendre.leggauss(degree - 1))
    points = left + (right - left) * ((node + 1) / 2)[:, None, None]  # (p, in, G)
    curvature = reference.bspline(points.flatten(1), window.flatten(0, 1), degree, 2)
    curvature = curvature.view(*points.shape, degree + 1).permute(1, 2, 3, 0)  # (in, G, r, p)
    return curvature * (share / 2 * (right - left)[..., None]).sqrt()[..., None, :]


def _weights(layer: KANLinear) -> Tensor:
    """The weights of all rows of every edge, `(out, in, r)` in float64: splines, and last the base function."""
    spline_weight, base_weight = layer.edge_weights()
    weights = spline_weight if base_weight is None else torch.cat([spline_weight, base_weight[..., None]], -1)
    return weights.double()


def _rows(layer: KANLinear, x: Tensor, inputs: Tensor | None = None) -> Tensor:
    """The rows that `_weights` multiply, `(n, in, r)` in float64, for x `(n, in)`; for `inputs` alone if given."""
    grid = layer.grid.double()
    if inputs is not None:
        x, grid = x[:, inputs], grid[inputs]
    splines = reference.basis(x, grid, layer.spline_order, 0, layer.extrapolation)
    if layer.base_weight is None:
        return splines
    return torch.cat([splines, reference.base_function(x, layer.base)[..., None]], -1)
