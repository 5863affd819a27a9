"""Levenberg-Marquardt and its Jacobians, against autograd's, closed forms and scipy."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F

from kan_fast import KAN, KANLinear
from kan_fast.ops.reference import bspline
from kan_fast.optim import LevenbergMarquardt
from kan_fast.optim.flat import flatten
from kan_fast.optim.jacobian import Jacobian

pytestmark = pytest.mark.usefixtures("double")


# Jacobians


def laplacian(model, x):
    x = x.detach().requires_grad_()
    slope = torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]
    terms = [torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i : i + 1] for i in range(x.shape[1])]
    return sum(terms)


RESIDUALS = {
    "values": lambda model, x: model(x),
    "two outputs of a loss": lambda model, x: torch.cat([model(x).sin(), model(x) ** 2], 1),
    "laplacian": laplacian,
    "nonlinear equation": lambda model, x: model(x) * laplacian(model, x) - model(x) ** 3,
}


@pytest.mark.parametrize("name", RESIDUALS)
@pytest.mark.parametrize("base", ["silu", "zero"])
@pytest.mark.parametrize("extrapolation", ["zero", "linear"])
def test_jacobians_are_those_of_autograd_row_by_row(name, base, extrapolation):
    model = KAN([2, 3, 1], grid=4, seed=0, base=base, extrapolation=extrapolation, dtype=torch.float64)
    x = torch.rand(7, 2) * 2.4 - 1.2
    params = list(model.parameters())
    residuals = RESIDUALS[name](model, x)
    jacobian = torch.cat(list(Jacobian(list(model.layers), params, residuals).blocks(numbers=200)))
    expected = [
        flatten(torch.autograd.grad(r, params, retain_graph=True, allow_unused=True, materialize_grads=True))
        for r in residuals.T.reshape(-1)
    ]
    torch.testing.assert_close(jacobian, torch.stack(expected), rtol=1e-10, atol=1e-10 * jacobian.abs().max().item())


def test_jacobians_of_masked_edges_and_products():
    model = KAN([2, [2, 1], 1], grid=3, seed=0, dtype=torch.float64)
    model.layers[0].mask = torch.tensor([[1, 0], [1, 1], [0, 1], [1, 1]]).bool()
    x, params = torch.rand(6, 2), list(model.parameters())
    residuals = laplacian(model, x)
    jacobian = torch.cat(list(Jacobian(list(model.layers), params, residuals).blocks()))
    expected = [
        flatten(torch.autograd.grad(r, params, retain_graph=True, allow_unused=True, materialize_grads=True))
        for r in residuals[:, 0]
    ]
    torch.testing.assert_close(jacobian, torch.stack(expected), rtol=1e-10, atol=1e-10 * jacobian.abs().max().item())


def test_a_jacobian_of_other_calls_than_samples_is_refused():
    model = KAN([2, 1], seed=0, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"3 residuals of a layer that was called with 6 samples.*a tuple"):
        Jacobian(list(model.layers), list(model.parameters()), model(torch.rand(6, 2))[:3])


# Levenberg-Marquardt


def test_a_linear_problem_is_solved_to_rounding():
    x = torch.rand(200, 1) * 2 - 1
    y = torch.sin(3 * x)
    model = KAN([1, 1], grid=8, seed=0, base="zero", bias=False, dtype=torch.float64)
    optimizer = LevenbergMarquardt(model)
    values = [optimizer.step(lambda: model(x) - y).item() for _ in range(25)]
    rows = bspline(x, model.layers[0].grid, 3)[:, 0].numpy()
    best = np.linalg.lstsq(rows, y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(model.layers[0].spline_weight[0, 0].detach(), best[:, 0], atol=1e-9)
    assert all(later <= earlier for earlier, later in itertools.pairwise(values))


def test_a_nonlinear_problem_gets_as_far_as_scipys_solver():
    x = torch.rand(80, 2) * 2 - 1
    y = torch.exp(x[:, :1] * x[:, 1:])
    model = KAN([2, 2, 1], grid=3, seed=0, dtype=torch.float64, extrapolation="zero")
    params = list(model.parameters())

    def residuals(theta):
        torch.nn.utils.vector_to_parameters(torch.from_numpy(theta), params)
        with torch.no_grad():
            return (model(x) - y)[:, 0].numpy()

    begin = flatten(params).detach().numpy().copy()
    theirs = scipy.optimize.least_squares(residuals, begin, method="trf", max_nfev=60)
    residuals(begin)
    optimizer = LevenbergMarquardt(model)
    for _ in range(60):
        optimizer.step(lambda: model(x) - y)
    assert F.mse_loss(model(x), y) <= 2 * theirs.cost / len(x)


def test_a_product_is_learnt_to_rounding():
    x = torch.rand(500, 2) * 2 - 1
    model = KAN([2, 2, 1], grid=3, seed=0, dtype=torch.float64)
    for size in (3, 5):
        history = model.fit(
            (x, x[:, :1] * x[:, 1:]), "LM", 150, grids=[size], grid_update_num=10, stop_update_at=30, progress=False
        )
    assert history["train_loss"][-1] < 1e-10


def test_a_differential_equation_with_its_boundary_is_solved():
    """y'' = -y, y(0) = 0, y'(0) = 1: the sine."""
    x, zero = torch.linspace(0, 3, 60)[:, None], torch.zeros(1, 1)
    model = KAN([1, 1], grid=20, seed=0, grid_range=(0, 3), dtype=torch.float64)

    def residuals():
        edge = zero.clone().requires_grad_()
        value = model(edge)
        slope = torch.autograd.grad(value.sum(), edge, create_graph=True)[0]
        return laplacian(model, x) + model(x), value, slope - 1

    optimizer = LevenbergMarquardt(model)
    for _ in range(30):
        optimizer.step(residuals)
    assert (model(x) - x.sin()).abs().max() < 1e-3


