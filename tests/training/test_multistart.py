"""KAN.multistart: the best of several initialisations."""

import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from kan_fast import KAN


def data(samples: int = 400):
    x = torch.rand(samples, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 - 1
    return x, torch.cos(3 * x[:, :1] + x[:, 1:] ** 3)


def network(seed: int = 0) -> KAN:
    return KAN([2, 1, 1], grid=5, seed=seed, dtype=torch.float64)


def test_it_escapes_a_local_minimum():
    x, y = data()
    stuck = next(
        model
        for model in map(network, range(20))
        if model.fit((x, y), "LM", 30, starts=1, progress=False)["train_loss"][-1] > 0.1
    )
    history = stuck.multistart((x, y), 8, "LM", 30, progress=False)
    assert history["train_loss"][-1] < 0.02
    torch.testing.assert_close((stuck(x) - y).square().mean().sqrt().item(), history["train_loss"][-1])
    assert stuck.last_inputs.x is not None


def test_one_start_is_fit():
    x, y = data(50)
    a, b = network(), network()
    first = a.multistart((x, y), 1, steps=3, progress=False)
    second = b.fit((x, y), steps=3, progress=False)
    assert first["train_loss"] == second["train_loss"]
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_reproducible_and_the_global_generator_stays():
    x, y = data(50)
    before = torch.random.get_rng_state()
    runs = []
    for _ in range(2):
        model = network()
        model.multistart((x, y), 3, "Adam", 5, seed=4, batch=10, progress=False)
        runs.append(model(x))
    assert torch.equal(*runs)
    assert torch.equal(before, torch.random.get_rng_state())


def test_frozen_layers_and_masks_stay():
    x, y = data(50)
    model = network()
    model.layers[0].mask = torch.tensor([[True, False]])
    model.layers[1].base_weight.requires_grad_(False)
    frozen = model.layers[1].base_weight.clone()
    model.multistart((x, y), 3, "Adam", 2, progress=False)
    assert torch.equal(model.layers[1].base_weight, frozen)
    assert model.layers[0].mask.tolist() == [[True, False]]


def test_data_loader():
    x, y = data(40)
    model = network()
    history = model.multistart(DataLoader(TensorDataset(x, y), batch_size=20), 2, "Adam", 3, progress=False)
    assert len(history["train_loss"]) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"starts": 0}, "starts"),
        ({"checkpoint": "file"}, "takes no checkpoint"),
        ({"grids": [3, 5]}, "takes no grids"),
        ({"opt": torch.optim.Adam(network().parameters())}, "name or the class"),
    ],
)
def test_errors(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        network().multistart(data(20), **options, progress=False)


@pytest.mark.parametrize(("at", "steps"), [(0, 0), (4, 4), (25, 10)])
def test_an_interrupt_ends_all_starts_and_keeps_the_best(at, steps):
    """In the first step, later in the first start, and in the third one."""
    model, losses, trained = network(), [], []
    before = model(data()[0])

    def loss(output, label):
        if len(losses) == at:
            raise KeyboardInterrupt
        losses.append((output - label).square().mean())
        return losses[-1]

    for start in range(3):
        trained.append(network())
        trained[start].multistart(data(), start + 1, "Adam", 10, progress=False)
    with pytest.warns(RuntimeWarning, match="training was interrupted: the network has the best parameters so far"):
        history = model.multistart(data(), 4, "Adam", 10, loss_fn=loss, progress=False)
    assert len(losses) == at
    assert math.isnan(history["train_loss"][-1]) == (not steps)
    assert len(history["train_loss"]) == max(steps, 1)
    if at == 25:
        assert torch.equal(model(data()[0]), trained[1](data()[0]))
    elif not at:
        torch.testing.assert_close(model(data()[0]), before, rtol=0, atol=1e-2)  # grids have moved
