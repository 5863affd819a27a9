"""What is saved can be loaded: torch.save, safetensors, pickle, and files of earlier versions."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch

from kan_fast import KAN, KANLinear

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("state_*.pt"))
KINDS = {"KAN": KAN, "KANLinear": KANLinear}


def trained():
    """A network with an adaptive grid, and samples."""
    model, x = KAN([2, 4, 1], grid=4), torch.randn(50, 2)
    model.update_grid(x)
    return model, x


def test_state_dict_through_torch_save_with_weights_only():
    model, x = trained()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = KAN([2, 4, 1], grid=4)
    assert str(other.load_state_dict(torch.load(file, weights_only=True))) == "<All keys matched successfully>"
    assert torch.equal(other(x), model(x))


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model, x = trained()
    safetensors.save_model(model, tmp_path / "model.safetensors")
    other = KAN([2, 4, 1], grid=4)
    assert safetensors.load_model(other, tmp_path / "model.safetensors") == (set(), [])
    assert torch.equal(other(x), model(x))
    assert safetensors.load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_whole_modules(copied):
    model, x = trained()
    other = copied(model)
    assert torch.equal(other(x), model(x))
    assert not any(a.data_ptr() == b.data_ptr() for a, b in zip(model.buffers(), other.buffers(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_come_back_to_the_bit(dtype, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    layer = KANLinear(3, 2, dtype=dtype)
    safetensors.save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    loaded = safetensors.load_file(tmp_path / "layer.safetensors")
    for name, tensor in layer.state_dict().items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)


def test_every_version_is_covered():
    assert GOLDEN


@pytest.mark.parametrize("case", ["network", "layer", "splines"])
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_files_of_earlier_versions_load_and_mean_the_same(path, case):
    saved = torch.load(path, weights_only=True)[case]
    model = KINDS[saved["kind"]](**{"extrapolation": "zero", **saved["options"]})  # the default of the time
    model.load_state_dict(saved["state"])
    torch.testing.assert_close(model(saved["x"]), saved["y"], rtol=1e-5, atol=1e-5)
