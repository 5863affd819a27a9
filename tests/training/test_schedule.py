"""KAN.fit's schedule and hooks: refinement, optimisers, early stopping, checkpoints, continual learning."""

import itertools
import math
import os

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset

from kan_fast import KAN
from kan_fast.optim import LBFGS, LevenbergMarquardt
from kan_fast.training.optimizers import OPTIMIZERS
from tests.helpers.fitting import fit, small, target

pytestmark = pytest.mark.usefixtures("double")


# Refinement in stages


@pytest.mark.parametrize("opt", ["LM", "LBFGS", "Adam"])
def test_grids_are_refined_in_stages(dataset, opt):
    model, sizes = small(), []
    history = fit(
        model, dataset, opt, 6, grids=[3, 6, 12], callbacks=lambda step, entry: sizes.append(model.layers[0].grid_size)
    )
    assert sizes == [3] * 6 + [6] * 6 + [12] * 6
    assert len(history["train_loss"]) == 18
    assert (model.grid, model.layers[1].spline_weight.shape) == (12, (1, 1, 15))
    if opt == "LM":
        assert history["train_loss"][-1] < 0.1 * history["train_loss"][5]


def test_lbfgs_keeps_its_history_when_knots_move_and_drops_it_when_the_grid_gets_another_size(dataset):
    model, pairs, knots = small(), [], []
    optimizer = LBFGS(model.parameters(), max_iter=2)
    (first, *_) = optimizer.param_groups[0]["params"]

    def watch(step, entry):
        pairs.append(len(optimizer.state[first]["slots"]))
        knots.append(model.layers[1].grid.clone())

    fit(model, dataset, optimizer, 6, grids=[3, 5], update_grid_every=3, callbacks=watch)
    assert not torch.equal(knots[2], knots[3])
    assert pairs[3] > pairs[2]
    assert pairs[6] <= 2 < pairs[5]


def test_every_stage_updates_grids_anew(dataset, monkeypatch):
    model, steps = small(), []
    original = KAN.update_grid

    def update_grid(self, x, **options):
        steps.append(len(history))
        original(self, x, **options)

    history = []
    monkeypatch.setattr(KAN, "update_grid", update_grid)
    options = {"update_grid_every": 3, "stop_update_at": 5, "callbacks": lambda step, entry: history.append(step)}
    fit(model, dataset, "Adam", 8, grids=[3, 5], **options)
    assert steps == [0, 3, 8, 11]
    assert history == list(range(16))


def test_updated_grids_reach_beyond_the_samples_but_not_far(dataset):
    model = small()
    fit(model, dataset, "Adam", 1)
    start, end = model.layers[0].grid[:, 3], model.layers[0].grid[:, -4]
    least, most = dataset["train_input"].aminmax(dim=0)
    margin = 0.25 / 3 * (most - least)
    torch.testing.assert_close(start, least - margin, atol=1e-5, rtol=0)
    torch.testing.assert_close(end, most + margin, atol=1e-5, rtol=0)


def test_updated_grids_can_leave_out_outliers(dataset):
    model = small()
    dataset["train_input"][0] = 1e4
    fit(model, dataset, "Adam", 1, grid_trim=0.02)
    assert model.layers[0].grid.abs().max() < 5


def test_the_error_falls_with_the_fourth_power_of_the_grid():
    x, test = torch.rand(1000, 1) * 2 - 1, torch.rand(500, 1) * 2 - 1
    data = {"train_input": x, "train_label": (3 * x).sin(), "test_input": test, "test_label": (3 * test).sin()}
    model = KAN([1, 1], grid=5, seed=0, grid_eps=1.0)
    history = fit(model, data, "LM", 25, grids=[5, 10, 20, 40], update_grid=False)
    errors = history["test_loss"][24::25]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert min(slopes) > 3.5


@pytest.mark.parametrize("opt", ["LBFGS", "Adam"])
def test_divergence_after_a_refinement_restores_the_refined_network(dataset, opt):
    model, evaluations = small(), []

    def loss(output, label):
        evaluations.append(model.layers[0].grid_size)
        return ((output - label) ** 2).mean() * (math.nan if evaluations.count(6) > 3 else 1)

    with pytest.warns(RuntimeWarning, match="stopped in step"):
        fit(model, dataset, opt, 5, grids=[3, 6], loss_fn=loss)
    assert model.layers[0].grid_size == 6
    assert model(dataset["test_input"]).isfinite().all()


# Optimisers


