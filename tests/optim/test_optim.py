"""The optimisers: their own contracts, against closed forms, autograd's Jacobians and scipy."""

import copy
import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F

from kan_fast import KAN, KANLinear
from kan_fast.ops.reference import bspline
from kan_fast.optim import LBFGS, LevenbergMarquardt
from kan_fast.optim.flat import flatten
from kan_fast.optim.jacobian import Jacobian
from kan_fast.optim.lbfgs import _Memory
from kan_fast.optim.line_search import Point, strong_wolfe


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)  # conftest puts it back


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def closure_of(optimizer, objective):
    def closure():
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    return closure


# Line search


curves = pytest.mark.parametrize(
    ("f", "slope"),
    [
        (lambda t: (t - 2) ** 2, lambda t: 2 * (t - 2)),
        (lambda t: -t / (t**2 + 2), lambda t: (t**2 - 2) / (t**2 + 2) ** 2),  # More and Thuente, 5.1
        (lambda t: math.exp(-t) + 1e-3 * t**4, lambda t: -math.exp(-t) + 4e-3 * t**3),
        (lambda t: math.inf if t > 1.5 else -t, lambda t: math.nan if t > 1.5 else -1 + 2 * max(0, t - 0.5)),
    ],
    ids=["parabola", "rational", "quartic", "wall"],
)
steps = pytest.mark.parametrize("step", [1e-6, 0.1, 1.0, 1e3])


@curves
@steps
def test_the_strong_wolfe_conditions_hold(f, slope, step):
    start = Point(0.0, f(0.0), slope(0.0), None)
    point = strong_wolfe(lambda t: Point(t, f(t), slope(t), None), start, step, noise=0.0, curvature=0.9)
    assert f(point.step) <= start.value + 1e-4 * point.step * start.slope
    assert abs(slope(point.step)) <= 0.9 * abs(start.slope) or (f is not None and math.isinf(f(1.6)))
    assert point.step > 0


@pytest.mark.parametrize("scale", [1e-250, 1e-100, 1e100, 1e160, 1e250])
@curves
@steps
def test_searches_do_not_depend_on_the_scale_of_the_objective(f, slope, step, scale):
    """Squares of Python floats beyond 1e154 are an OverflowError, in which the fit and its history were lost."""

    def search(unit):
        start = Point(0.0, unit * f(0.0), unit * slope(0.0), None)
        return strong_wolfe(lambda t: Point(t, unit * f(t), unit * slope(t), None), start, step, noise=0.0).step

    assert search(scale) == pytest.approx(search(1.0), rel=1e-6)


def test_a_search_without_progress_returns_the_start():
    start = Point(0.0, 1.0, -1.0, None)
    assert strong_wolfe(lambda t: Point(t, 2.0 + t, 1.0, None), start, 1.0, noise=0.0) is start


# L-BFGS


@pytest.mark.parametrize("history", [1, 3, 20])
def test_lbfgs_finds_the_minimum_of_rosenbrock(history):
    x = torch.full((10,), -1.2).requires_grad_()
    optimizer = LBFGS([x], history_size=history)
    for _ in range(60):
        optimizer.step(closure_of(optimizer, lambda: rosenbrock(x)))
    assert (x - 1).abs().max() < 1e-9


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_lbfgs_does_not_depend_on_the_scale_of_the_objective(scale):
    x = torch.full((6,), -1.2).requires_grad_()
    optimizer = LBFGS([x])
    for _ in range(15):
        optimizer.step(closure_of(optimizer, lambda: scale * rosenbrock(x)))
    assert (x - 1).abs().max() < 1e-8


def test_directions_are_those_of_the_two_loop_recursion():
    """Nocedal and Wright, Algorithm 7.4, on the pairs that a run leaves behind."""
    torch.manual_seed(3)
    curvature = torch.rand(12) + 0.1
    memory, pairs = _Memory(torch.zeros(12), 4, {}), []
    for count in range(9):
        gradient = torch.randn(12)
        direction, slope = memory.direction(gradient)
        q, alphas = gradient.clone(), []
        for s, y in reversed(pairs[-4:]):
            alphas.append(s.dot(q) / s.dot(y))
            q -= alphas[-1] * y
        if pairs:
            s, y = pairs[-1]
            q *= s.dot(y) / y.dot(y)
        for (s, y), alpha in zip(pairs[-4:], reversed(alphas), strict=True):
            q += (alpha - y.dot(q) / s.dot(y)) * s
        torch.testing.assert_close(direction, -q, msg=f"after {count} pairs")
        assert slope == pytest.approx(-q.dot(gradient).item())
        s = torch.randn(12)
        pairs.append((s, curvature * s))
        memory.add(*pairs[-1])


