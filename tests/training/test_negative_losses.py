"""Losses below zero, such as logarithms of likelihoods: whatever compares losses sees them fall."""

import math

import pytest
from torch.optim.lr_scheduler import ReduceLROnPlateau

from kan_fast import KAN
from tests.helpers.fitting import fit

pytestmark = pytest.mark.usefixtures("double")


def likelihood(output, label):
    """Negative logarithm of a normal density: mean and logarithm of the deviation are outputs, and it can be < 0."""
    mean, deviation = output[:, :1], output[:, 1:]
    return (0.5 * ((label - mean) / deviation.exp()) ** 2 + deviation).mean()


def test_a_loss_can_be_negative(dataset):
    x, y = dataset["train_input"], dataset["train_label"] / 1000

    def trained(*args, **options):
        model = KAN([2, 2, 2], seed=0)
        return model, fit(model, (x, y), *args, loss_fn=likelihood, val=(x, y), **options)

    model, history = trained("LBFGS", 20, patience=3)
    value = likelihood(model(x), y).item()
    assert value < -1
    assert len(history["train_loss"]) > 10  # with roots that are NaN, patience ended the training in step 3
    for name in ("train_loss", "test_loss"):  # the best step, to whose parameters patience goes back
        assert min(history[name]) == pytest.approx(-math.sqrt(-value))
    plateaus = []

    def plateau(optimizer):
        plateaus.append(ReduceLROnPlateau(optimizer, patience=20))
        return plateaus[0]

    trained("Adam", 60, lr=0.01, scheduler=plateau)
    assert plateaus[0].get_last_lr() == [0.01]


def test_starts_and_multistart_compare_losses_that_are_negative(dataset):
    data = dataset["train_input"], dataset["train_label"] / 1000
    options = {"loss_fn": likelihood, "progress": False}

    def ends(seed, steps=15, **more):
        return KAN([2, 1, 2], seed=seed).fit(data, "Adam", steps, lr=0.05, **options, **more)["train_loss"]

    assert KAN([2, 1, 2], seed=3).fit(data, "Adam", 15, lr=0.05, starts=6, **options)["start"][-1] > 0
    assert ends(3, starts=6)[-1] < ends(3)[-1] < 0
    best = KAN([2, 1, 2], seed=3).multistart(data, starts=4, opt="Adam", steps=15, lr=0.05, **options)
    assert best["train_loss"][-1] < ends(3)[-1]