def test_lm_reports_the_losses_of_the_final_parameters(dataset):
    model = small()
    history = fit(model, dataset, "LM", 10)
    for kind in ("train", "test"):
        error = model(dataset[f"{kind}_input"]) - dataset[f"{kind}_label"]
        assert history[f"{kind}_loss"][-1] == pytest.approx(error.square().mean().sqrt().item(), rel=1e-12)
    assert all(
        later <= earlier for earlier, later in zip(history["train_loss"][6:], history["train_loss"][7:], strict=False)
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda model: torch.optim.SGD(model.parameters(), lr=0.01),
        lambda model: torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe"),
        lambda model: LBFGS(model.parameters(), max_iter=5),
        lambda model: LevenbergMarquardt(model),
        lambda model: LevenbergMarquardt,
        lambda model: torch.optim.RMSprop,
        lambda model: torch.optim.AdamW,
    ],
    ids=["SGD", "torch LBFGS", "LBFGS", "LM", "class LM", "class RMSprop", "class AdamW"],
)
def test_optimisers_of_the_user(dataset, make):
    model = small()
    opt = make(model)
    lr = 0.01 if isinstance(opt, type) and opt is not LevenbergMarquardt else None
    history = fit(model, dataset, opt, 12, lr=lr, grids=[3, 6])
    assert history["train_loss"][-1] < history["train_loss"][0]


def test_adam_through_fit_is_adam():
    x = torch.rand(30, 2)
    model, same = small(), small()
    fit(model, (x, target(x)), "Adam", 5, lr=0.03, update_grid=False)
    optimizer = torch.optim.Adam(same.parameters(), lr=0.03)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(same(x), target(x)).backward()
        optimizer.step()
    for p, q in zip(model.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_gradients_are_clipped(dataset):
    norms = []

    class Watch(torch.optim.SGD):
        def step(self, closure):
            loss = closure()
            norms.append(torch.nn.utils.get_total_norm([p.grad for p in self.param_groups[0]["params"]]).item())
            return loss

    fit(small(), dataset, Watch, 3, lr=0.1, clip=0.01)
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)


def test_schedulers_make_a_step_after_each_of_training(dataset):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    fit(model, dataset, optimizer, 7, scheduler=StepLR(optimizer, 3, gamma=0.1), update_grid=False, clip=1e-6)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    made = []

    def plateau(optimizer):
        made.append(ReduceLROnPlateau(optimizer, patience=0, threshold=10.0))
        return made[0]

    fit(small(), dataset, "Adam", 4, scheduler=plateau, update_grid=False)
    assert made[0].get_last_lr()[0] < 1e-3


# Stopping


def test_patience_ends_a_stage_and_puts_the_best_parameters_back(dataset):
    model, count = small(), []
    history = fit(model, dataset, "Adam", 400, lr=0.3, patience=5, callbacks=lambda step, entry: count.append(step))
    best = min(range(len(count)), key=history["test_loss"].__getitem__)
    assert len(count) == best + 6 < 400
    model = small()
    history = fit(model, dataset, "LM", 50, patience=3, grids=[3, 6], update_grid=False)
    error = (model(dataset["test_input"]) - dataset["test_label"]).square().mean().sqrt().item()
    assert len(history["test_loss"]) < 100
    assert error == pytest.approx(min(history["test_loss"][-20:]), rel=1e-9)


def test_callbacks_see_every_step_and_can_end_training(dataset):
    seen = []
    history = fit(
        small(), dataset, "Adam", 50, callbacks=[lambda step, entry: seen.append(entry), lambda step, _: step == 3]
    )
    assert len(seen) == len(history["reg"]) == 4
    assert [entry["train_loss"] for entry in seen] == history["train_loss"]
    assert set(seen[0]) == set(history)


# Checkpoints


class Stop(Exception):
    pass


def interrupted(at):
    def callback(step, entry):
        if step == at:
            raise Stop

    return callback


@pytest.mark.parametrize("opt", ["LM", "LBFGS", "Adam"])
@pytest.mark.parametrize("at", [2, 4, 7])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(dataset, tmp_path, opt, at):
    options = {"grids": [3, 5], "update_grid_every": 2, "stop_update_at": 4, "seed": 5, "patience": 3, "save_every": 1}
    if opt == "Adam":
        options |= {"batch": 32, "scheduler": lambda optimizer: StepLR(optimizer, 2, gamma=0.7)}
    whole = small()
    expected = fit(whole, dataset, opt, 5, **options)
    path = tmp_path / "run.pt"
    with pytest.raises(Stop):
        fit(small(), dataset, opt, 5, checkpoint=path, callbacks=interrupted(at), **options)
    resumed = small(seed=1)  # its parameters come from the file
    history = fit(resumed, dataset, opt, 5, checkpoint=path, **options)
    assert history == expected
    for name, t in whole.state_dict().items():
        assert torch.equal(t, resumed.state_dict()[name]), name
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    assert fit(resumed, dataset, opt, 5, checkpoint=path, **options) == expected  # nothing is left to do


def test_a_resumed_run_on_a_loader(dataset, tmp_path):
    def loader():
        pairs = TensorDataset(dataset["train_input"], dataset["train_label"])
        return DataLoader(pairs, batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(1))

    path, whole, resumed = tmp_path / "run.pt", small(), small()
    expected = fit(whole, loader(), "Adam", 9)
    with pytest.raises(Stop):
        fit(small(), loader(), "Adam", 9, checkpoint=path, save_every=2, callbacks=interrupted(5))
    assert fit(resumed, loader(), "Adam", 9, checkpoint=path, save_every=2)["train_loss"] == expected["train_loss"]
    assert torch.equal(whole(dataset["test_input"]), resumed(dataset["test_input"]))


