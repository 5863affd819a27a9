"""Multiplication nodes: what they compute, how they are asked for, and that everything works on networks with them."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from kan_fast import KAN, KANLinear
from kan_fast.nn.nodes import Nodes

ARITIES = [[], [2, 3], 2]


def network(**options):
    """3 sums and products of 2 and 3 factors, then a sum and a product of 2."""
    return KAN([2, [3, 2], [1, 1]], grid=4, seed=0, mult_arity=ARITIES, dtype=torch.float64, **options)


def samples(n=200, columns=2):
    return torch.rand(n, columns, dtype=torch.float64) * 2 - 1


def test_sums_come_first_and_products_multiply_neighbours():
    x = torch.randn(4, 5, 9, dtype=torch.float64)
    y = Nodes(2, [2, 2, 3])(x)
    products = (x[..., 2] * x[..., 3], x[..., 4] * x[..., 5], x[..., 6] * x[..., 7] * x[..., 8])
    torch.testing.assert_close(y, torch.stack([x[..., 0], x[..., 1], *products], -1), rtol=1e-15, atol=0)
    assert Nodes(2, [2, 2, 3]).owner == [0, 1, 2, 2, 3, 3, 4, 4, 4]
    assert Nodes(0, [2])(torch.zeros(0, 2)).shape == (0, 1)
    assert Nodes(9)(x) is x


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_derivatives_at_zeros(zeros):
    x = torch.randn(3, 4, dtype=torch.float64)
    x[:, :zeros] = 0
    x.requires_grad_()
    nodes = Nodes(1, [3])
    assert torch.autograd.gradcheck(nodes, x)
    assert torch.autograd.gradgradcheck(nodes, x)


def test_input_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"expected last dimension 4, 2 sums and products of 2, got 3 .*\(5, 3\)"):
        Nodes(2, [2])(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="a number of factors must be at least 2, got 1"):
        Nodes(2, [1])


def test_subset_keeps_sums_and_arities():
    small = Nodes(3, [2, 4, 3]).subset([1, 4, 5])
    assert (small.sums, small.arities, small.width) == (1, (4, 3), 3)


@pytest.mark.parametrize(
    ("width", "mult_arity", "inner"),
    [
        ([2, [5, 2], 1], 2, [2, [5, 2], 1]),
        ([[2, 0], (5, 0), np.int64(1)], 3, [2, 5, 1]),
        (np.array([[2, 0], [3, 1], [1, 0]]), 3, [2, [3, 1], 1]),
        ([2, [0, 1]], [2, [4]], [2, [0, 1]]),
    ],
    ids=str,
)
def test_width(width, mult_arity, inner):
    model = KAN(width, grid=3, mult_arity=mult_arity)
    assert model.width == inner
    assert KAN(model.width, grid=3, mult_arity=model.mult_arity).mult_arity == model.mult_arity
    assert model(torch.zeros(7, 2)).shape == (7, 1)


def test_numbers_of_nodes_and_subnodes():
    model = network()
    assert (model.width_in, model.width_out) == ([2, 5, 2], [2, 8, 3])
    assert model.mult_arity == [[], [2, 3], [2]]
    assert [(layer.in_features, layer.out_features) for layer in model.layers] == [(2, 8), (5, 3)]
    assert "width=[2, [3, 2], [1, 1]]" in repr(model)
    assert "3 sums and products of 2, 3" in repr(model)


@pytest.mark.parametrize(
    ("width", "mult_arity", "error", "message"),
    [
        ([2, [3, 1, 1], 1], 2, TypeError, "width must list"),
        ([2, [3, -1], 1], 2, ValueError, r"width must list.*\[3, -1\]"),
        ([2, [0, 0], 1], 2, ValueError, "at least 1"),
        ([2, [1.0, 1], 1], 2, TypeError, "width must list"),
        ([2, "51", 1], 2, TypeError, "width must list"),
        ([[2, 1], 1], 2, ValueError, r"inputs can't be products, got width \[\[2, 1\], 1\]"),
        ([2, [3, 1], 1], 1, ValueError, "mult_arity must be at least 2, got 1"),
        ([2, [3, 1], 1], 2.0, TypeError, "mult_arity must be an int, got 2.0"),
        ([2, [3, 1], 1], [2, 2], ValueError, r"an entry for each of the 3 levels.*got \[2, 2\]"),
        ([2, [3, 1], 1], [[], [2, 2], []], ValueError, r"mult_arity has \[2, 2\] for level 1.*each of its 1 products"),
    ],
    ids=str,
)
def test_bad_widths(width, mult_arity, error, message):
    with pytest.raises(error, match=message):
        KAN(width, mult_arity=mult_arity)


def test_the_network_is_layers_and_products_in_turn():
    model, x = network(), samples()
    h = model.layers[0](x)
    h = torch.cat([h[:, :3], h[:, 3:5].prod(1, keepdim=True), h[:, 5:].prod(1, keepdim=True)], 1)
    y = model.layers[1](h)
    expected = torch.stack([y[:, 0], y[:, 1] * y[:, 2]], 1)
    torch.testing.assert_close(model(x), expected, rtol=1e-14, atol=1e-14)
    flow = model.activations(x)
    assert [tuple(t.shape) for t in flow] == [(200, 2), (200, 5), (200, 2)]
    torch.testing.assert_close(flow[1], h, rtol=1e-14, atol=1e-14)


def test_copies_seeds_and_states():
    model, x = network(), samples()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), network()):
        assert torch.equal(twin(x), model(x))
    other = KAN(model.width, grid=4, seed=1, mult_arity=ARITIES, dtype=torch.float64)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    assert set(model.state_dict()) == {
        f"layers.{n}.{name}" for n in (0, 1) for name in ("spline_weight", "base_weight", "bias", "grid")
    }


def test_a_state_with_other_products_is_refused():
    state = KAN([2, [0, 2]], grid=3).state_dict()
    with pytest.raises(
        RuntimeError, match=r"nodes.0: the state is of a level of 0 sums and products of 2, 2, this one has 4 sums"
    ):
        KAN([2, 4], grid=3).load_state_dict(state)
    KAN([2, 4], grid=3).load_state_dict(dict(state))  # without metadata, as from a file of tensors


def test_update_grid_keeps_the_function():
    model, x = network(), samples(1000)
    flow = model.activations(x)
    model.update_grid(x, eps=1.0)
    for layer, reached in zip(model.layers, flow, strict=False):
        torch.testing.assert_close(layer.grid[:, 3], reached.min(0).values, atol=1e-5, rtol=0)
    assert (model(x) - flow[-1]).abs().max() < 0.05 * flow[-1].std()


def test_a_product_is_learnt():
    """A sum node alone has an error of 1/3 at best."""
    model, x = KAN([2, [0, 1]], grid=3, seed=0, dtype=torch.float64), samples(300)
    model.fit((x, x.prod(1, keepdim=True)), steps=12, progress=False)
    assert (model(x)[:, 0] - x.prod(1)).square().mean().sqrt() < 1e-3


@pytest.mark.parametrize("opt", ["LBFGS", "Adam"])
def test_fit_with_regularisation(opt):
    model, x = network(), samples()
    label = torch.stack([x[:, 0] * x[:, 1], x.sum(1)], 1)
    history = model.fit((x, label), opt=opt, steps=8, lamb=1e-3, progress=False)
    assert history["train_loss"][-1] < history["train_loss"][0]
    assert all(p.grad is None for p in model.parameters())


def test_a_wrong_label_shape_names_the_number_of_nodes():
    x = samples()
    with pytest.raises(ValueError, match=r"shape \(200, 2\) of the output"):
        network().fit((x, x[:, :1]), steps=1, progress=False)


def test_second_derivatives_through_products():
    x = (samples(4) * 0.9).requires_grad_()
    assert torch.autograd.gradgradcheck(network(), x)


def test_in_a_sequential_by_hand():
    layers = nn.Sequential(KANLinear(2, 4), Nodes(2, [2]), KANLinear(3, 1))
    assert layers(torch.zeros(3, 5, 2)).shape == (3, 5, 1)
