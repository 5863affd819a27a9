"""Networks in files: what comes back computes the same, and other files are refused."""

import pytest
import torch

from kan_fast import KAN

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


@pytest.mark.parametrize("name", ["plain", "symbolic", "pruned", "half"])
def test_it_comes_back(name, tmp_path):
    model = networks()[name]
    model.saveckpt(tmp_path / "model.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
    random = torch.get_rng_state()
    again = KAN.loadckpt(tmp_path / "model.pt")
    assert torch.equal(torch.get_rng_state(), random)
    x = torch.rand(20, model.width_in[0])
    assert torch.equal(again(x), model(x))
    assert (again.width, again.mult_arity, again.input_id) == (model.width, model.mult_arity, model.input_id)
    assert repr(again) == repr(model)


def test_subclasses_come_back_as_such(tmp_path):
    class Mine(KAN):
        pass

    KAN([1, 1], seed=0).saveckpt(tmp_path / "m")
    assert type(Mine.loadckpt(tmp_path / "m")) is Mine


def test_errors(tmp_path):
    with pytest.raises(TypeError, match="callable base function"):
        KAN([2, 1], base=torch.tanh).saveckpt(tmp_path / "m")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        KAN.loadckpt(tmp_path / "nothing")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match="not a file of saveckpt"):
        KAN.loadckpt(tmp_path / "text")
    torch.save({"format": 99}, tmp_path / "later")
    with pytest.raises(ValueError, match="has the format 99"):
        KAN.loadckpt(tmp_path / "later")
