"""KAN.multistart: the best of several initialisations."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from kan_fast import KAN


def data(samples: int = 400):
    x = torch.rand(samples, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 - 1
    return x, torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2)


def network(seed: int = 0) -> KAN:
    return KAN([2, 1, 1], grid=5, seed=seed, dtype=torch.float64)


def test_it_escapes_a_local_minimum():
    x, y = data()
    stuck = next(
        model
        for model in map(network, range(20))
        if model.fit((x, y), "LM", 30, progress=False)["train_loss"][-1] > 0.1
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


def test_an_interrupt_ends_all_starts_and_leaves_the_network():
    model, losses = network(), []
    before = {name: t.clone() for name, t in model.state_dict().items()}

    def loss(output, label):
        losses.append(1)
        if len(losses) == 5:
            raise KeyboardInterrupt
        return (output - label).square().mean()

    with pytest.raises(KeyboardInterrupt):
        model.multistart(data(), 4, "Adam", 10, loss_fn=loss, progress=False)
    assert len(losses) == 5
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[name])
