"""Grids in fit: when they move, from which samples, and what optimisers forget then."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler, TensorDataset

from kan_fast import KAN
from kan_fast.optim import LBFGS
from kan_fast.training.grid_schedule import forget_splines
from kan_fast.training.optimizers import OPTIMIZERS
from tests.helpers.fitting import fit, mse, small, target

# Grids


def test_grid_updates_come_when_pykan_does_them(dataset, monkeypatch):
    steps = []
    monkeypatch.setattr(KAN, "update_grid", lambda self, x, layers, margin, trim: steps.append(len(history)))

    def run(**options):
        steps.clear()
        history.clear()
        fit(small(), dataset, "Adam", metrics=[count], **options)
        return list(steps)

    history = []

    def count():
        history.append(1)
        return 0

    assert run(steps=60) == list(range(0, 50, 5))
    assert run(steps=60, grid_update_num=3, stop_grid_update_step=12) == [0, 4, 8]
    assert run(steps=4, grid_update_num=9, stop_grid_update_step=3) == [0, 1, 2]
    assert run(steps=20, start_grid_update_step=8) == [10, 15]
    assert run(steps=np.int64(9), grid_update_num=5, stop_grid_update_step=8) == list(range(8))  # more than 5
    assert run(steps=20, stop_grid_update_step=0) == run(steps=20, update_grid=False) == []


def test_data_beyond_the_grid_are_learnt_with_grid_updates_and_announced_without(dataset):
    x = 5 + 10 * torch.rand(200, 1)
    pair = (x, torch.sin(x))
    assert fit(KAN([1, 1], grid=8, seed=0), pair, steps=4)["train_loss"][-1] < 0.02
    with pytest.warns(UserWarning, match=r"100\.0% of the training samples lie outside of the grid.*update_grid=True"):
        fit(KAN([1, 1], grid=8, seed=0), pair, steps=1, update_grid=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(KAN([1, 1], seed=0, grid_range=(5, 15)), pair, steps=1, update_grid=False)


def test_optimisers_forget_what_a_grid_update_refits(dataset):
    x, y = dataset["train_input"].float(), dataset["train_label"].float()
    for name in ("LBFGS", "Adam"):
        model = small()
        optimizer = OPTIMIZERS[name](model, list(model.parameters()), None)

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = mse(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
        forget_splines(optimizer, model)
        kept = {id(p) for p in optimizer.state}
        assert not kept & {id(layer.spline_weight) for layer in model.layers}
        assert (name == "Adam") == (id(model.layers[0].base_weight) in kept)
        optimizer.step(closure)


@pytest.mark.parametrize(
    "make",
    [
        torch.optim.Adam,
        lambda parameters: torch.optim.AdamW(parameters, fused=True),
        lambda parameters: torch.optim.SGD(parameters, 1e-3, momentum=0.9),
        torch.optim.Rprop,
        torch.optim.LBFGS,
        LBFGS,
    ],
    ids=["Adam", "fused AdamW", "SGD", "Rprop", "torch's LBFGS", "LBFGS"],
)
def test_an_optimiser_that_was_used_before_a_refinement_goes_on(make):
    """torch's fused ones read outside of their memory if nobody tells them."""
    model, x = small(), torch.rand(50, 2)
    optimizer = make(model.parameters())
    fit(model, (x, target(x)), optimizer, 3, update_grid=False)
    model.refine_(12)
    losses = fit(model, (x, target(x)), optimizer, 3, update_grid=False)["train_loss"]
    assert len(losses) == 3 and all(map(math.isfinite, losses))


def test_an_optimiser_that_nothing_has_changed_keeps_its_memory():
    model, x = small(), torch.rand(50, 2)
    optimizer = torch.optim.Adam(model.parameters())
    for steps in (3, 6):
        fit(model, (x, target(x)), optimizer, 3, update_grid=False)
        assert {int(memory["step"]) for memory in optimizer.state.values()} == {steps}


def test_lbfgs_names_the_way_out_in_loops_of_the_user():
    model, x = small(), torch.rand(50, 2)
    optimizer = LBFGS(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = mse(model(x), target(x))
        loss.backward()
        return loss

    optimizer.step(closure)
    model.refine_(12)
    with pytest.raises(ValueError, match=r"remembers changes of \d+ parameters, .*forget_splines\(optimizer, model\)"):
        optimizer.step(closure)
    forget_splines(optimizer, model)
    optimizer.step(closure)


def test_an_optimiser_of_parameters_that_are_gone_is_refused():
    model, x = KAN([2, 2, 1], seed=0), torch.rand(50, 2)
    model.layers[0].fix(0, 0, "sin")
    optimizer = torch.optim.Adam(model.parameters())
    model.layers[0].fix(1, 0, "sin")
    with pytest.raises(ValueError, match="before it was pruned or edges were fixed; make it anew"):
        fit(model, (x, target(x)), optimizer, 1)


# Samples that stand for all


class Stream(IterableDataset):
    """Samples that come once, in order."""

    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return ((x, x) for x in self.x)


LOADERS = {
    "in order": lambda data, x: DataLoader(data, 32),
    "shuffled, small batches": lambda data, x: DataLoader(data, 4, shuffle=True),
    "batches of the user's": lambda data, x: DataLoader(
        data, batch_sampler=[range(i, i + 50) for i in range(0, 1000, 50)]
    ),
    "a stream": lambda data, x: DataLoader(Stream(x), 32),
}


@pytest.mark.parametrize("name", LOADERS)
def test_grids_are_those_of_all_samples_of_a_loader(name):
    """They were those of one batch, beyond which 97 % of the samples lay."""
    x = torch.linspace(0, 10, 1000)[:, None]
    loader = LOADERS[name](TensorDataset(x, x), x)
    model = KAN([1, 1], seed=0)
    fit(model, loader, opt="Adam", steps=3)
    assert model.coverage(x)[0].item() == 0
    assert model.last_inputs.x.std() > 2.5


def test_no_sample_of_a_loader_stands_twice_for_all():
    x = torch.linspace(0, 10, 60)[:, None]
    for loader in (DataLoader(Stream(x), 20), DataLoader(TensorDataset(x, x), 60, shuffle=True)):
        model = KAN([1, 1], seed=0)
        fit(model, loader, opt="Adam", steps=1)
        assert torch.equal(model.last_inputs.x.sort(0).values, x)
    sampled = DataLoader(TensorDataset(x, x), 5, sampler=SequentialSampler(range(15)))
    fit(model, sampled, opt="Adam", steps=1)
    assert torch.equal(model.last_inputs.x, x[:15])


def test_batches_that_were_read_ahead_for_grids_are_trained_on():
    x = torch.linspace(0, 10, 60)[:, None]
    seen = []

    def loss(output, label):
        seen.append(label.clone())
        return mse(output, label)

    fit(KAN([1, 1], seed=0), DataLoader(Stream(x), 20), opt="Adam", steps=3, loss_fn=loss)
    assert torch.equal(torch.cat(seen), x)


@pytest.mark.parametrize("column", ["binary", "four values"])
@pytest.mark.parametrize("extrapolation", ["linear", "zero"])
def test_fits_converge_where_samples_repeat(column: str, extrapolation: str) -> None:
    torch.manual_seed(0)
    x = torch.randint(2, (50, 2)).float() if column == "binary" else torch.randint(4, (50, 2)) / 3
    model = KAN([2, 3, 1], seed=0, grid_eps=0.0, extrapolation=extrapolation)
    losses = model.fit((x, x[:, :1]), steps=20, progress=False)["train_loss"]
    assert losses[-1] < 1e-3
    assert model.layers[0].spline_weight.abs().max() < 10
