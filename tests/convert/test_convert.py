"""Conversion: the same function as nn.Linear, efficient-kan and pykan, and refusals where there is none."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from kan_fast import KAN, KANLinear
from kan_fast.convert import from_efficient_kan, from_linear, from_pykan, replace_linear, to_efficient_kan_state_dict

FAR = torch.tensor([[0.0] * 6, [1.0] * 6, [-1.0] * 6, [7.0] * 6, [-300.0] * 6, [1e6] * 6])


def assert_same(result: torch.Tensor, expected: torch.Tensor) -> None:
    """1e-6 of the largest output: the figure that conversions promise in float32."""
    assert result.dtype == expected.dtype and result.shape == expected.shape
    scale = expected.abs().amax(0, keepdim=True).clamp(min=1)
    tolerance = 1e-6 if expected.dtype == torch.float32 else 1e-14
    assert ((result - expected).abs() / scale).max() <= tolerance


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


# efficient-kan


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
    ours, x = KANLinear(4, 3, bias=False, grid_size=6, base=base), 4 * torch.rand(100, 4) - 2
    theirs = EfficientKANLinear(4, 3, 6, scale=scale)
    theirs.load_state_dict(to_efficient_kan_state_dict(ours, standalone_scale=scale))
    assert_same(theirs(x), ours(x))


def test_efficient_kan_refusals():
    with pytest.raises(TypeError, match=r"expected a module with grid, .* got Linear"):
        from_efficient_kan(nn.Linear(1, 1))
    layer = KANLinear(2, 2)
    to_efficient_kan_state_dict(layer)  # a bias of 0 is none
    nn.init.ones_(layer.bias)
    with pytest.raises(ValueError, match="has no bias"):
        to_efficient_kan_state_dict(layer)
    with pytest.raises(ValueError, match='extrapolation "zero" only, this layer has "linear"'):
        to_efficient_kan_state_dict(KANLinear(2, 2, extrapolation="linear"))
    with pytest.raises(ValueError, match=r"no multiplication nodes, this network has width \[2, \[1, 1\]\]"):
        to_efficient_kan_state_dict(KAN([2, [1, 1]]))
    symbolic = KANLinear(2, 2)
    symbolic.fix(0, 1, "sin")
    with pytest.raises(ValueError, match=r"splines alone, this layer has symbolic edges: \[\(0, 1\)\]"):
        to_efficient_kan_state_dict(symbolic)
    masked = KANLinear(2, 2)
    masked.mask = torch.eye(2, dtype=torch.bool)
    state = to_efficient_kan_state_dict(masked)
    assert not state["spline_weight"][0, 1].any() and not state["base_weight"][1, 0].any()
    theirs = EfficientKANLinear(2, 2)
    theirs.grid[1, 4] = theirs.grid[1, 5]
    with pytest.raises(ValueError, match=r"knots of an input must increase strictly.* those of input 1 are"):
        from_efficient_kan(theirs)


# pykan

PYKAN = torch.load(Path(__file__).parents[1] / "golden" / "pykan.pt", weights_only=True)


def pykan_model(case):
    """An object with the attributes of a pykan model that the golden file recorded."""
    model = SimpleNamespace(**{key: value for key, value in PYKAN[case].items() if key not in ("affine", "layers")})
    model.node_scale, model.node_bias, model.subnode_scale, model.subnode_bias = PYKAN[case]["affine"]
    base = {"silu": nn.SiLU(), "identity": nn.Identity(), "zero": torch.zeros_like}[model.base_fun_name]
    model.act_fun = [SimpleNamespace(base_fun=base, grid_eps=0.02, **layer) for layer in PYKAN[case]["layers"]]
    model.symbolic_fun = [SimpleNamespace(**copy.deepcopy(layer)) for layer in PYKAN[case]["symbolic"]]
    return model


@pytest.mark.parametrize("case", PYKAN)
def test_from_pykan_gives_what_pykan_gave(case):
    model = pykan_model(case)
    kan = from_pykan(model)
    columns = model.input_id.sort().values
    assert_same(kan(model.x[:, columns]), model.y)
    assert kan.input_id == columns.tolist()
    assert kan.layers[0].base == model.base_fun_name
    assert torch.equal(kan.layers[1].grid, model.act_fun[1].grid)


def test_a_converted_network_goes_on_learning():
    kan, x = from_pykan(pykan_model("plain")), 2 * torch.rand(200, 2) - 1
    assert not any(t.is_meta for t in kan.state_dict().values())
    data = {"train_input": x, "train_label": torch.exp(torch.sin(3 * x[:, :1]) + x[:, 1:] ** 2)}
    losses = kan.fit(data | {"test_input": x, "test_label": data["train_label"]}, steps=15, progress=False)[
        "train_loss"
    ]
    assert losses[-1] < 0.1 * losses[0]


def test_masks_of_pykan_stay():
    model = pykan_model("masked")
    kan = from_pykan(model)
    for layer, theirs in zip(kan.layers, model.act_fun, strict=True):
        assert torch.equal(layer.mask, theirs.mask.T != 0) and not layer.mask.all()
    x = model.x
    kan.fit((x, x[:, :2]), steps=2, progress=False)
    for layer in kan.layers:
        assert not layer.edge_magnitude(torch.rand(10, layer.in_features))[~layer.mask].any()


def test_symbolic_front_that_is_switched_off_counts_for_nothing():
    model = pykan_model("constants")
    model.symbolic_enabled = False
    model.symbolic_fun[0].funs_name[2][1] = "sin"
    assert from_pykan(model).layers[0].bias.abs().max() == 0


def test_functions_of_pykan_stay():
    kan = from_pykan(pykan_model("functions"))
    names = [dict(zip(layer.symbolic.places, layer.symbolic.names, strict=True)) for layer in kan.layers]
    assert names == [
        {(0, 0): "sin", (0, 1): "x^3", (2, 0): "gaussian", (3, 1): "exp"},
        {(0, 0): "arctan", (0, 2): "sqrt"},
    ]
    assert not kan.layers[0].kinds.present[1, 1] and kan.layers[0].kinds.spline[1, 0]


def test_from_pykan_refuses():
    with pytest.raises(TypeError, match="expected a pykan model, got Linear without act_fun"):
        from_pykan(nn.Linear(1, 1))
    model = pykan_model("functions")
    model.act_fun[0].mask = torch.ones(2, 4)
    with pytest.raises(ValueError, match=r"a spline and a function at once; .* \(0, 0, 0\) is so"):
        from_pykan(model)
    model = pykan_model("functions")
    model.symbolic_fun[0].funs_name[0][1] = "mine"
    with pytest.raises(ValueError, match=r"unknown function 'mine'.*add_symbolic"):
        from_pykan(model)
    model = pykan_model("functions")
    model.symbolic_fun[0].funs = model.symbolic_fun[1].funs = [[torch.sin] * 3] * 4
    with pytest.raises(ValueError, match=r"the function 'x\^3' of this pykan model is another"):
        from_pykan(model)
    model = pykan_model("products")
    model.node_bias[1][1] = 0.5
    with pytest.raises(ValueError, match="products with an affine node_bias; level 2 has some"):
        from_pykan(model)
    model = pykan_model("plain")
    model.act_fun[1] = pykan_model("double").act_fun[1]
    with pytest.raises(ValueError, match="one grid size and degree"):
        from_pykan(model)


def test_from_pykan_of_an_installed_pykan():
    kan = pytest.importorskip("kan")
    theirs = kan.KAN([2, 4, 1], grid=4, k=3, seed=3, auto_save=False, noise_scale=1.0)
    theirs.update_grid(torch.randn(300, 2))
    x = torch.randn(100, 2)
    assert_same(from_pykan(theirs)(x), theirs(x))
