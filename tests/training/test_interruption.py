"""Ctrl-C during a fit, whatever it is at: the network is usable, and what `fit` returns says how far it came."""

from __future__ import annotations

import math
import random
import sys
from itertools import count

import pytest
import torch

from kan_fast import KAN
from kan_fast.nn.network import Network
from kan_fast.training import checkpoint, data
from kan_fast.training.fit import Interrupted
from kan_fast.training.fit import fit as low_level_fit
from kan_fast.training.grid_schedule import GridSchedule
from kan_fast.training.objective import Objective
from tests.helpers.fitting import fit, loader, mse, small

X = torch.linspace(-1, 1, 40).view(20, 2)
DATA = X, X[:, :1] * X[:, 1:]


def interrupt(*args, **options):
    raise KeyboardInterrupt


def state(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(t, second[name]) for name, t in first.items())


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (data.Check, "__call__"),
        (data.LoaderSource, "samples"),
        (Objective, "keep"),
        (GridSchedule, "update"),
        (Network, "update_grid"),
        (Objective, "step"),
        (torch.optim.Adam, "step"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
@pytest.mark.parametrize("continual", [False, True])
def test_before_the_first_step_has_ended(owner, name, continual, monkeypatch):
    if continual and "update_grid" in name:
        pytest.skip("continual training keeps grids")
    model = small()
    before = state(model)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupt)
        with pytest.warns(RuntimeWarning, match="training was interrupted: the network has the parameters of the last"):
            history = fit(model, loader(*DATA), "Adam", 3, continual=continual, metrics=lambda: 1)
    assert model.state_dict().keys() == before.keys()
    assert same(before, model.state_dict())
    assert all(p.requires_grad for p in model.parameters())
    lists = list(history.values()) if owner is not data.Check else [history["train_loss"]]
    assert all(len(values) == 1 and math.isnan(values[-1]) for values in lists)


def test_any_function_of_the_package_can_be_the_last_one():
    """Each of many calls is interrupted in turn; no part of the network is then of another state than the rest."""

    def run(at):
        model, calls = small(seed=1), count(1)

        def watch(frame, event, _):
            code = frame.f_code  # Python drops what is raised while a generator is closed
            inside = event == "call" and "/kan_fast/" in code.co_filename and code.co_name != "<genexpr>"
            if inside and next(calls) == at:
                sys.setprofile(None)
                raise KeyboardInterrupt

        interrupted = None
        sys.setprofile(watch)
        try:
            low_level_fit(model, DATA, "Adam", 2, grids=[4, 8], patience=2, progress=False)
        except Interrupted as error:
            interrupted = error
        finally:
            sys.setprofile(None)
        return model, interrupted, next(calls)

    run(-1)  # the first run has more calls
    _, ended, total = run(-1)
    assert ended is None
    chance = random.Random(0)
    for at in sorted(chance.sample(range(60, total - 1), 60)):
        model, interrupted, _ = run(at)
        assert interrupted is not None, at
        assert {len(values) for values in interrupted.history.values()} <= {1, 2, 3, 4}
        assert len({layer.grid_size for layer in model.layers} | {model.grid}) == 1
        assert model(X).isfinite().all()
        assert len(fit(model, DATA, "Adam", 2)["train_loss"]) == 2


def test_a_refinement_is_all_or_nothing(monkeypatch):
    model = KAN([2, 3, 1], grid=3, seed=0)
    before, weights = state(model), [layer.spline_weight for layer in model.layers]
    for error in (KeyboardInterrupt, ValueError):

        def refuse(size, error=error):
            raise error

        monkeypatch.setattr(model.layers[1], "refine_", refuse)
        with pytest.raises(error):
            model.refine_(6)
        assert same(before, state(model))
        assert (model.grid, [layer.grid_size for layer in model.layers]) == (3, [3, 3])
        assert all(layer.spline_weight is p for layer, p in zip(model.layers, weights, strict=True))


def test_while_a_checkpoint_is_loaded(tmp_path, monkeypatch):
    fit(small(), DATA, "Adam", 2, grids=[3, 6], checkpoint=tmp_path / "c")
    model = small(seed=5)
    before, load, calls = state(model), Network.load_state_dict, count()

    def once(self, *args, **options):
        result = load(self, *args, **options)
        if not next(calls):
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(checkpoint.Network, "load_state_dict", once)
    with pytest.warns(RuntimeWarning, match="training was interrupted"):
        fit(model, DATA, "Adam", 3, grids=[3, 6], checkpoint=tmp_path / "c")
    assert same(before, state(model)) and model.grid == model.layers[0].grid_size == 3


@pytest.mark.parametrize("opt", ["LBFGS", "Adam"])
def test_later_it_returns_the_history_and_a_usable_model(dataset, opt):
    model, evaluations = small(), []

    def loss(output, label):
        evaluations.append(1)
        if len(evaluations) == 40:
            raise KeyboardInterrupt
        return mse(output, label)

    with pytest.warns(RuntimeWarning, match="training was interrupted"):
        history = fit(model, dataset, opt, 100, loss_fn=loss)
    assert 0 < len(history["train_loss"]) == len(history["test_loss"]) == len(history["reg"]) < 40
    assert len(fit(model, dataset, opt, 2)["train_loss"]) == 2
    assert model(dataset["test_input"]).isfinite().all()


@pytest.mark.parametrize("opt", ["LBFGS", "Adam", "LM"])
def test_without_a_step_the_history_has_the_losses_of_the_network(dataset, opt):
    model = small()
    before = state(model)
    history = fit(model, dataset, opt, steps=0, lamb=0 if opt == "LM" else 0.1, metrics=[lambda: 7])
    error = (model(dataset["train_input"].float()) - dataset["train_label"]).square().mean().sqrt().item()
    assert history["train_loss"] == [pytest.approx(error, rel=1e-5)]
    assert len(history["test_loss"]) == len(history["reg"]) == 1 and history["<lambda>"] == [7]
    assert same(before, state(model))


def test_training_that_diverges_in_its_first_step_has_a_history():
    model = small()
    with pytest.warns(RuntimeWarning, match="training stopped in step 0"):
        history = fit(model, DATA, "Adam", 3, loss_fn=lambda output, label: output.sum() * math.nan)
    assert math.isnan(history["train_loss"][-1])
