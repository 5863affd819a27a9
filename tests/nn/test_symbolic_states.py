"""Symbolic edges in states and files: what is loaded has the edges that were saved, or says why not."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from kan_fast import KAN, KANLinear
from kan_fast.nn.functions import add_symbolic
from kan_fast.nn.symbolic_edges import SymbolicEdges
from tests.helpers.symbolic_networks import AFFINE, EDGES, mixed, network, samples

pytestmark = pytest.mark.usefixtures("double")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_after_forward(copied):
    """pykan's fail once activations are kept."""
    model, x = network(), samples()
    y = model(x)
    y.sum().backward()
    other = copied(model)
    assert torch.equal(other(x), y)
    with torch.no_grad():
        other.layers[0].symbolic.affine += 1
    assert torch.equal(model(x), y)


def loaded(model, other, **options):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    return str(other.load_state_dict(torch.load(file, weights_only=True), **options))


@pytest.mark.parametrize("assign", [False, True])
def test_state_makes_the_symbolic_edges(assign):
    """pykan says that all keys match, and computes something else."""
    model, x = network(), samples()
    other = KAN([2, [1, 1], 1])
    other.layers[0].fix(2, 1, "abs")
    assert loaded(model, other, assign=assign) == "<All keys matched successfully>"
    assert torch.equal(other(x), model(x)) and not other.layers[0].has_splines()
    assert loaded(KAN([2, [1, 1], 1]), other, assign=assign) == "<All keys matched successfully>"
    assert other.layers[0].symbolic is None


@pytest.mark.parametrize("same", [False, True])
def test_state_into_a_network_on_the_meta_device(same):
    model, x = mixed(), samples()
    other = copy.deepcopy(model).to("meta") if same else KANLinear(2, 3, device="meta")
    other.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(other(x), model(x))


def test_state_of_the_same_edges_keeps_the_parameters():
    model, other = network(), network()
    parameter = other.layers[0].symbolic.affine
    torch.nn.init.ones_(model.layers[0].symbolic.affine)
    loaded(model, other)
    assert other.layers[0].symbolic.affine is parameter and (parameter == 1).all()


def test_state_with_a_function_that_is_not_there(library):
    add_symbolic("mine", torch.sin)
    model = network()
    model.layers[1].fix(0, 1, "mine")
    del library["mine"]
    with pytest.raises(RuntimeError, match=r"layers.1.symbolic: the state has .*unknown function 'mine'.*add_symbolic"):
        loaded(model, KAN([2, [1, 1], 1]))


def test_another_function_of_the_same_name_is_noticed(library):
    add_symbolic("mine", torch.sin)
    model = network()
    model.layers[1].fix(0, 1, "mine")
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    text = pickle.dumps(model)
    add_symbolic("mine", torch.cos)
    file.seek(0)
    with pytest.raises(RuntimeError, match="the function 'mine' of the library is not the one that was saved"):
        KAN([2, [1, 1], 1]).load_state_dict(torch.load(file, weights_only=True))
    with pytest.raises(ValueError, match="is not the one that was saved"):
        pickle.loads(text)


def test_state_into_edges_alone():
    edges = mixed().symbolic
    other = SymbolicEdges((3, 2), EDGES, ["cos"] * 5, AFFINE)
    with pytest.raises(ValueError, match="functions"):
        other.load_state_dict(edges.state_dict())


def test_own_functions_have_their_name_in_the_library(library):
    own = add_symbolic("mine", torch.sin)
    layer = KANLinear(1, 1)
    layer.fix(0, 0, own)
    del library["mine"]
    with pytest.raises(ValueError, match="add_symbolic"):
        layer.fix(0, 0, own)
    add_symbolic("mine", torch.cos)
    with pytest.raises(ValueError, match="'mine' is another function in the library"):
        layer.fix(0, 0, own)


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model, x = network(), samples()
    safetensors.save_model(model, tmp_path / "model.safetensors")
    other = KAN([2, [1, 1], 1])
    assert safetensors.load_model(other, tmp_path / "model.safetensors") == (set(), [])
    assert torch.equal(other(x), model(x))
