"""Labels of sizes that networks learn badly: fit says so, and how to scale them."""

import warnings

import pytest
import torch

from kan_fast import KAN
from tests.helpers.fitting import fit, loader, target

X = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
Y = target(X)


def trained(y, opt="LBFGS", steps=2, **options):
    model = KAN([2, 2, 1], seed=0, dtype=y.dtype)
    fit(model, (X.to(y), y), opt, steps, **options)
    return model


SMALL, LARGE = "labels deviate by .* from their mean", "half of the labels are beyond"
SHIFTED = r"the mean of labels is \S+ times their deviation"


@pytest.mark.parametrize(
    ("y", "opt", "message"),
    [
        (Y * 1e-12, "LBFGS", SMALL),
        (1 + Y * 1e-5, "LBFGS", SMALL),
        (Y * 1e-5, "Adam", SMALL),
        (Y * 1e-6, "LM", SMALL),
        (Y.double() * 1e-12, "LM", SMALL),
        (Y + 1000, "Adam", LARGE),
        (Y * 1000, torch.optim.SGD, LARGE),
        (Y + 30, "Adam", LARGE),
        (Y * 1e8, "LM", LARGE),
        (Y.double() * 1e12, "LBFGS", LARGE),
        (Y.double() * 1e60, "LM", LARGE),
        (Y.double() * 1e150, "LM", LARGE),
        (Y + 1e4, "LBFGS", SHIFTED),
        (Y.double() + 1e4, "LM", SHIFTED),
    ],
)
def test_labels_that_are_learnt_badly(y, opt, message):
    with pytest.warns(UserWarning, match=rf"{message}.*Scale them, y = \(y - y.mean\(0\)\)"):
        trained(y, opt, lr=1e-9 if opt is torch.optim.SGD else None)


@pytest.mark.parametrize(
    ("y", "opt"),
    [
        (Y, "Adam"),
        (Y * 1e-2, "LBFGS"),
        (Y * 10, "Adam"),
        (Y * 1e8, "LBFGS"),
        (Y * 1e5, "LM"),
        (Y + 30, "LBFGS"),
        (Y + 30, "LM"),
        (Y.double() * 1e-7, "LM"),
        (Y * 0 + 5, "Adam"),
        (Y * 0, "LM"),
    ],
)
def test_labels_that_are_not(y, opt):
    trained(y, opt)


def test_the_warning_knows_the_deviation_of_labels_whose_squares_are_0():
    for y in (Y * 1e-25, Y.double() * 1e-200):
        with pytest.warns(UserWarning, match=SMALL) as heard:
            trained(y)
        deviation = (y / y.max()).std(correction=0) * y.max()
        assert f"labels deviate by {deviation:.3g} from" in str(heard[0].message)


def test_the_warning_is_right_and_its_advice_helps():
    def share(y):  # of the deviation that remains
        return ((trained(y, steps=20)(X) - y).square().mean().sqrt() / y.std()).item()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert share(Y * 1e-8) > 1
    assert share((Y - Y.mean(0)) / Y.std(0)) < 0.05


def test_loaders_and_losses_of_ones_own():
    order = Y[:, 0].argsort()
    for data in (loader(X, Y * 1e-6), loader(X, Y * 1e-6, shuffle=True)):
        with pytest.warns(UserWarning, match=SMALL):
            fit(KAN([2, 1], seed=0), data, "Adam", 2)
    fit(KAN([2, 1], seed=0), loader(X[order], Y[order]), "Adam", 2)
    fit(KAN([2, 1], seed=0), (X, Y * 1e-6), steps=2, loss_fn=lambda y, label: 1e12 * (y - label).square().mean())


def test_symbolic_outputs_have_scales_of_their_own():
    model = KAN([2, 1], seed=0)
    model.layers[0].fix_many([(0, 0), (0, 1)], ["sin", "x^2"])
    fit(model, (X, Y * 1e-9), steps=2)
