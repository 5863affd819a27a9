"""Networks in files: what comes back computes the same, and other files are refused."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kan_fast import KAN, KANLinear

GOLDEN = Path(__file__).parents[1] / "golden"

OPTIONS = {"grid": 4, "k": 2, "extrapolation": "linear", "grid_eps": 0.5, "base": "identity", "dtype": torch.float64}


def networks() -> dict[str, KAN]:
    x = torch.rand(50, 3, dtype=torch.float64)
    plain = KAN([3, [4, 2], 2], mult_arity=3, seed=0, **OPTIONS)
    plain.update_grid(x)
    symbolic = KAN([3, 2, 1], seed=1, **OPTIONS)
    symbolic.layers[0].fix_many([(0, 0), (1, 2)], ["sin", "x^7"])
    symbolic.layers[1].mask = torch.tensor([[True, False]])
    pruned = KAN([3, 5, 1], seed=2, bias=False, **OPTIONS).prune_input(active_inputs=[2, 0], x=x).refine(7)
    return {"plain": plain, "symbolic": symbolic, "pruned": pruned, "half": KAN([2, 1], seed=0, dtype=torch.bfloat16)}


def test_paths_of_every_kind(tmp_path):
    model, path = KAN([2, 1], seed=0), tmp_path / "a folder" / "naïve.kan"
    path.parent.mkdir()
    for given in (path, str(path), os.fsencode(path)):
        model.save(given)
        assert torch.equal(KAN.load(given).layers[0].grid, model.layers[0].grid)
        path.unlink()


def test_open_files_are_no_paths(tmp_path):
    model, data = KAN([2, 1], seed=0), (torch.rand(20, 2), torch.rand(20, 1))
    with (tmp_path / "file").open("wb") as file:
        for call in (model.save, KAN.load, lambda path: model.fit(data, checkpoint=path)):
            with pytest.raises(TypeError, match=r"expected the path of a file, got BufferedWriter.*torch\.save"):
                call(file)


@pytest.mark.parametrize("name", ["plain", "symbolic", "pruned", "half"])
def test_it_comes_back(name, tmp_path):
    model = networks()[name]
    model.save(tmp_path / "model.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
    random = torch.get_rng_state()
    again = KAN.load(tmp_path / "model.pt")
    assert torch.equal(torch.get_rng_state(), random)
    x = torch.rand(20, model.width_in[0])
    assert torch.equal(again(x), model(x))
    assert (again.width, again.mult_arity, again.input_id) == (model.width, model.mult_arity, model.input_id)
    assert repr(again) == repr(model)


def test_subclasses_come_back_as_such(tmp_path):
    class Mine(KAN):
        pass

    KAN([1, 1], seed=0).save(tmp_path / "m")
    assert type(Mine.load(tmp_path / "m")) is Mine


def test_errors(tmp_path):
    with pytest.raises(TypeError, match="callable base function"):
        KAN([2, 1], base=torch.tanh).save(tmp_path / "m")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        KAN.load(tmp_path / "nothing")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match=r"not a file of KAN\.save"):
        KAN.load(tmp_path / "text")
    torch.save({"format": 99}, tmp_path / "later")
    with pytest.raises(ValueError, match="has the format 99"):
        KAN.load(tmp_path / "later")


def layers_that_differ() -> KAN:
    model = KAN([2, 3, 3, 1], seed=0, grid_range=((0, 10), (-1, 5)))
    for layer in model.layers:
        layer.base_weight.requires_grad_(False)
    model.layers[0].refine_(10)
    model.layers[1].extrapolation = "linear"
    model.layers[1].bias = None
    model.layers[2].grid_eps = 0.5
    model.layers[2].fix(0, 1, "sin")
    model.layers[2].symbolic.affine.requires_grad_(False)
    return model


def test_every_layer_keeps_its_options(tmp_path):
    model = layers_that_differ()
    model.save(tmp_path / "m")
    again = KAN.load(tmp_path / "m")
    assert torch.equal(again(x := torch.randn(20, 2)), model(x))
    for mine, theirs in zip(again.layers, model.layers, strict=True):
        for name in ("grid_size", "spline_order", "grid_range", "base", "extrapolation", "grid_eps"):
            assert getattr(mine, name) == getattr(theirs, name), name
    frozen = [{name: p.requires_grad for name, p in one.named_parameters()} for one in (again, model)]
    assert frozen[0] == frozen[1] and not all(frozen[0].values())
    again.layers[0].reset_parameters()
    assert again.layers[0].grid[:, 3].tolist() == [0, -1]


def test_numbers_of_numpy_become_those_of_python(tmp_path):
    model = KAN([np.int64(2), 1], grid=np.int64(4), grid_eps=np.linspace(0, 1, 3)[1], seed=0)
    model.save(tmp_path / "m")
    assert type(KAN.load(tmp_path / "m").layers[0].grid_eps) is float


def test_numbers_without_axes_are_numbers(tmp_path):
    one, half = torch.tensor(1), torch.tensor(0.5)
    model = KAN([np.array(2), [one, np.array(1)], one], mult_arity=np.array(3), grid_range=np.float32([-2, 2]), seed=0)
    model.layers[0].fix(0, 1, "sin", [half, np.array(1.5), 2, np.float16(0.25)])
    model.layers[0].grid_range, model.layers[1].grid_eps = (-half, half), half
    model.save(tmp_path / "m")
    again = KAN.load(tmp_path / "m")
    assert torch.equal(again(x := torch.randn(20, 2)), model(x))
    assert (again.width, again.mult_arity) == ([2, [1, 1], 1], [[], [3], []])
    assert again.layers[0].symbolic.affine.tolist() == [[0.5, 1.5, 2, 0.25]]
    assert (again.layers[0].grid_range, again.layers[1].grid_range) == ((-0.5, 0.5), (-2, 2))
    assert type(again.layers[1].grid_eps) is float


def test_what_a_file_cannot_keep_is_refused_when_it_is_written(tmp_path):
    class Mine(KANLinear):
        pass

    def shared(model):
        model.layers[1] = model.layers[0]

    def normed(model):
        torch.nn.utils.parametrizations.weight_norm(model.layers[0], "spline_weight")

    for change, error, message in (
        (lambda model: setattr(model, "layers", torch.nn.ModuleList([Mine(2, 2)])), TypeError, "can't save a Mine"),
        (shared, ValueError, "could not be loaded again: .* share memory"),
        (normed, ValueError, "spline_weight is computed from others"),
        (
            lambda model: model.layers[0].grid.fill_(0),
            ValueError,
            "knots of an input must increase .*those of input 0 ",
        ),
        (lambda model: setattr(model, "input_id", [object(), 1]), TypeError, r"can't keep the network.input_id\[0\]"),
    ):
        model = KAN([2, 2, 2], seed=0)
        change(model)
        with pytest.raises(error, match=message):
            model.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_files_of_format_1_mean_the_same(tmp_path):
    model, values = KAN.load(GOLDEN / "network_0.1.pt"), torch.load(GOLDEN / "network_0.1_values.pt")
    torch.testing.assert_close(model(values["x"]), values["y"])
    assert model.layers[1].mask.tolist() == [[True, False, True]]
    saved = torch.load(GOLDEN / "network_0.1.pt", weights_only=True)
    assert saved["format"] == 1
    saved["state"]._metadata["layers.1"]["extrapolation"] = "clamp"
    torch.save(saved, tmp_path / "m")
    assert [layer.extrapolation for layer in KAN.load(tmp_path / "m").layers] == ["linear", "clamp"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda saved: saved.pop("width"), "lacks the entry 'width'"),
        (lambda saved: saved.update(width=[10**9, 10**9]), r"spline_weight must be .* \(1000000000, 1000000000, 8\)"),
        (lambda saved: saved.update(width=[2, [0, 10**9]]), r"mult_arity\[1\] must be a list of 1000000000 items"),
        (lambda saved: saved["layers"][0].update(grid_size=10**12), "spline_weight must be"),
        (lambda saved: saved["layers"][0].update(base="relu"), r"layers\[0\].base must be one of silu"),
        (lambda saved: saved["layers"][0].update(grid_range=(1.0, 0.0)), "start < end"),
        (
            lambda saved: saved["state"]["layers.0.grid"].fill_(float("nan")),
            "knots of an input must increase .*those of input 0 ",
        ),
        (lambda saved: saved["state"].update({"layers.0.bias": torch.zeros(1).expand(3)}), "contiguous"),
        (lambda saved: saved["state"].update({"layers.0.bias": torch.zeros(3, device="meta")}), "contiguous"),
        (lambda saved: saved["state"].update({"more": torch.zeros(3)}), "Unexpected key"),
        (lambda saved: saved.update(frozen=["layers.9.bias"]), r"frozen\[0\] must be one of"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(change, message, tmp_path):
    KAN([2, 3], seed=0).save(tmp_path / "m")
    saved = torch.load(tmp_path / "m", weights_only=True)
    change(saved)
    torch.save(saved, tmp_path / "m")
    with pytest.raises(ValueError, match=message) as error:
        KAN.load(tmp_path / "m")
    assert str(error.value).startswith(f"{tmp_path / 'm'} is not a file of KAN.save")


@pytest.mark.parametrize("knots", [float("nan"), float("inf"), -5.0])
def test_layers_refuse_states_with_knots_that_are_none(knots):
    layer, other = KANLinear(2, 1), KANLinear(2, 1)
    before = layer.grid.clone()
    other.grid[1, 4] = knots
    with pytest.raises(RuntimeError, match=r"knots of an input must increase strictly.* those of input 1 are"):
        layer.load_state_dict(other.state_dict())
    assert torch.equal(layer.grid, before)
