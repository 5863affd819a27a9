"""Pruning: networks that get smaller and keep their function."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from kan_fast import KAN
from tests.helpers.networks import large, samples


def kill(model, level, node, constant=0.7):
    """Make the node of a level a constant."""
    layer = model.layers[level - 1]
    with torch.no_grad():
        for s in [s for s, owner in enumerate(model.nodes[level - 1].owner) if owner == node]:
            layer.spline_weight[s] = 0
            layer.base_weight[s] = 0
            if layer.bias is not None:
                layer.bias[s] = constant


def count(model):
    return sum(p.numel() for p in model.parameters())


# Pruning


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("extrapolation", ["zero", "clamp"])
def test_constant_nodes_fold_into_biases_exactly(bias, extrapolation):
    model, x = large([2, 5, 4, 2], bias=bias, extrapolation=extrapolation), samples()
    kill(model, 1, 1)
    kill(model, 1, 3)
    kill(model, 2, 0)
    before, y, size = copy.deepcopy(model.state_dict()), model(x), count(model)
    small = model.prune(1e-6, 1e-6, x=x)
    assert small.width == [2, 3, 3, 2] and count(small) < size
    assert all(layer.mask is None for layer in small.layers)
    torch.testing.assert_close(small(x), y, rtol=1e-12, atol=1e-12)
    beyond = 3 * samples()
    torch.testing.assert_close(small(beyond), model(beyond), rtol=1e-12, atol=1e-12)
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[name]), name
    assert {p.data_ptr() for p in small.parameters()}.isdisjoint(p.data_ptr() for p in model.parameters())
    kept = model.layers[0].spline_weight[[0, 2, 4]]
    assert torch.equal(small.layers[0].spline_weight, kept), "kept edges are copied to the bit"


def test_nothing_to_prune_changes_nothing():
    model, x = large([2, [3, 1], 2]), samples()
    same = model.prune(0.0, 0.0, x=x)
    assert same is not model and same.width == model.width
    for name, t in model.state_dict().items():
        assert torch.equal(same.state_dict()[name], t), name


def test_removed_edges_leave_their_mean():
    model, x = large([4, 4, 2]), samples(columns=4)
    scores = model.attribute(x=x)
    threshold = scores.edges[0].flatten().sort().values[2].item()
    small = model.prune_edge(threshold, x=x)
    assert sum((~layer.mask).sum() for layer in small.layers if layer.mask is not None) >= 2
    assert (small(x).mean(0) - model(x).mean(0)).abs().max() < 1e-12
    hidden = model.nodes[0](model.layers[0](x)).mean(0), small.activations(x)[1].mean(0)
    torch.testing.assert_close(hidden[0], hidden[1], rtol=1e-12, atol=1e-12)
    assert (small(x) - model(x)).std() < model(x).std()


def test_masked_edges_do_not_come_back():
    model, x = large([2, 4, 1]), samples()
    model.layers[0].mask = torch.tensor([[True, False], [True, True], [False, True], [False, False]])
    small = model.prune(x=x)
    assert small.width == [2, 3, 1]
    assert torch.equal(small.layers[0].mask, model.layers[0].mask[:3])
    torch.testing.assert_close(small(x), model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_products(bias):
    """A dead product goes; one with a constant factor stays, with that factor."""
    model, x = large([2, [2, 3], 1], mult_arity=[2, [2, 3, 2], 2], bias=bias, extrapolation="zero"), samples()
    kill(model, 1, 3)  # the product of three
    layer = model.layers[0]
    with torch.no_grad():  # the first factor of the first product is a constant
        layer.spline_weight[2] = 0.5 if not bias else 0
        layer.base_weight[2] = 0
        if bias:
            layer.bias[2] = 1.5
    small = model.prune(x=x)
    assert small.width == [2, [2, 2], 1] and small.mult_arity == [[], [2, 2], []]
    assert not small.layers[0].mask[2].any() and small.layers[0].mask.sum() == 10
    torch.testing.assert_close(small(x), model(x), rtol=1e-12, atol=1e-12)
    small.fit((x, model(x)), steps=2, progress=False)
    assert not small.layers[0].edge_magnitude(x)[2].any()


@pytest.mark.parametrize("width", [[2, 1], [3, 4, 2], [2, [2, 2], [1, 1], 2], [1, 1, 1]], ids=str)
def test_the_last_path_to_every_output_stays(width):
    model = large(width)
    x = samples(columns=width[0])
    small = model.prune(1e9, 1e9, x=x)
    assert small.width_in[0] == width[0] and small.width_in[-1] == model.width_in[-1]
    assert (small(x).std(0) > 1e-3).all()
    for layer in small.layers:
        assert layer.mask is None or layer.mask.any(0)[: layer.in_features].sum() >= 1
    assert (small(x).mean(0) - model(x).mean(0)).abs().max() < 1e-9 or any(n.arities for n in model.nodes)


def test_an_output_that_is_constant_already_stays_so():
    model, x = large([2, 3, 2]), samples()
    kill(model, 2, 1, constant=4.0)
    model.layers[1].mask = torch.tensor([[True, True, True], [False, False, False]])
    small = model.prune(x=x)
    torch.testing.assert_close(small(x)[:, 1], torch.full((200,), 4.0, dtype=torch.float64))


def test_a_constant_network_keeps_a_node_in_every_level():
    model, x = large([2, [2, 1], 3, 1]), samples()
    kill(model, 3, 0, constant=4.0)
    model.layers[2].mask = torch.zeros(1, 3, dtype=torch.bool)
    small = model.prune(x=x)
    assert small.width == [2, 1, 1, 1]
    assert torch.equal(small(x), model(x))


RANDOM = [
    ([3, [1, 2], 2], dict(k=1, bias=False, mult_arity=3)),
    ([1, 4, [0, 2], 3], dict(k=2, base="zero", extrapolation="linear")),
    ([4, [2, 1], [3, 1], 2], dict(k=3, extrapolation="clamp", mult_arity=[2, 3, 2, 2])),
    ([2, 3, 3, 3, [1, 1]], dict(bias=False, base="zero")),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("width", "options"), RANDOM, ids=lambda value: str(value) if isinstance(value, list) else "")
def test_random_masks_and_thresholds(width, options, seed):
    model = KAN(width, grid=3, seed=seed, dtype=torch.float64, **options)
    torch.manual_seed(seed)
    x = samples(60, width[0])
    with torch.no_grad():
        for layer in model.layers:
            layer.spline_weight.normal_()
            layer.mask = torch.rand(layer.spline_weight.shape[:2]) < 0.7
    exact = model.prune(1e-9, 1e-9, x=x)
    torch.testing.assert_close(exact(x), model(x), rtol=1e-7, atol=1e-9)
    for threshold in (0.05, 0.5, 1e9):
        small = model.prune(threshold, threshold, x=x)
        varies, varied = small(x).std(0) > 0, exact(x).std(0) > 1e-9
        assert torch.equal(varies | varied, varies)
        if not model.nodes[-1].arities:
            torch.testing.assert_close(small(x).mean(0), model(x).mean(0), rtol=1e-9, atol=1e-9)
        small.update_grid(x)
        small.fit((x, model(x)), opt="Adam", steps=1, progress=False)
        assert len(small.attribute(x=x).feature) == width[0]


def test_options_and_types_are_kept():
    class Own(KAN):
        pass

    options = dict(k=2, base="identity", extrapolation="linear", grid_eps=0.4, backend="reference", bias=True)
    model, x = Own([2, 4, 1], grid=6, seed=0, **options).double(), samples()
    model.layers[0].base_weight.requires_grad_(False)
    model.eval()
    with torch.no_grad():
        model.layers[0].spline_weight[0] = 0
        model.layers[0].base_weight[0] = 0
    small = model.prune(x=x.float())
    assert type(small) is Own and not small.training and (small.grid, small.k) == (6, 2)
    assert small.width == [2, 3, 1]
    assert not small.layers[0].base_weight.requires_grad and small.layers[0].spline_weight.requires_grad
    for layer in small.layers:
        assert (layer.spline_order, layer.base, layer.extrapolation) == (2, "identity", "linear")
        assert (layer.grid_eps, layer.backend, layer.spline_weight.dtype) == (0.4, "reference", torch.float64)
    again = copy.deepcopy(small)
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(x), small(x))


def test_nodes_by_number():
    model, x = large([2, 5, 3, 1]), samples()
    small = model.prune_node(active_neurons_id=[[4, 0], [1]], x=x)
    assert small.width == [2, 2, 1, 1]
    assert torch.equal(small.layers[0].spline_weight, model.layers[0].spline_weight[[0, 4]])
    assert (small(x).mean() - model(x).mean()).abs() < 1e-12


def test_inputs():
    model, x = large([4, 5, 1]), samples(columns=4)
    with torch.no_grad():
        for weight in (model.layers[0].spline_weight, model.layers[0].base_weight):
            weight[:, [0, 2]] = 0
    small = model.prune_input(x=x)
    assert (small.width, small.input_id, model.input_id) == ([2, 5, 1], [1, 3], [0, 1, 2, 3])
    torch.testing.assert_close(small(x[:, [1, 3]]), model(x), rtol=1e-12, atol=1e-12)
    one = small.prune_input(active_inputs=[1], x=x[:, [1, 3]])
    assert (one.width, one.input_id) == ([1, 5, 1], [3])
    assert (one(x[:, [3]]).mean() - model(x).mean()).abs() < 1e-12
    assert model.prune_input(1e9, x=x).width[0] == 1


def test_samples_are_those_of_the_last_fit():
    model, x = KAN([3, 4, 1], grid=3, seed=0), samples(columns=3, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"prune_node needs samples: pass x=..., or train with fit first"):
        model.prune()
    model.fit((x, x[:, :1] ** 2), steps=3, lamb=0.01, progress=False)
    assert torch.equal(model.attribute().feature, model.attribute(x=x).feature)
    assert torch.equal(model.prune()(x), model.prune(x=x)(x))
    twin = copy.deepcopy(model)
    assert twin.last_inputs.x is model.last_inputs.x, "not copied"
    assert pickle.loads(pickle.dumps(model)).last_inputs.x is None
    assert len(pickle.dumps(model)) < 20000
    small = model.prune_input(active_inputs=[0, 2])
    assert torch.equal(small.last_inputs.x, x[:, [0, 2]])
    small.prune()
    model.double().prune()


def test_fit_then_prune_keeps_the_error():
    x, test = samples(1000), samples(1000)

    def f(x):
        return torch.exp(torch.sin(math.pi * x[:, :1]) + x[:, 1:] ** 2)

    model = KAN([2, 5, 1], grid=3, seed=1, dtype=torch.float64)
    model.fit((x, f(x)), steps=30, lamb=1e-2, progress=False)
    small = model.prune()
    errors = [(m(test) - f(test)).square().mean().sqrt().item() for m in (model, small)]
    assert count(small) < count(model) / 2
    assert errors[1] < 1.5 * errors[0] < 0.3
    small.fit((x, f(x)), steps=10, progress=False)
    assert (small(test) - f(test)).square().mean().sqrt() < errors[0]


def test_refit_brings_the_result_nearer_to_the_network():
    """Node 1 is the twin of node 0, which can take over its edge."""
    model, x = large([2, 3, 1], scale=0.3), samples()
    with torch.no_grad():
        for p in model.layers[0].parameters():
            p[1] = p[0]
        model.layers[1].spline_weight[:, 1] *= 0.1
        model.layers[1].base_weight[:, 1] *= 0.1
    threshold = 1.01 * model.attribute(x=x).edges[1][0, 1].item()
    small, taught = (model.prune(0.0, threshold, x=x, refit=steps) for steps in (0, 10))
    assert small.width == taught.width == [2, 2, 1]
    error = [(m(x) - model(x)).square().mean() for m in (small, taught)]
    assert error[1] < 0.01 * error[0]


class Scaled(KAN):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x: m.prune_node(active_neurons_id=[[0], [1]], x=x), ValueError, "each of the 1 hidden levels"),
        (lambda m, x: m.prune_node(active_neurons_id=[[]], x=x), ValueError, r"one number from 0 to 3, got \[\]"),
        (lambda m, x: m.prune_node(active_neurons_id=[[4]], x=x), ValueError, r"from 0 to 3, got \[4\]"),
        (lambda m, x: m.prune_input(active_inputs=[], x=x), ValueError, "active_inputs must list at least one"),
        (lambda m, x: m.prune_input(active_inputs=[0.5], x=x), TypeError, "must be an int, got 0.5"),
        (lambda m, x: m.prune(-1.0, x=x), ValueError, "threshold must be finite and at least 0, got -1"),
        (lambda m, x: m.prune(refit=-1, x=x), ValueError, "refit must be at least 0"),
        (lambda m, x: m.prune(x=x / 0), ValueError, "NaN or infinity reaches layer 0"),
    ],
)  # fmt: skip
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call(KAN([2, 4, 1]), samples(dtype=torch.float32))


def test_networks_that_cannot_be_cut():
    x = samples(dtype=torch.float32)
    model = KAN([2, 4, 1])
    nn.utils.parametrizations.weight_norm(model.layers[0], "spline_weight")
    with pytest.raises(ValueError, match="plain tensors: spline_weight is computed from others"):
        model.prune(x=x)
    with pytest.raises(TypeError, match="Scaled computes something else"):
        Scaled([2, 4, 1]).prune(x=x)


def test_remove_edge_makes_it_zero() -> None:
    model, x = KAN([2, 3, 1], seed=0, dtype=torch.float64), torch.rand(7, 2, dtype=torch.float64)
    model.layers[0].fix(1, 0, "sin", (1, 0, 5, 0))
    for edge in ((0, 0, 1), (0, 1, 2)):
        model.remove_edge(*edge)
    layer = model.layers[0]
    assert layer.symbolic is None
    assert layer.mask.tolist() == [[True, True], [False, True], [True, False]]
    alone = layer(torch.stack([x[:, 0], x[:, 1] + 0.1], 1)) - layer(x)
    assert (alone[:, 2] == 0).all()
    assert (alone[:, :2] != 0).all()


@pytest.mark.parametrize(("mode", "before", "after"), [("all", 0, 0), ("down", 0, 2), ("up", 2, 0)])
def test_remove_node(mode: str, before: int, after: int) -> None:
    model = KAN([2, [1, 1], 2], seed=0)
    model.remove_node(1, 1, mode)  # the product, with two subnodes
    first, second = (layer.kinds.present for layer in model.layers)
    assert first.tolist() == [[True, True], *[[before > 0] * 2] * 2]
    assert second.tolist() == [[True, after > 0]] * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.remove_edge(2, 0, 0), "l must be 0 to 1, got 2"),
        (lambda m: m.remove_edge(0, 2, 0), "i must be 0 to 1, got 2"),
        (lambda m: m.remove_edge(0, 0, 3), "j must be 0 to 2, got 3"),
        (lambda m: m.remove_node(3, 0), "l must be 0 to 2, got 3"),
        (lambda m: m.remove_node(1, 0, "left"), "mode must be 'all', 'up' or 'down', got 'left'"),
    ],
)
def test_remove_what_is_not_there(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(KAN([2, 3, 1], seed=0))
