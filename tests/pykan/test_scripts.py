"""pykan's scripts, where only the imports differ (examples/pykan), give what they give there or better."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy

SCRIPTS = Path(__file__).parents[2] / "examples" / "pykan"
pytestmark = pytest.mark.slow


def run(name: str, **variables: Any) -> dict[str, Any]:
    return runpy.run_path(str(SCRIPTS / f"{name}.py"), init_globals=variables)


def test_hello_world():
    script = run("hello_world")
    assert script["results"]["test_loss"][-1] < 1e-6
    x = np.random.default_rng(0).uniform(-1, 1, (2, 100))
    formula = sympy.lambdify(sympy.symbols("x_1 x_2"), script["formula"])
    np.testing.assert_allclose(formula(*x), np.exp(np.sin(np.pi * x[0]) + x[1] ** 2), rtol=1e-3)


def test_moons_as_regression():
    script = run("moons_regression", SEED=3)
    assert script["results"]["test_acc"][-1] >= 0.97
    assert script["accuracy"] >= 0.97


def test_moons_as_classification():
    script = run("moons_classification", SEED=3)
    assert script["results"]["test_acc"][-1] >= 0.99
    assert script["accuracy"] >= 0.99


def test_grid_extension():
    losses = run("grid_extension")["test_losses"]
    assert losses[-1] < 2e-3
    assert losses == sorted(losses, reverse=True)


def test_pde():
    assert run("pde")["l2"] < 1e-3


def test_continual_learning():
    assert run("continual")["rmse"] < 1e-4
