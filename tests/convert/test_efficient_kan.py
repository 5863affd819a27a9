"""Conversion from efficient-kan and back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kan_fast import KAN, KANLinear
from kan_fast.convert import from_efficient_kan, to_efficient_kan_state_dict
from tests.helpers.conversion import assert_same


class EfficientKANLinear(nn.Module):
    """The formula of efficient-kan's layer and the names of its tensors."""

    def __init__(self, in_features, out_features, grid_size=5, spline_order=3, scale=True, activation=nn.SiLU):
        super().__init__()
        self.spline_order, self.enable_standalone_scale_spline = spline_order, scale
        self.base_activation, self.grid_eps = activation(), 0.1
        knots = torch.arange(-spline_order, grid_size + spline_order + 1) * 2 / grid_size - 1
        self.register_buffer("grid", knots.expand(in_features, -1).contiguous())
        self.base_weight = nn.Parameter(torch.randn(out_features, in_features))
        self.spline_weight = nn.Parameter(torch.randn(out_features, in_features, grid_size + spline_order))
        if scale:
            self.spline_scaler = nn.Parameter(torch.randn(out_features, in_features))

    def forward(self, x):
        x = x[..., None]
        rows = ((self.grid[:, :-1] <= x) & (x < self.grid[:, 1:])).to(x.dtype)
        for p in range(1, self.spline_order + 1):
            rising = (x - self.grid[:, : -p - 1]) / (self.grid[:, p:-1] - self.grid[:, : -p - 1])
            falling = (self.grid[:, p + 1 :] - x) / (self.grid[:, p + 1 :] - self.grid[:, 1:-p])
            rows = rising * rows[..., :-1] + falling * rows[..., 1:]
        weight = self.spline_weight * (self.spline_scaler[..., None] if self.enable_standalone_scale_spline else 1)
        return F.linear(self.base_activation(x[..., 0]), self.base_weight) + torch.einsum("bir,oir->bo", rows, weight)


class EfficientKAN(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize(("grid_size", "degree"), [(5, 3), (1, 1), (8, 2), (3, 0)])
def test_from_efficient_kan(grid_size, degree, scale):
    theirs = EfficientKANLinear(4, 3, grid_size, degree, scale)
    ours, x = from_efficient_kan(theirs), 4 * torch.rand(200, 4) - 2
    assert_same(ours(x), theirs(x))
    assert (ours.grid_size, ours.spline_order, ours.base, ours.grid_eps, ours.bias) == (
        grid_size,
        degree,
        "silu",
        0.1,
        None,
    )


def test_from_efficient_kan_with_adaptive_grids_and_another_activation():
    theirs = EfficientKANLinear(4, 3, activation=nn.Tanh)
    theirs.grid += 0.3 * torch.rand_like(theirs.grid)
    x = 4 * torch.rand(200, 4) - 2
    assert_same(from_efficient_kan(theirs)(x), theirs(x))


def test_from_efficient_kan_network_and_back():
    # in float64, since the second layer magnifies the rounding errors of the first, theirs and ours
    theirs = EfficientKAN(EfficientKANLinear(4, 3), EfficientKANLinear(3, 2)).double()
    ours, x = from_efficient_kan(theirs), 3 * torch.rand(100, 4, dtype=torch.float64) - 1.5
    assert isinstance(ours, KAN) and ours.width == [4, 3, 2]
    assert_same(ours(x), theirs(x))

    again = EfficientKAN(EfficientKANLinear(4, 3), EfficientKANLinear(3, 2)).double()
    again.load_state_dict(to_efficient_kan_state_dict(ours))
    assert_same(again(x), theirs(x))


@pytest.mark.parametrize("base", ["silu", "zero"])
@pytest.mark.parametrize("scale", [True, False])
def test_to_efficient_kan_state_dict(scale, base):
    ours, x = KANLinear(4, 3, bias=False, grid_size=6, base=base, extrapolation="zero"), 4 * torch.rand(100, 4) - 2
    theirs = EfficientKANLinear(4, 3, 6, scale=scale)
    theirs.load_state_dict(to_efficient_kan_state_dict(ours, standalone_scale=scale))
    assert_same(theirs(x), ours(x))


def test_efficient_kan_refusals():
    with pytest.raises(TypeError, match=r"expected a module with grid, .* got Linear"):
        from_efficient_kan(nn.Linear(1, 1))
    layer = KANLinear(2, 2, extrapolation="zero")
    to_efficient_kan_state_dict(layer)  # a bias of 0 is none
    nn.init.ones_(layer.bias)
    with pytest.raises(ValueError, match="has no bias"):
        to_efficient_kan_state_dict(layer)
    with pytest.raises(ValueError, match='extrapolation "zero" only, this layer has "linear"'):
        to_efficient_kan_state_dict(KANLinear(2, 2))
    with pytest.raises(ValueError, match=r"no multiplication nodes, this network has width \[2, \[1, 1\]\]"):
        to_efficient_kan_state_dict(KAN([2, [1, 1]]))
    symbolic = KANLinear(2, 2, extrapolation="zero")
    symbolic.fix(0, 1, "sin")
    with pytest.raises(ValueError, match=r"splines alone, this layer has symbolic edges: \[\(0, 1\)\]"):
        to_efficient_kan_state_dict(symbolic)
    masked = KANLinear(2, 2, extrapolation="zero")
    masked.mask = torch.eye(2, dtype=torch.bool)
    state = to_efficient_kan_state_dict(masked)
    assert not state["spline_weight"][0, 1].any() and not state["base_weight"][1, 0].any()
    theirs = EfficientKANLinear(2, 2)
    theirs.grid[1, 4] = theirs.grid[1, 5]
    with pytest.raises(ValueError, match=r"knots of an input must increase strictly.* those of input 1 are"):
        from_efficient_kan(theirs)
