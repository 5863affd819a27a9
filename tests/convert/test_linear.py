"""Conversion of nn.Linear and of whole models: the same function, and refusals where there is none."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from kan_fast import KANLinear
from kan_fast.convert import from_linear, replace_linear
from tests.helpers.conversion import assert_same

FAR = torch.tensor([[0.0] * 6, [1.0] * 6, [-1.0] * 6, [7.0] * 6, [-300.0] * 6, [1e6] * 6])


# nn.Linear


@pytest.mark.parametrize("extrapolation", ["linear", "zero", "clamp"])
@pytest.mark.parametrize("bias", [True, False])
def test_from_linear_is_exact_everywhere(bias, extrapolation):
    linear = nn.Linear(6, 5, bias=bias)
    kan = from_linear(linear, grid_size=7, spline_order=2, extrapolation=extrapolation)
    x = torch.cat([FAR, torch.randn(50, 6)])
    assert_same(kan(x), linear(x))
    assert (kan.grid_size, kan.spline_order, kan.extrapolation) == (7, 2, extrapolation)


ACTIVATIONS = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "leaky_relu": F.leaky_relu,
    "softplus": F.softplus,
    "identity": lambda x: x,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_from_linear_with_a_named_activation(name):
    linear, x = nn.Linear(6, 3), torch.cat([FAR, torch.randn(50, 6)])
    assert_same(from_linear(linear, name)(x), linear(ACTIVATIONS[name](x)))


@pytest.mark.parametrize("activation", [nn.SiLU(), F.silu])
def test_activations_that_kernels_have_are_fused(activation):
    assert from_linear(nn.Linear(2, 2), activation).base == "silu"
    assert from_linear(nn.Linear(2, 2), nn.Identity()).base == "identity"


def test_from_linear_with_callables():
    linear, x = nn.Linear(6, 3), torch.randn(20, 6)
    assert_same(from_linear(linear, torch.sin)(x), linear(torch.sin(x)))
    assert_same(from_linear(linear, nn.GELU(approximate="tanh"))(x), linear(F.gelu(x, approximate="tanh")))


def test_a_converted_layer_learns_what_a_linear_layer_cannot():
    linear = nn.Linear(1, 1)
    kan = from_linear(linear)
    x = torch.linspace(-1, 1, 64)[:, None]
    target = torch.sin(4 * x)
    optimizer = torch.optim.LBFGS(kan.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.mse_loss(kan(x), target)
        value.backward()
        return value

    optimizer.step(loss)
    line = torch.cat([x, torch.ones_like(x)], 1)
    residual = target - line @ torch.linalg.lstsq(line, target).solution
    assert loss() < 1e-4 < 0.1 < residual.square().mean()


def test_from_linear_keeps_dtype_mode_and_frozen_weights():
    linear = nn.Linear(3, 2, dtype=torch.float64).eval()
    linear.weight.requires_grad_(False)
    kan = from_linear(linear)
    assert kan.spline_weight.dtype == kan.grid.dtype == torch.float64
    assert not kan.training
    assert [kan.base_weight.requires_grad, kan.bias.requires_grad, kan.spline_weight.requires_grad] == [
        False,
        True,
        True,
    ]
    x = torch.randn(10, 3, dtype=torch.float64)
    assert_same(kan(x), linear(x))
    half = from_linear(nn.Linear(3, 2, dtype=torch.bfloat16))
    assert (half.spline_weight.dtype, half.grid.dtype) == (torch.bfloat16, torch.float32)


def test_from_linear_copies_and_leaves_the_random_generator_alone():
    linear, state = nn.Linear(3, 2), torch.get_rng_state()
    kan = from_linear(linear)
    assert torch.equal(torch.get_rng_state(), state)
    before = linear.weight.clone()
    with torch.no_grad():
        kan.base_weight.add_(1)
    assert torch.equal(linear.weight, before)


def test_from_linear_refuses():
    with pytest.raises(TypeError, match=r"expected an nn\.Linear, got Conv1d"):
        from_linear(nn.Conv1d(1, 1, 1))
    with pytest.raises(ValueError, match="unknown activation 'swoosh'; allowed: silu"):
        from_linear(nn.Linear(1, 1), "swoosh")
    with pytest.raises(TypeError, match="a name, a callable or None, got 3"):
        from_linear(nn.Linear(1, 1), 3)
    with pytest.raises(TypeError, match="as `activation`, not as `base`"):
        from_linear(nn.Linear(1, 1), base="silu")
    with pytest.raises(ValueError, match="grid_size must be at least 1"):
        from_linear(nn.Linear(1, 1), grid_size=0)


# Whole models


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(2))
        self.heads = nn.ModuleDict({"a": nn.Linear(8, 2), "b": nn.Linear(8, 3, bias=False)})

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return torch.cat([head(x) for head in self.heads.values()], 1)


def kinds(model):
    return {name: type(m) for name, m in model.named_modules() if isinstance(m, nn.Linear | KANLinear)}


def test_replace_linear_on_named_submodules():
    model, x = MLP(), torch.randn(30, 6)
    expected, names = model(x), list(kinds(model))
    assert replace_linear(model, grid_size=3) is model
    assert kinds(model) == dict.fromkeys(names, KANLinear)
    assert all(layer.grid_size == 3 for layer in model.modules() if isinstance(layer, KANLinear))
    assert_same(model(x), expected)
    model(x).square().sum().backward()
    assert model.embed.spline_weight.grad.abs().sum() > 0


def test_replace_linear_with_a_filter():
    model, x = MLP(), torch.randn(30, 6)
    expected = model(x)
    replace_linear(model, lambda name, linear: name.startswith("heads") and linear.out_features == 3)
    assert [name for name, kind in kinds(model).items() if kind is KANLinear] == ["heads.b"]
    assert_same(model(x), expected)


def test_replace_linear_of_a_single_layer_returns_its_replacement():
    linear, x = nn.Linear(6, 2), torch.randn(5, 6)
    kan = replace_linear(linear)
    assert type(kan) is KANLinear
    assert_same(kan(x), linear(x))


def tied():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False))
    model[2].weight = model[0].weight
    return model


def shared_module():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


def weight_norm():
    return nn.Sequential(nn.Linear(4, 4), parametrizations.weight_norm(nn.Linear(4, 4)))


def pruned():
    model = nn.Sequential(nn.Linear(4, 4))
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    return model


def hooked():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].register_forward_hook(lambda *args: None)
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (tied, r"weights of '2' are tied: 0.weight = 2.weight; .*name != '2'"),
        (shared_module, r"weights of '0' are tied: 0.weight = 2.weight"),
        (weight_norm, r"weights of '1' are parametrised .*remove_parametrizations"),
        (pruned, r"weights of '0' are parametrised \(by bias, weight_orig\)"),
        (hooked, r"'0' has hooks"),
        (lambda: nn.Sequential(nn.Conv1d(1, 1, 1)), "found no layer to replace"),
    ],
    ids=["tied", "shared", "weight_norm", "pruned", "hooked", "none"],
)
def test_replace_linear_refuses_and_changes_nothing(build, message):
    model = build()
    modules = list(model.modules())
    with pytest.raises(ValueError, match=message):
        replace_linear(model)
    assert all(a is b for a, b in zip(modules, model.modules(), strict=True))


def test_replace_linear_leaves_tied_layers_out_on_request():
    model, tokens = tied(), torch.arange(5)
    expected = model(tokens)
    replace_linear(model, lambda name, linear: name != "2")
    assert model[2].weight is model[0].weight
    assert_same(model(tokens), expected)


def test_replace_linear_keeps_the_activations_of_the_model():
    for option in ("base", "activation"):
        with pytest.raises(TypeError, match="keeps the model's activations"):
            replace_linear(MLP(), **{option: "silu"})


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_transformer_encoder(activation, norm_first):
    """Training, inference under no_grad (torch's fused path before, ours after) and padded batches."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=activation, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first).eval()
    x, padding = torch.randn(3, 5, 8), torch.tensor([[0] * 5, [0, 0, 0, 1, 1], [0, 0, 1, 1, 1]], dtype=torch.bool)
    original = copy.deepcopy(model)
    replace_linear(model)
    assert all(type(m.linear1) is type(m.linear2) is KANLinear for m in model.layers)
    assert all(type(m.self_attn.out_proj) is not KANLinear for m in model.layers)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors, in torch's own fast path, are a prototype
        with torch.no_grad():
            torch.testing.assert_close(model(x), original(x))
            expected = original(x, src_key_padding_mask=padding)
            torch.testing.assert_close(model(x, src_key_padding_mask=padding)[~padding], expected[~padding])
        torch.testing.assert_close(model(x), original(x))

    with torch.no_grad():  # the replaced layers are what runs
        before = model(x)
        model.layers[0].linear1.spline_weight.add_(torch.randn_like(model.layers[0].linear1.spline_weight))
        assert not torch.allclose(model(x), before)

    model.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
