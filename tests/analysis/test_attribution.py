"""Attribution: scores by their definition, of levels and nodes, in any units."""

from __future__ import annotations

import math

import pytest
import torch

from kan_fast import KAN
from tests.helpers.curves import edges
from tests.helpers.networks import large, samples


def test_scores_are_those_of_the_definition():
    model, x = large([2, [2, 1], 3], mult_arity=3), samples()
    h, y = model.layers[0](x), model.layers[1](model.activations(x)[1])
    first = edges(model.layers[0], x).std(0) / h.std(0)[:, None]
    second = edges(model.layers[1], model.activations(x)[1]).std(0) / y.std(0)[:, None]
    scores = model.attribute(x=x)
    torch.testing.assert_close(scores.edges[1], second, rtol=1e-9, atol=0)
    nodes = second.sum(0)
    torch.testing.assert_close(scores.nodes[1], nodes, rtol=1e-9, atol=0)
    subnodes = nodes[[0, 1, 2, 2, 2]]
    torch.testing.assert_close(scores.subnodes[0], subnodes, rtol=1e-9, atol=0)
    torch.testing.assert_close(scores.edges[0], subnodes[:, None] * first, rtol=1e-9, atol=0)
    torch.testing.assert_close(scores.feature, (subnodes[:, None] * first).sum(0), rtol=1e-9, atol=0)
    assert [tuple(t.shape) for t in scores.nodes] == [(2,), (3,), (3,)]


def test_scores_of_one_level_and_node():
    model, x = large([2, 3, 3, 2]), samples()
    whole = model.attribute(2, x=x)
    parts = [model.attribute(2, i, x=x).feature for i in range(3)]
    torch.testing.assert_close(sum(parts), whole.feature, rtol=1e-12, atol=0)
    assert len(whole.nodes) == 3 and torch.equal(whole.nodes[2], torch.ones(3, dtype=torch.float64))
    weighted = model.attribute(2, out_score=torch.tensor([0.0, 2.0, 0.0]), x=x)
    torch.testing.assert_close(weighted.feature, 2 * parts[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1e-20, 1e-12, 1e-6, 1e6, 1e20])
def test_scores_do_not_depend_on_units(scale):
    model, x = large([2, 3, 1]), samples()
    before = model.attribute(x=x)
    with torch.no_grad():
        for p in model.layers[1].parameters():
            p.mul_(scale)
    after = model.attribute(x=x)
    torch.testing.assert_close(after.feature, before.feature, rtol=1e-6, atol=0)


def test_an_input_without_effect_has_no_score():
    model, x = large([3, 4, 1]), samples(columns=3)
    with torch.no_grad():
        model.layers[0].spline_weight[:, 1] = 0
        model.layers[0].base_weight[:, 1] = 0
    feature = model.attribute(x=x).feature
    assert feature[1] < 1e-12 and feature[0] > 0.1 and feature[2] > 0.1


def test_scores_in_pykan():
    kan = pytest.importorskip("kan")
    from kan_fast.convert import from_pykan

    theirs = kan.KAN([2, [3, 2], 2], grid=4, k=3, seed=0, auto_save=False, noise_scale=2.0)
    x = samples(dtype=torch.float32)
    theirs.get_act(x)
    theirs.attribute()
    ours = from_pykan(theirs).attribute(x=x, out_score=torch.ones(2) / 2)
    for mine, other in zip((*ours.nodes, *ours.edges), (*theirs.node_scores, *theirs.edge_scores), strict=True):
        torch.testing.assert_close(mine, other, rtol=5e-3, atol=1e-3)  # they add 1e-4 to every deviation


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(x=None), "attribute needs samples: pass x=..., or train with fit first"),
        (dict(x=torch.rand(1, 2)), "give at least 2, got 1"),
        (dict(x=torch.rand(5, 3)), r"expected samples \(n, 2\), got x of shape \(5, 3\)"),
        (dict(x=torch.full((5, 2), math.nan)), "NaN or infinity reaches layer 0"),
        (dict(l=3), "l must be a level from 1 to 2, got 3"),
        (dict(l=0), "l must be at least 1"),
        (dict(i=1), "i must be a node of level 2, 0 to 0, got 1"),
        (dict(out_score=torch.ones(2)), r"out_score must have the shape \(1,\)"),
    ],
    ids=str,
)
def test_bad_calls_of_attribute(arguments, message):
    with pytest.raises(ValueError, match=message):
        KAN([2, 3, 1]).attribute(**{"x": torch.rand(9, 2), **arguments})
