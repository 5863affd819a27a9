"""How much splines bend: the integral of the squared second derivative, exactly, for any knots."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kan_fast.nn.linear import KANLinear
from kan_fast.ops.reference import bspline


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
    """Second derivatives at the nodes of each span, times the roots of their weights, of the splines that are not 0.

    Args:
        grid: knots `(in, G + 2k + 1)`.
        degree: k >= 2.

    Returns:
        `(in, G, k + 1, k - 1)` in float64.
    """
    window = grid.double().unfold(1, 2 * degree + 2, 1)  # the knots of these splines, (in, G, 2k + 2)
    left, right = window[..., degree], window[..., degree + 1]
    node, share = (torch.as_tensor(a, device=grid.device) for a in np.polynomial.legendre.leggauss(degree - 1))
    points = left + (right - left) * ((node + 1) / 2)[:, None, None]  # (p, in, G)
    curvature = bspline(points.flatten(1), window.flatten(0, 1), degree, 2)
    curvature = curvature.view(*points.shape, degree + 1).permute(1, 2, 3, 0)  # (in, G, r, p)
    return curvature * (share / 2 * (right - left)[..., None]).sqrt()[..., None, :]
