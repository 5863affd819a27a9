"""Regularisation in fit: the terms of the paper, and what they do to a network."""

import math

import pytest
import torch

from kan_fast import KAN
from kan_fast.training.regularization import l1_and_entropy, regularization
from tests.helpers.fitting import fit, small


def test_entropy_and_l1_are_those_of_the_paper():
    m = torch.rand(3, 4, dtype=torch.float64)
    p = m.numpy() / m.numpy().sum()
    l1, entropy = l1_and_entropy(m)
    assert l1.item() == pytest.approx(m.numpy().sum())
    assert entropy.item() == pytest.approx(-sum(q * math.log(q) for q in p.flat))
    assert l1_and_entropy(torch.ones(3, 4))[1].item() == pytest.approx(math.log(12))
    assert torch.autograd.gradcheck(lambda m: l1_and_entropy(m), m.requires_grad_())


@pytest.mark.parametrize("dead", ["layer", "edge"])
def test_regularisation_of_dead_edges_is_finite(dead):
    model, x = small(), torch.rand(20, 2)
    with torch.no_grad():
        for weight in (model.layers[0].spline_weight, model.layers[0].base_weight):
            weight[:, : 2 if dead == "layer" else 1] = 0
    *inputs, _ = model.activations(x)
    reg = regularization(model, inputs)
    reg.backward()
    assert reg.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_regularisation_is_the_sum_over_layers_of_their_own_inputs(dataset):
    model, x = small(dtype=torch.float64), dataset["train_input"]
    *inputs, _ = model.activations(x)
    expected = 0.0
    for layer, samples in zip(model.layers, inputs, strict=True):
        phi = torch.zeros(layer.out_features, layer.in_features, dtype=torch.float64)
        zero = layer(torch.zeros(1, layer.in_features, dtype=torch.float64))
        for i in range(layer.in_features):  # phi_oi(x) - phi_oi(0) is what a change of one input changes
            alone = torch.zeros_like(samples)
            alone[:, i] = samples[:, i]
            rows = layer.spline_weight.new_zeros(1, layer.in_features)
            offset = torch.stack([edge_value(layer, o, i, rows[:, i]) for o in range(layer.out_features)], 1)
            phi[:, i] = (layer(alone) - zero + offset).abs().mean(0)
        p = phi / phi.sum()
        expected += 0.5 * phi.sum() - 3 * (p * p.log()).sum()
    assert regularization(model, inputs, 0.5, 3.0).item() == pytest.approx(expected.item(), rel=1e-9)


def edge_value(layer, o, i, x):
    """phi_oi(x), from a layer that has no other edge."""
    single = KAN([1, 1], layer.grid_size, layer.spline_order, bias=False, dtype=torch.float64).layers[0]
    with torch.no_grad():
        single.spline_weight.copy_(layer.spline_weight[o : o + 1, i : i + 1])
        single.base_weight.copy_(layer.base_weight[o : o + 1, i : i + 1])
        single.grid.copy_(layer.grid[i : i + 1])
    return single(x[:, None])[:, 0]


def test_lamb_makes_the_network_sparser(dataset):
    plain, sparse = small(), small()
    without = fit(plain, dataset, steps=5)
    with_lamb = fit(sparse, dataset, steps=5, lamb=0.1)
    *inputs, _ = plain.activations(dataset["train_input"])
    assert without["reg"] == [0.0] * 5
    assert with_lamb["reg"][-1] < regularization(plain, inputs).item()
    *inputs, _ = sparse.activations(dataset["train_input"])
    assert with_lamb["reg"][-1] == pytest.approx(regularization(sparse, inputs).item(), rel=1e-4)
