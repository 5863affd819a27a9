"""Regularisation against its definitions: pykan's metrics and names, and the smoothness penalty against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from kan_fast import KAN, KANLinear
from kan_fast.analysis.edges import bending, edge_deviation
from kan_fast.nn import grids
from kan_fast.training.regularization import REG_METRICS, regularization
from tests.helpers.curves import edges

METRICS = [metric for metric in REG_METRICS if metric != "edge_magnitude"]


def rough(in_features=2, out_features=3, degree=3, **options):
    """Large random splines on an adaptive grid, in float64."""
    layer = KANLinear(in_features, out_features, grid_size=6, spline_order=degree, dtype=torch.float64, **options)
    with torch.no_grad():
        layer.spline_weight.normal_()
        inner = torch.rand(in_features, 7, dtype=torch.float64).add(0.1).cumsum(1)
        layer.grid.copy_(grids.extend(inner, degree))
    return layer


@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
@pytest.mark.parametrize("base", ["silu", "zero", torch.sin], ids=["silu", "zero", "callable"])
def test_edge_deviation_is_that_of_the_activations(base, extrapolation, monkeypatch):
    layer = rough(base=base, extrapolation=extrapolation)
    layer.mask = torch.tensor([[True, False], [True, True], [True, True]])
    x = torch.rand(5, 60, 2, dtype=torch.float64) * 8 - 2
    expected = edges(layer, x.flatten(0, 1)).std(0)
    for chunk in (1 << 22, 50):
        monkeypatch.setattr("kan_fast.analysis.edges.CHUNK", chunk)
        torch.testing.assert_close(edge_deviation(layer, x), expected, rtol=1e-10, atol=1e-12)


def test_edge_deviation_of_constants_is_nothing_and_has_finite_gradients():
    layer = rough(base="zero", extrapolation="clamp").float()
    with torch.no_grad():
        layer.spline_weight.fill_(3.0)  # splines sum to 1
    deviation = edge_deviation(layer, torch.rand(1000, 2) * 8 - 2)
    assert deviation.max() < 1e-6
    deviation.sum().backward()
    assert layer.spline_weight.grad.isfinite().all()


def test_edge_deviation_has_the_right_gradients():
    layer = rough()
    x = (torch.rand(30, 2, dtype=torch.float64) + 0.5).requires_grad_()

    def function(x, spline_weight, base_weight):
        parameters = {"spline_weight": spline_weight, "base_weight": base_weight}
        return torch.func.functional_call(Deviation(layer), {f"layer.{k}": v for k, v in parameters.items()}, (x,))

    assert torch.autograd.gradcheck(function, (x, layer.spline_weight, layer.base_weight))


class Deviation(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return edge_deviation(self.layer, x)


def by_definition(model, x, metric):
    """The scales that pykan takes norms of, from all activations."""
    deviations, shares = [], []
    *inputs, _ = model.activations(x)
    for layer, reached in zip(model.layers, inputs, strict=True):
        phi = edges(layer, reached).std(0)
        deviations.append(phi / (reached.std(0) + 0.1) if metric.endswith(("_n", "_sum")) else phi)
        shares.append(phi / layer(reached).std(0)[:, None])
    if metric.startswith("edge_forward"):
        return deviations
    count = model.width_in[-1]
    score, node_scores, edge_scores = torch.full((count,), 1 / count, dtype=x.dtype), [], []
    for level, share in zip(reversed(model.nodes), reversed(shares), strict=True):
        node_scores.insert(0, score)
        edge_scores.insert(0, score[level.owner][:, None] * share)
        score = edge_scores[0].sum(0)
    if metric == "edge_backward":
        return edge_scores
    scales = []
    for depth, score in enumerate(node_scores, 1):
        matrix = score.diag()
        for level, share in list(zip(model.nodes, shares, strict=True))[:depth][::-1]:
            matrix = matrix[:, level.owner] @ share
        scales.append(matrix)
    return scales


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_of_pykan(metric):
    model = KAN([2, [3, 2], 2], grid=4, seed=0, dtype=torch.float64, mult_arity=3)
    x = torch.rand(100, 2, dtype=torch.float64) * 2 - 1
    expected = 0.0
    for scale in by_definition(model, x, metric):
        s = scale.detach().numpy()
        rows, columns = s / (s.sum(1, keepdims=True) + 1), s / (s.sum(0, keepdims=True) + 1)
        entropy = -(rows * np.log2(rows + 1e-4)).sum(1).mean() - (columns * np.log2(columns + 1e-4)).sum(0).mean()
        expected += 0.3 * s.sum() + 0.7 * entropy
    *inputs, _ = model.activations(x)
    reg = regularization(model, inputs, 0.3, 0.7, reg_metric=metric)
    assert reg.item() == pytest.approx(expected, rel=1e-9)
    reg.backward()
    assert all(p.grad.isfinite().all() for name, p in model.named_parameters() if p.grad is not None)
    assert model.layers[0].spline_weight.grad.any()


def test_penalties_on_coefficients():
    model, x = KAN([2, 3, 1], grid=4, seed=0), torch.rand(10, 2)
    *inputs, _ = model.activations(x)
    weights = [layer.spline_weight.detach().numpy() for layer in model.layers]
    coef = sum(np.abs(w).mean(0).sum() for w in weights)
    coefdiff = sum(np.abs(np.diff(w)).mean(0).sum() for w in weights)
    reg = regularization(model, inputs, 0, 0, lamb_coef=2.0, lamb_coefdiff=3.0)
    assert reg.item() == pytest.approx(2 * coef + 3 * coefdiff, rel=1e-5)
    assert regularization(model, inputs, 0, 0).item() == 0


@pytest.mark.parametrize("metric", REG_METRICS)
def test_fit_makes_the_penalty_smaller(metric):
    model = KAN([2, 3, 1], grid=3, seed=0)
    x = torch.rand(100, 2) * 2 - 1
    history = model.fit(
        (x, x[:, :1]), opt="Adam", steps=20, lamb=1.0, lamb_coef=0.1, lamb_coefdiff=0.1, reg_metric=metric,
        update_grid=False, progress=False,
    )  # fmt: skip
    assert history["reg"][-1] < 0.9 * history["reg"][0]


def test_unknown_options_are_refused():
    model, x = KAN([2, 1]), torch.rand(10, 2)
    with pytest.raises(ValueError, match="unknown reg_metric 'edges'; allowed: edge_magnitude, edge_forward_spline_n"):
        model.fit((x, x[:, :1]), reg_metric="edges")
    with pytest.raises(ValueError, match="unknown reg_metric 'edges'"):
        regularization(model, [x], reg_metric="edges")
    with pytest.raises(ValueError, match="lamb_smooth must be finite and at least 0"):
        model.fit((x, x[:, :1]), lamb_smooth=-1)
    with pytest.raises(ValueError, match="degree 2 or more, this layer has spline_order=1"):
        KAN([2, 1], k=1).fit((x, x[:, :1]), steps=1, lamb=1, lamb_smooth=1.0, progress=False)


# Smoothness


@pytest.mark.parametrize("degree", [2, 3, 4, 5])
def test_bending_is_the_integral(degree):
    layer = rough(degree=degree)
    node, share = np.polynomial.legendre.leggauss(8)
    expected = np.zeros((3, 2))
    for o, i in np.ndindex(3, 2):
        knots = layer.grid[i].numpy()
        curvature = BSpline(knots, layer.spline_weight[o, i].detach().numpy(), degree).derivative(2)
        for start, end in zip(knots[degree:], knots[degree + 1 : -degree], strict=False):
            points = start + (end - start) * (node + 1) / 2
            expected[o, i] += (end - start) / 2 * (share * curvature(points) ** 2).sum()
    torch.testing.assert_close(bending(layer), torch.from_numpy(expected), rtol=1e-9, atol=0)


def test_straight_lines_do_not_bend():
    layer = rough()
    greville = layer.grid.unfold(1, 3, 1)[:, 1:-1].mean(2)  # coefficients of the identity
    with torch.no_grad():
        layer.spline_weight.copy_((2 * greville - 1).expand(3, -1, -1))
    assert bending(layer).abs().max() < 1e-20


def test_bending_is_differentiable_and_leaves_out_masked_edges():
    layer = rough()
    layer.mask = torch.tensor([[True, False], [True, True], [False, True]])
    assert torch.equal(bending(layer) > 0, layer.mask)

    def function(weight):
        return torch.func.functional_call(Bending(layer), {"layer.spline_weight": weight}, ())

    assert torch.autograd.gradcheck(function, (layer.spline_weight,))


class Bending(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self):
        return bending(self.layer)


def test_smoothness_prevents_overfitting_on_a_fine_grid():
    x = torch.rand(60, 1, dtype=torch.float64) * 2 - 1
    label = torch.sin(math.pi * x) + 0.1 * torch.randn_like(x)
    test = torch.linspace(-0.95, 0.95, 200, dtype=torch.float64)[:, None]
    errors = []
    for smooth in (0.0, 1e-4):
        model = KAN([1, 1], grid=50, seed=0, dtype=torch.float64)
        options = dict(lamb=1.0, lamb_l1=0.0, lamb_entropy=0.0, lamb_smooth=smooth)
        model.fit((x, label), steps=20, update_grid=False, progress=False, **options)
        errors.append((model(test) - torch.sin(math.pi * test)).square().mean().sqrt().item())
    assert errors[1] < 0.06 < errors[0]
