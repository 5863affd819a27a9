"""Masks of layers: masked edges count as zero, are not trained, and go where layers go."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from kan_fast import KANLinear
from tests.helpers.curves import edges
from tests.helpers.networks import samples


def masked_layer(**options):
    layer = KANLinear(3, 2, dtype=torch.float64, **options)
    layer.mask = torch.tensor([[True, False, True], [False, False, True]])
    return layer


def zeroed(layer):
    """The same without a mask, with weights of 0 instead."""
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.spline_weight.mul_(layer.mask[..., None])
        if other.base_weight is not None:
            other.base_weight.mul_(layer.mask)
    other.mask = None
    return other


@pytest.mark.parametrize("options", [{}, {"base": "zero"}, {"base": torch.tanh, "bias": False}], ids=str)
def test_masked_edges_count_as_zero_and_are_not_trained(options):
    layer, x = masked_layer(**options), samples(50, 3)
    same = zeroed(layer)
    torch.testing.assert_close(layer(x), same(x), rtol=0, atol=0)
    torch.testing.assert_close(layer.edge_magnitude(x), same.edge_magnitude(x), rtol=0, atol=0)
    layer(x).sum().backward()
    assert not layer.spline_weight.grad[~layer.mask].any()
    assert layer.spline_weight.grad[layer.mask].flatten(1).any(1).all()
    x.requires_grad_()
    assert torch.autograd.gradgradcheck(layer, x[:4])


@pytest.mark.parametrize("mask", [torch.ones(2, 3), torch.ones(3, 2, dtype=torch.bool), torch.ones(3).bool()])
def test_masks_of_another_kind_are_refused(mask):
    layer = masked_layer()
    layer.mask = mask
    with pytest.raises(ValueError, match=r"mask must be bool and of the shape \(out, in\) = \(2, 3\), got"):
        layer(torch.rand(4, 3, dtype=torch.float64))


def test_masks_go_where_layers_go():
    layer, x = masked_layer(), samples(50, 3)
    y = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), y)
    assert copy.deepcopy(layer).half().mask.dtype == torch.bool
    assert layer.to("meta").mask.is_meta
    assert "masked" in repr(layer)


def test_states_with_and_without_masks():
    masked, plain, x = masked_layer(), KANLinear(3, 2, dtype=torch.float64), samples(50, 3)
    assert "mask" in masked.state_dict() and "mask" not in plain.state_dict()
    was = plain.state_dict()
    was = {name: t.clone() for name, t in was.items()}
    file = io.BytesIO()
    torch.save(masked.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(plain)
    assert str(other.load_state_dict(torch.load(file, weights_only=True))) == "<All keys matched successfully>"
    assert torch.equal(other(x), masked(x))
    masked.load_state_dict(was)
    assert masked.mask is None and torch.equal(masked(x), plain(x))
    other.load_state_dict({"bias": torch.ones(2, dtype=torch.float64)}, strict=False)
    assert other.mask is not None


def test_masks_stay_through_grid_updates():
    layer, x = masked_layer(), samples(500, 3)
    mask = layer.mask.clone()
    layer.update_grid(x)
    assert torch.equal(layer.mask, mask) and torch.equal(layer.edge_magnitude(x) > 0, mask)


@pytest.mark.parametrize("bias", [True, False])
def test_subsets_of_layers(bias):
    layer = masked_layer(bias=bias, extrapolation="linear", backend="reference", grid_eps=0.3)
    layer.update_grid(samples(100, 3) * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    layer.spline_weight.requires_grad_(False)
    small, x = layer.subset([1], [2, 0]), samples(50, 3)
    expected = edges(layer, x)[:, 1, [2, 0]].sum(1) + (layer.bias[1] if bias else 0)
    torch.testing.assert_close(small(x[:, [2, 0]])[:, 0], expected, rtol=1e-12, atol=1e-12)
    assert (small.in_features, small.out_features, small.grid_size) == (2, 1, 5)
    assert (small.extrapolation, small.backend, small.grid_eps, small.bias is None) == (
        "linear",
        "reference",
        0.3,
        not bias,
    )
    assert not small.spline_weight.requires_grad and small.base_weight.requires_grad
    assert {t.data_ptr() for t in small.state_dict().values()}.isdisjoint(
        t.data_ptr() for t in layer.state_dict().values()
    )
