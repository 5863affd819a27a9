"""Other initialisations inside of `fit`: poor minima are left, and nothing that was trained or given is drawn anew."""

import copy
import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from kan_fast import KAN
from kan_fast.training import starts
from kan_fast.training.starts import STEPS


def data(function=lambda x: torch.cos(3 * x[:, :1] + x[:, 1:] ** 3)):
    x = torch.rand(300, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 - 1
    return x, function(x)


def network(seed=0, width=(2, 1, 1), **options):
    return KAN(list(width), **{"grid": 3, "seed": seed, "dtype": torch.float64, **options})


def test_poor_minima_are_left():
    """cos(3 x + y^3) on one hidden node: eight of ten initialisations end in minima that explain nothing."""
    losses = {}
    for count in (1, None):
        losses[count] = [
            network(seed).fit(data(), "LM", 30, grids=[3, 5], starts=count, progress=False)["train_loss"][-1]
            for seed in range(4)
        ]
    assert max(losses[1]) > 0.1
    assert max(losses[None]) < 0.02


def test_the_sparsity_term_decides_too():
    model = network(width=(2, 3, 1))
    alone = copy.deepcopy(model)
    history = model.fit(data(), steps=15, lamb=0.01, progress=False)
    first = alone.fit(data(), steps=15, lamb=0.01, starts=1, progress=False)
    assert "start" not in first
    assert history["start"][:STEPS] == [0] * STEPS
    assert len(history["start"]) == 15
    assert history["train_loss"][:STEPS] == first["train_loss"][:STEPS]
    objective, other = (h["train_loss"][STEPS] ** 2 + 0.01 * h["reg"][STEPS] for h in (history, first))
    assert (objective < other) if history["start"][-1] else (objective == other)


def test_equal_numbers_each_time_and_the_global_generator_stays():
    before = torch.random.get_rng_state()
    outputs = []
    for _ in range(2):
        model = network(2)
        history = model.fit(data(), "LM", 15, progress=False)
        outputs.append(model(data()[0]))
    assert history["start"][-1] > 0
    assert torch.equal(*outputs)
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_was_trained_or_given_is_not_drawn_anew():
    x, y = data()
    trained = network(2)
    trained.fit((x, y), "LM", 3, progress=False)
    given = network(2)
    with torch.no_grad():
        given.layers[0].spline_weight.data.mul_(1.5)
    refined = network(2).refine(4)
    symbolic = network(2)
    symbolic.layers[0].fix(0, 0, "sin")
    for model in (trained, given, refined, symbolic):
        assert "start" not in model.fit((x, y), "LM", 15, progress=False)


def test_an_initialisation_is_one_in_any_dtype_and_any_copy():
    for model in (network(2).float(), copy.deepcopy(network(2))):
        assert "start" in model.fit(data(), "LM", 15, progress=False)


@pytest.mark.parametrize(
    "options",
    [
        {"opt": "Adam"},
        {"batch": 100},
        {"loss_fn": torch.nn.functional.l1_loss},
        {"starts": 1},
        {"steps": STEPS},
        {"continual": True},
        {"scheduler": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 5)},
    ],
)
def test_trainings_that_keep_to_one_start(options):
    assert "start" not in network(2).fit(data(), **{"steps": 15, "progress": False, **options})


def test_a_loader_and_frozen_parameters_keep_to_one_start():
    loader = DataLoader(TensorDataset(*data()), batch_size=300)
    assert "start" not in network(2).fit(loader, "LM", 15, progress=False)
    model = network(2)
    model.layers[0].bias.requires_grad_(False)
    assert "start" not in model.fit(data(), "LM", 15, progress=False)


def test_a_checkpoint_keeps_to_one_start(tmp_path):
    options = {"steps": 15, "checkpoint": tmp_path / "run", "progress": False}
    assert "start" not in network(2).fit(data(), **options)
    assert len(network(2).fit(data(), **options)["train_loss"]) == 15


def test_starts_of_any_network_on_request():
    model = network(2, width=(2, 30, 1))
    history = model.fit(data(), "Adam", 15, starts=2, progress=False)
    assert len(history["start"]) == 15


def test_a_frozen_layer_begins_as_it_was(monkeypatch):
    """Trials copied the network after ten steps: those of a layer that isn't drawn anew were the network itself."""
    begun = []
    monkeypatch.setattr(starts, "_run", lambda trial: begun.append(copy.deepcopy(trial.model)) or math.inf)
    model = network(2)
    model.layers[1].bias.requires_grad_(False)
    before = copy.deepcopy(model.layers[1].state_dict())
    model.fit(data(), "LM", 15, starts=3, progress=False)
    assert len(begun) == 2
    for trial in begun:
        assert all(torch.equal(t, before[name]) for name, t in trial.layers[1].state_dict().items())
        assert not torch.equal(trial.layers[0].spline_weight, network(2).layers[0].spline_weight)


def test_masks_and_frozen_layers_stay():
    model = network(2)
    model.layers[0].mask = torch.tensor([[True, False]])
    model.layers[1].base_weight.requires_grad_(False)
    frozen = model.layers[1].base_weight.clone()
    assert "start" in model.fit(data(), "LM", 15, starts=3, progress=False)
    assert torch.equal(model.layers[1].base_weight, frozen)
    assert model.layers[0].mask.tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"starts": 0}, "starts"),
        ({"starts": 2, "checkpoint": "file"}, "neither checkpoint"),
        ({"starts": 2, "opt": torch.optim.Adam}, "by name"),
        ({"starts": 2, "batch": 10}, "all data"),
        ({"starts": 2, "steps": STEPS}, "compared after 10 steps.*got starts=2, steps=10"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        network().fit(data(), **options, progress=False)
