"""Options of a wrong type or value: an error that says what was given and what is allowed, everywhere."""

import numpy as np
import pytest
import torch

from kan_fast import KAN, KANLinear, explain
from kan_fast._support.checks import functions
from kan_fast.symbolic.formula import scales

DATA = torch.rand(20, 2), torch.rand(20, 1)


def network() -> KAN:
    return KAN([2, 3, 1], seed=0)


def fit(**options: object) -> None:
    network().fit(DATA, steps=1, progress=False, **options)


CASES = {
    "seed of fit": (lambda: fit(seed="a"), "seed must be an int, got 'a'"),
    "grids": (lambda: fit(grids=5), "grids must be a list, got 5"),
    "callbacks": (lambda: fit(callbacks=3), "callbacks must be a function or a list of functions, got 3"),
    "metrics": (lambda: fit(metrics=3), "metrics must be a function or a list of functions, got 3"),
    "loss_fn": (lambda: fit(loss_fn="mse"), "loss_fn must be a function, got 'mse'"),
    "scheduler": (lambda: fit(opt="Adam", scheduler="cos"), "scheduler must be a function, got 'cos'"),
    "display_metrics": (lambda: fit(display_metrics=3), "display_metrics must be a list, got 3"),
    "seed of KAN": (lambda: KAN([2, 1], seed="a"), "seed must be an int, got 'a'"),
    "grid_range of KAN": (lambda: KAN([2, 1], grid_range=3), "grid_range must be a list, got 3"),
    "grid_eps": (lambda: KANLinear(2, 2, grid_eps="a"), "grid_eps must be a number, got 'a'"),
    "dtype": (lambda: KANLinear(2, 2, dtype=torch.float8_e4m3fn), "dtype must be one of torch.float64"),
    "dtype by name": (lambda: KANLinear(2, 2, dtype="float32"), "dtype must be one of torch.float64"),
    "columns": (lambda: network().layers[0].coverage(torch.rand(5, 3)), r"samples \(..., 2\), got \(5, 3\)"),
    "explain": (lambda: explain(network().layers[0], np.zeros((5, 2))), "expected a tensor as input, got ndarray"),
    "active_inputs": (lambda: network().prune_input(active_inputs=1, x=DATA[0]), "active_inputs must be a list, got 1"),
    "active_neurons_id": (
        lambda: network().prune_node(active_neurons_id=1, x=DATA[0]),
        "active_neurons_id must be a list, got 1",
    ),
    "eps": (lambda: network().update_grid(DATA[0], eps="a"), "eps must be a number, got 'a'"),
    "lib": (lambda: network().auto_symbolic(3, x=DATA[0]), "lib must be a list, got 3"),
    "digits": (lambda: network().symbolic_formula(digits=2.5), "digits must be an int, got 2.5"),
    "constants": (lambda: network().symbolic_formula(constants=-1), "constants must be finite and at least 0, got -1"),
    "normalizer": (lambda: scales("normalizer", 3, 2), "normalizer must be a list, got 3"),
    "normalizer of one part": (
        lambda: scales("normalizer", [[1, 2]], 2),
        r"normalizer must be \(mean, std\), got 1 parts: \[\[1, 2\]\]",
    ),
    "normalizer NaN": (lambda: scales("normalizer", (np.nan, 1), 2), r"must be \(mean, std\) with finite numbers"),
    "normalizer inf": (lambda: scales("normalizer", (0, [1, np.inf]), 2), r"must be \(mean, std\) with finite numbers"),
    "normalizer of one column": (
        lambda: scales("normalizer", ([0], [1]), 2),
        r"the mean in normalizer must have a number for each of 2 columns, or be one number for all, got 1: \[0\]",
    ),
    "normalizer of a column too many": (
        lambda: scales("normalizer", (0, torch.ones(3)), 2),
        "the std in normalizer must have a number for each of 2 columns, or be one number for all, got 3: tensor",
    ),
    "output_normalizer": (
        lambda: network().formula_report(*DATA, output_normalizer=([], 1)),
        "the mean in output_normalizer must have a number for each of . columns, .* got 0",
    ),
    "normalizer of text": (lambda: scales("normalizer", ("a", 1), 2), "the mean in normalizer must have real numbers"),
    "labels": (
        lambda: network().formula_report(DATA[0], torch.full_like(DATA[1], torch.nan)),
        "formula_report needs finite labels",
    ),
    "a number that floats lack": (lambda: fit(lr=10**400), "lr must be finite and greater than 0, got 1000"),
    "a range that floats lack": (
        lambda: KAN([2, 1], grid_range=(0, 10**400)),
        "grid_range must be .* finite start < end",
    ),
    "numbers that floats lack": (lambda: scales("normalizer", (10**400, 1), 2), "must have numbers of at most 1.8e308"),
    "a metric that floats lack": (lambda: fit(metrics=lambda: 10**400), "must return a number, got 1000"),
    "margin": (lambda: network().update_grid(DATA[0], margin=-1), "margin must be finite and at least 0, got -1"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_error_says_what_is_wrong(name: str) -> None:
    call, message = CASES[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_numbers_of_numpy_are_numbers() -> None:
    layer = KANLinear(
        np.int64(2), np.int32(3), grid_size=np.int64(4), spline_order=np.int64(2), grid_eps=np.float32(0.5)
    )
    assert layer(torch.rand(5, 2)).shape == (5, 3)


def test_a_function_that_is_iterable_is_one_function() -> None:
    module = torch.nn.Sequential(torch.nn.Identity())
    assert functions("metrics", module) == [module]
    assert functions("metrics", [module, abs]) == [module, abs]
    assert functions("metrics", None) == []
