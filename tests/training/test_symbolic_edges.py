"""Training of networks with symbolic edges: functions learn or stay, and survive trouble."""

from __future__ import annotations

import pytest
import torch

from kan_fast import KAN
from kan_fast.optim import LevenbergMarquardt
from tests.helpers.symbolic_networks import network, samples

pytestmark = pytest.mark.usefixtures("double")


@pytest.mark.parametrize(("opt", "steps", "loss"), [("LM", 40, 1e-12), ("LBFGS", 60, 1e-4), ("Adam", 200, 0.05)])
def test_fit(opt, steps, loss):
    model, x = network(), samples()
    y = model(x).detach()
    with torch.no_grad():
        for layer in model.layers:
            layer.symbolic.affine += 0.03 * torch.randn(layer.symbolic.affine.shape)
    weights = [layer.spline_weight.clone() for layer in model.layers]
    history = model.fit((x, y), opt, steps, progress=False)
    assert history["train_loss"][-1] < loss
    assert all(torch.equal(layer.spline_weight, old) for layer, old in zip(model.layers, weights, strict=True))


def test_fit_of_a_mixed_network_with_frozen_functions():
    model, x = network(), samples()
    y = model(x).detach()
    model.layers[1].unfix(0, 0)
    model.layers[0].symbolic.affine.requires_grad_(False)
    affine = model.layers[0].symbolic.affine.clone()
    assert model.fit((x, y), "LM", 30, progress=False)["train_loss"][-1] < 1e-3
    assert torch.equal(model.layers[0].symbolic.affine, affine)
    model.layers[0].fix(2, 0, "x")
    assert not model.layers[0].symbolic.affine.requires_grad


def test_lm_trains_no_splines_that_have_no_effect():
    model = network()
    sizes = [p.numel() for p in LevenbergMarquardt(model).param_groups[0]["params"]]
    assert sum(sizes) == 3 + 5 * 4 + 1 + 2 * 4


def test_an_interrupted_fit_keeps_symbolic_edges():
    """pykan leaves them switched off."""
    model, x = network(), samples()

    def interrupt(step, entry):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.warns(RuntimeWarning, match="training was interrupted"):
        model.fit((x, model(x).detach() + 0.1), "Adam", 10, callbacks=interrupt, progress=False)
    assert len(model.layers[0].symbolic.names) == 5 and not model.layers[0].has_splines()


def test_a_fit_that_leaves_the_domain_is_undone():
    model, x = KAN([1, 1], seed=0), torch.rand(50, 1)
    model.layers[0].fix(0, 0, "log", (1, 0.1, 1, 0))
    with pytest.warns(RuntimeWarning, match="the last good step"):
        model.fit((x, 10 * x), torch.optim.SGD, 100, lr=100.0, progress=False)
    assert model(x).isfinite().all()


def test_continual_training_leaves_functions_alone():
    model = KAN([2, 1], seed=0)
    model.layers[0].fix(0, 1, "sin")
    model.fit((samples(), samples()[:, :1]), steps=2, continual=True, progress=False)
    assert model.layers[0].symbolic.affine.tolist() == [[1, 0, 1, 0]]


def test_checkpoints(tmp_path):
    x = samples()
    data, path = (x, x[:, :1]), tmp_path / "fit.pt"
    whole, parts = network(), network()
    whole.fit(data, "Adam", 6, progress=False)
    parts.fit(data, "Adam", 3, checkpoint=path, progress=False)
    parts = network()
    parts.fit(data, "Adam", 6, checkpoint=path, progress=False)
    assert torch.equal(parts(x), whole(x))
    other = network()
    other.layers[0].fix(0, 0, "cos")
    with pytest.raises(ValueError, match="of another run"):
        other.fit(data, "Adam", 6, checkpoint=path, progress=False)
