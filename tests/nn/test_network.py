"""KAN as an nn.Module: construction, casting, reproducible seeds, grids, copies; and what it refuses."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from kan_fast import KAN


@pytest.fixture
def x():
    return torch.rand(50, 2) * 2 - 1


def same(a: KAN, b: KAN) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(s, t) for s, t in pairs)


def test_is_the_composition_of_its_layers(x):
    model = KAN([2, 5, 1], grid=4, k=2)
    assert model(x).shape == (50, 1)
    assert torch.equal(model(x), nn.Sequential(*model.layers)(x))
    flow = model.activations(x)
    assert [tuple(t.shape) for t in flow] == [(50, 2), (50, 5), (50, 1)]
    assert model.layers[0].spline_weight.shape == (5, 2, 6)


@pytest.mark.parametrize("shape", [(2,), (0, 2), (7, 2), (3, 1, 2)], ids=str)
def test_any_leading_dimensions(shape):
    assert KAN([2, 3, 4], grid=3)(torch.zeros(shape)).shape == (*shape[:-1], 4)


def test_forward_casts_to_the_dtype_of_the_network(x):
    model = KAN([2, 1], grid=3)
    assert model(x.double()).dtype == torch.float32
    assert torch.equal(model(x.double()), model(x))
    assert model.double()(x).dtype == torch.float64


def test_options_reach_every_layer():
    model = KAN([1, 2, 1], 3, 2, bias=False, base="identity", extrapolation="linear", grid_range=[0, 4], grid_eps=0.5)
    for layer in model.layers:
        assert (layer.grid_size, layer.spline_order, layer.bias) == (3, 2, None)
        assert (layer.base, layer.extrapolation, layer.grid_eps) == ("identity", "linear", 0.5)
        assert layer.grid[0, 2] == 0
        assert layer.grid[0, -3] == 4
    assert KAN([1, 1], base="zero").layers[0].base == "zero"
    assert "width=[1, 2, 1], grid=3, k=2" in repr(model)


def test_seed_is_reproducible_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    a, b, c = KAN([2, 3, 1], seed=4), KAN([2, 3, 1], seed=4), KAN([2, 3, 1], seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(a, b)
    assert not same(a, c)
    torch.manual_seed(1)
    d = KAN([2, 3, 1])
    torch.manual_seed(1)
    assert same(d, KAN([2, 3, 1]))


def test_meta_device():
    for seed in (None, 0):
        model = KAN([2, 3, 1], seed=seed, device="meta")
        assert {p.device.type for p in model.parameters()} == {"meta"}
        assert model(torch.zeros(4, 2, device="meta")).shape == (4, 1)


@pytest.mark.parametrize(
    "clone",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deepcopy", "pickle"],
)
def test_copies_compute_the_same_and_are_independent(x, clone):
    model = KAN([2, 3, 1], grid=3)
    model.fit((x, x[:, :1]), steps=1, progress=False)
    twin = clone(model)
    assert torch.equal(twin(x), model(x))
    with torch.no_grad():
        twin.layers[0].spline_weight.zero_()
    assert not torch.equal(twin(x), model(x))


def test_state_dict_carries_everything(x):
    model, other = KAN([2, 3, 1], grid=3, seed=0), KAN([2, 3, 1], grid=3, seed=1)
    model.update_grid(x)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    with pytest.raises(RuntimeError, match="grid_size=3"):
        KAN([2, 3, 1], grid=4).load_state_dict(model.state_dict())


def test_update_grid_covers_the_samples_of_every_layer_and_keeps_the_function():
    model = KAN([2, 4, 3, 1], grid=20, seed=0, dtype=torch.float64)
    x = torch.rand(2000, 2, dtype=torch.float64) * 2 - 1
    flow = model.activations(x)
    model.update_grid(x, eps=1.0)  # uniform grids of 20 spans, which can represent smooth curves well
    for layer, samples in zip(model.layers, flow, strict=False):
        k = layer.spline_order
        torch.testing.assert_close(layer.grid[:, k], samples.min(0).values, atol=1e-5, rtol=0)
        torch.testing.assert_close(layer.grid[:, -1 - k], samples.max(0).values, atol=1e-5, rtol=0)
    change = (model(x) - flow[-1]).abs().max() / (flow[-1].max() - flow[-1].min())
    assert change < 0.05  # the noise of the initial splines is what can't be represented


def test_update_grid_on_samples_that_fill_the_grid_already_changes_nothing():
    model = KAN([2, 1], grid=5, seed=0, dtype=torch.float64)
    x = torch.linspace(-1, 1, 301, dtype=torch.float64)[:, None].expand(-1, 2)
    before = model(x)
    model.update_grid(x)
    torch.testing.assert_close(model(x), before, atol=1e-5, rtol=0)


def test_second_derivatives_through_the_network():
    model = KAN([2, 3, 1], grid=3, dtype=torch.float64)
    x = (torch.rand(4, 2, dtype=torch.float64) - 0.5).requires_grad_()
    assert torch.autograd.gradgradcheck(model, x)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(width=[2]), ValueError, r"at least two layers.*got \[2\]"),
        (dict(width=[2, 0, 1]), ValueError, "at least 1"),
        (dict(width=[2, 1.5]), TypeError, "width must list"),
        (dict(width=3), TypeError, "width must list"),
        (dict(width=[True, True]), TypeError, r"width must list.*got \[True, True\]"),
        (dict(width=[2, 1], grid=0), ValueError, "grid must be at least 1, got 0"),
        (dict(width=[2, 1], grid=True), TypeError, "grid must be an int, got True"),
        (dict(width=[2, 1], grid=3.0), TypeError, "grid must be an int, got 3.0"),
        (dict(width=[2, 1], k=True), TypeError, "k must be an int, got True"),
        (dict(width=[2, 1], k=6), ValueError, "0 to 5, got 6"),
        (dict(width=[2, 1], grid_range=[1, -1]), ValueError, "start < end"),
        (dict(width=[2, 1], noise_scale=-1), ValueError, "noise_scale must be finite and at least 0"),
        (dict(width=[2, 1], base="relu"), ValueError, "unknown base 'relu'"),
        (dict(width=[2, 1], extrapolation="flat"), ValueError, "unknown extrapolation 'flat'"),
        (dict(width=[2, 1], backend="tpu"), ValueError, "unknown backend 'tpu'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_options(arguments, error, message):
    with pytest.raises(error, match=message):
        KAN(**arguments)


def test_bad_inputs(x):
    model = KAN([2, 1])
    with pytest.raises(ValueError, match=r"expected last dimension 2, got 3 \(input shape \(5, 3\)\)"):
        model(torch.zeros(5, 3))
    with pytest.raises(TypeError, match="floating point"):
        model(torch.zeros(5, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="empty"):
        model.update_grid(x[:0])
    with pytest.raises(ValueError, match="finite"):
        model.update_grid(x / 0)
    for other in ([[1.0, 2.0]], x.numpy()):
        with pytest.raises(TypeError, match=r"torch\.as_tensor"):
            model(other)


def test_numbers_of_numpy_are_numbers(x):
    model = KAN(np.array([2, 3, 1]), grid=np.int64(4), k=np.int8(2))
    assert (model.width, model.grid, model.k) == ([2, 3, 1], 4, 2)
    assert all(type(n) is int for n in (*model.width, model.grid, model.k))
    assert model(x).shape == (50, 1)


@pytest.mark.parametrize("trouble", ["parametrised", "infinite", "interrupted"])
def test_update_grid_changes_all_layers_or_none(x, trouble, monkeypatch):
    model = KAN([2, 3, 1], grid=3)
    error = ValueError
    if trouble == "parametrised":
        nn.utils.parametrizations.weight_norm(model.layers[1], "spline_weight")
    elif trouble == "infinite":
        with torch.no_grad():
            model.layers[0].bias[1] = float("inf")
    else:
        error = KeyboardInterrupt

        def interrupt(*args, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr(model.layers[1], "update_grid", interrupt)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(error):
        model.update_grid(x)
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[name]), name


def test_update_grid_of_some_layers(x):
    model = KAN([2, 3, 1], grid=3)
    before = [layer.grid.clone() for layer in model.layers]
    model.update_grid(x, layers=[model.layers[1]])
    assert torch.equal(model.layers[0].grid, before[0])
    assert not torch.equal(model.layers[1].grid, before[1])


class Reversed(KAN):
    """Calls its layers in another order, by keyword, and one of them twice."""

    def forward(self, x):
        return self.layers[0](self.layers[1](self.layers[1](x=x)))


def test_activations_are_those_of_the_forward_whatever_it_does(x):
    model = Reversed([2, 2, 2], grid=3)
    first, second, output = model.activations(x)
    once = model.layers[1](x)
    assert torch.equal(second, torch.cat([x, once]))
    assert torch.equal(first, model.layers[1](once))
    assert torch.equal(output, model(x))
    assert not any(layer._forward_pre_hooks for layer in model.layers)
    model.forward = lambda x: model.layers[1](x)
    with pytest.raises(ValueError, match=r"forward of Reversed does not call its layers \[0\]"):
        model.update_grid(x)