def test_weight_decay_is_ridge_regression():
    x = torch.rand(50, 1) * 2 - 1
    y = torch.sin(3 * x)
    model = KAN([1, 1], grid=4, seed=0, base="zero", bias=False, dtype=torch.float64)
    optimizer = LevenbergMarquardt(model, weight_decay=0.1)
    for _ in range(25):
        optimizer.step(lambda: model(x) - y)
    rows = bspline(x, model.layers[0].grid, 3)[:, 0]
    ridge = torch.linalg.solve(rows.T @ rows / 50 + 0.1 * torch.eye(7), rows.T @ y / 50)
    torch.testing.assert_close(model.layers[0].spline_weight[0, 0].detach(), ridge[:, 0], atol=1e-8, rtol=0)


def test_frozen_parameters_and_splines_without_samples_stay():
    x = torch.rand(50, 1) * 0.5
    model = KAN([1, 2, 1], grid=10, seed=0, dtype=torch.float64)
    model.layers[1].requires_grad_(False)
    model.layers[0].bias.requires_grad_(False)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    optimizer = LevenbergMarquardt(model)
    for _ in range(3):
        optimizer.step(lambda: model(x) - x)
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"layers.0.spline_weight", "layers.0.base_weight"}
    assert torch.equal(after["layers.0.spline_weight"][..., :5], before["layers.0.spline_weight"][..., :5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_steps_never_make_the_objective_larger_and_end_without_harm(dtype):
    x = (torch.rand(100, 2) * 2 - 1).to(dtype)
    y = x.prod(1, keepdim=True)
    model = KAN([2, 2, 1], grid=3, seed=1, dtype=dtype)
    optimizer = LevenbergMarquardt(model)
    values = [optimizer.step(lambda: model(x) - y).item() for _ in range(60)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(values))
    assert values[-1] < 1e-3 * values[0]


def test_residuals_that_are_not_finite_change_nothing():
    model = KAN([1, 1], seed=0, dtype=torch.float64)
    before = flatten(list(model.parameters()))
    assert not LevenbergMarquardt(model).step(lambda: model(torch.rand(5, 1)) * math.nan).isfinite()
    assert torch.equal(flatten(list(model.parameters())), before)


def test_residuals_that_mix_samples_are_refused():
    model, x = KAN([2, 1], seed=0, dtype=torch.float64), torch.rand(9, 2)
    with pytest.raises(ValueError, match="must depend on its own sample alone"):
        LevenbergMarquardt(model).step(lambda: model(x) - model(x).mean())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torch.nn.Linear(2, 2), r"set requires_grad_\(False\) on weight, bias"),
        (torch.nn.Sequential(KANLinear(2, 2), torch.nn.Linear(2, 2)), r"on 1.weight, 1.bias, or choose another"),
        (KANLinear(2, 2, base=torch.tanh), r"on base_weight"),
        (KANLinear(2, 2).requires_grad_(False), "no trainable parameters in KAN layers"),
    ],
    ids=["no KAN", "mixed", "callable base", "frozen"],
)
def test_models_that_levenberg_marquardt_cannot_train(model, message):
    with pytest.raises(ValueError, match=message):
        LevenbergMarquardt(model)


def test_levenberg_marquardt_may_start_where_nothing_is_to_be_gained():
    """Gradients there are rounding errors, which differ by how they are computed."""
    x = torch.rand(800, 2, dtype=torch.float64)
    model = KAN([2, 1], seed=0, dtype=torch.float64)
    model.layers[0].fix_many([(0, 0), (0, 1)], ["0", "0"])
    for _ in range(30):
        y = torch.randn(800, 1, dtype=torch.float64)
        y -= y.mean()
        LevenbergMarquardt(model).step(lambda y=y: model(x) - y)