def test_a_checkpoint_of_another_run_is_refused(dataset, tmp_path):
    path = tmp_path / "run.pt"
    fit(small(), dataset, "Adam", 2, checkpoint=path)
    with pytest.raises(ValueError, match=r"run.pt is of another run, width \[2, 1, 1\] .* Delete it"):
        fit(KAN([2, 1], seed=0), dataset, "Adam", 2, checkpoint=path)


@pytest.mark.parametrize("opt", ["LBFGS", "LM"])
def test_a_checkpoint_of_another_optimiser_leaves_the_model_alone(dataset, tmp_path, opt):
    path = tmp_path / "run.pt"
    fit(small(), dataset, "Adam", 2, checkpoint=path)
    model = small(seed=1)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"is of another run, width .* with Adam"):
        fit(model, dataset, opt, 2, checkpoint=path)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_file_that_is_no_checkpoint_is_refused(dataset, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"notes\.txt is not a checkpoint of fit"):
        fit(small(), dataset, "Adam", 2, checkpoint=path)


def test_lm_refuses_what_it_has_no_use_for(dataset):
    with pytest.raises(ValueError, match="LM has no learning rate"):
        fit(small(), dataset, "LM", 2, scheduler=lambda o: StepLR(o, 1))
    with pytest.raises(TypeError, match=r"needs float32 or float64, got torch.bfloat16; call model.float\(\)"):
        fit(small(dtype=torch.bfloat16), dataset, "LM", 2)


def test_a_crash_while_writing_keeps_the_old_checkpoint(dataset, tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    fit(small(), dataset, "Adam", 2, checkpoint=path)
    before = path.read_bytes()

    def broken(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match=r"No space left on device: .*run.pt"):
        fit(small(), dataset, "Adam", 4, checkpoint=path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


# Continual learning


def test_what_was_learnt_elsewhere_stays():
    x = torch.linspace(-1, 1, 500)[:, None]
    y = sum(torch.exp(-300 * (x - c) ** 2) for c in torch.linspace(-0.8, 0.8, 5))
    model = KAN([1, 1], grid=200, seed=0)
    for phase in range(5):
        part = slice(100 * phase, 100 * (phase + 1))
        fit(model, (x[part], y[part]), "LBFGS", 40, continual=True)
    assert (model(x) - y).square().mean().sqrt() < 1e-4
    assert all(p.requires_grad for p in model.parameters())


def test_continual_training_moves_neither_grids_nor_what_acts_everywhere(dataset):
    model = small()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    model.layers[1].bias.requires_grad_(False)
    fit(model, dataset, "LM", 3, continual=True)
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[name]) != name.endswith("spline_weight"), name
    assert not model.layers[1].bias.requires_grad and model.layers[0].bias.requires_grad


# Bad options


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(opt="LM", loss_fn=torch.nn.L1Loss()), ValueError, "LM minimises the mean squared error alone"),
        (dict(opt="LM", lamb=0.1), ValueError, "leave out loss_fn and lamb"),
        (dict(opt="LM", lr=0.1), ValueError, "LM has no learning rate"),
        (dict(opt="LM", clip=1.0), ValueError, "clip would mislead"),
        (dict(opt="LBFGS", clip=1.0), ValueError, "clip would mislead the line search"),
        (dict(opt="Adam", clip=0), ValueError, "clip must be finite and greater than 0"),
        (dict(opt=torch.optim.SGD([torch.zeros(1)])), ValueError, "parameters of another network"),
        (dict(opt=dict), ValueError, "unknown optimiser.*LBFGS, Adam, LM"),
        (dict(grids=[]), ValueError, "grids must list at least one"),
        (dict(grids=[3, 0]), ValueError, "a size in grids must be at least 1, got 0"),
        (dict(grids=[3], continual=True), ValueError, "continual training keeps the grid"),
        (dict(patience=0), ValueError, "patience must be at least 1"),
        (dict(save_every=0), ValueError, "save_every must be at least 1"),
        (dict(grid_trim=0.5), ValueError, "trim must be below 0.5"),
        (dict(update_grid_every=0), ValueError, "update_grid_every must be at least 1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_options(dataset, options, error, message):
    with pytest.raises(error, match=message):
        fit(small(), dataset, **options)


def test_an_optimiser_that_exists_has_its_own_learning_rate(dataset):
    model = small()
    with pytest.raises(ValueError, match="lr has no effect"):
        fit(model, dataset, torch.optim.SGD(model.parameters()), lr=0.1)
    assert set(OPTIMIZERS) == {"LBFGS", "Adam", "LM"}