def test_lbfgs_leaves_the_parameters_at_the_best_value_of_a_step():
    x = torch.full((5,), 3.0).requires_grad_()
    optimizer, seen = LBFGS([x], max_iter=4), []

    def objective():
        seen.append(rosenbrock(x))
        return seen[-1]

    for _ in range(5):
        optimizer.step(closure_of(optimizer, objective))
        assert rosenbrock(x).item() == min(value.item() for value in seen)


def test_lbfgs_and_objectives_that_are_not_finite():
    x = torch.tensor([1.0, 2.0]).requires_grad_()
    optimizer = LBFGS([x])
    optimizer.step(closure_of(optimizer, lambda: x.sum() * math.nan))
    assert x.tolist() == [1.0, 2.0]
    optimizer.step(closure_of(optimizer, lambda: (x - 3).square().sum() - (3.5 - x).log().sum()))  # NaN beyond 3.5
    assert x.isfinite().all() and (x < 3.5).all()


@pytest.mark.parametrize("power", range(20, 300, 20))
def test_lbfgs_of_steep_objectives(power):
    p = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    optimizer = LBFGS([p])

    def closure():
        optimizer.zero_grad()
        loss = torch.exp(p[0] * 3) + 10.0**power * (p[1] - 1.9999) ** 4
        loss.backward()
        return loss

    values = [optimizer.step(closure).item() for _ in range(3)]
    assert values == sorted(values, reverse=True)


def test_lbfgs_of_one_iteration_a_step_is_the_same_minimisation():
    ends = []
    for steps, iterations in ((12, 1), (1, 12)):
        x = torch.full((10,), -1.2).requires_grad_()
        optimizer = LBFGS([x], max_iter=iterations)
        for _ in range(steps):
            optimizer.step(closure_of(optimizer, lambda x=x: rosenbrock(x)))
        ends.append(x.detach())
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize(
    ("options", "iterations"),
    [({}, 20), ({"tolerance_grad": 1e9}, 0), ({"tolerance_change": 1e9}, 1), ({"tolerance_grad": 1e-32}, 20)],
    ids=str,
)
def test_tolerances_of_lbfgs_end_a_step(options, iterations):
    ends = []
    for given in (options, {"max_iter": max(1, iterations)}):
        x = torch.full((10,), -1.2).requires_grad_()
        optimizer = LBFGS([x], line_search_fn="strong_wolfe", **given)
        optimizer.step(closure_of(optimizer, lambda x=x: rosenbrock(x)))
        ends.append(x.detach())
    torch.testing.assert_close(ends[0], ends[1] if iterations else torch.full((10,), -1.2), rtol=0, atol=0)


def test_lbfgs_without_pairs_is_steepest_descent():
    x = torch.full((10,), -1.2).requires_grad_()
    optimizer = LBFGS([x], tolerance_ys=1e9)
    for _ in range(3):
        optimizer.step(closure_of(optimizer, lambda: rosenbrock(x)))
    assert not optimizer.state[x]["slots"]


@pytest.mark.parametrize(("parameters", "pairs"), [(10, 100), (300_000, 55), (2_000_000, 20)])
def test_lbfgs_remembers_as_many_pairs_as_memory_allows(parameters, pairs):
    assert LBFGS([torch.zeros(parameters)]).param_groups[0]["history_size"] == pairs


def test_lbfgs_resumes_to_the_bit():
    def run(steps, x, state=None):
        optimizer = LBFGS([x], history_size=3, max_iter=5)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            optimizer.step(closure_of(optimizer, lambda: rosenbrock(x)))
        return copy.deepcopy(optimizer.state_dict())

    whole, parts = (torch.full((7,), -1.2).requires_grad_() for _ in range(2))
    run(6, whole)
    run(3, parts, run(3, parts))
    assert torch.equal(whole, parts)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LBFGS([torch.zeros(2), torch.zeros(2).float()]), "one dtype and device, got"),
        (lambda: LBFGS([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)]}]), "one group of parameters, got 2"),
        (lambda: LBFGS([torch.zeros(1)], lr=0), "lr must be finite and greater than 0"),
        (lambda: LBFGS([torch.zeros(1)], tolerance_grad=-1), "tolerance_grad must be finite and at least 0"),
        (lambda: LBFGS([torch.zeros(1)], line_search_fn=None), "line_search_fn must be 'strong_wolfe', got None"),
        (lambda: LBFGS([torch.zeros(1)], history_size=0), "history_size must be at least 1"),
    ],
)
def test_bad_options_of_lbfgs(make, message):
    with pytest.raises(ValueError, match=message):
        make()


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
    model = KAN([2, 2, 1], grid=3, seed=0, dtype=torch.float64)
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
