"""Conversion from pykan: what its networks gave, with masks, symbolic edges and nodes."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kan_fast.convert import from_pykan
from tests.helpers.conversion import assert_same

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
