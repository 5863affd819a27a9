"""L-BFGS and its line search: their own contracts, against closed forms and scipy."""

import copy
import math

import pytest
import torch

from kan_fast.optim import LBFGS
from kan_fast.optim.lbfgs import _Memory
from kan_fast.optim.line_search import Point, strong_wolfe

pytestmark = pytest.mark.usefixtures("double")


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


def test_a_value_without_a_slope_counts_as_too_far():
    """A finite objective of which the gradient is NaN, as beyond the domain of a square root."""
    start = Point(0.0, 0.0, -1.0, None)
    search = strong_wolfe(lambda t: Point(t, -t, math.nan if t > 0.7 else t - 0.75, None), start, 1.0, noise=0.0)
    assert 0 < search.step <= 0.7 and math.isfinite(search.slope)


def test_an_objective_that_falls_without_end_ends_the_search():
    steps = []

    def line(t):
        steps.append(t)
        return Point(t, -t, -1.0, None)

    assert 1e10 <= strong_wolfe(line, Point(0.0, 0.0, -1.0, None), 1.0, noise=0.0).step < 1e12
    assert len(steps) < 15


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
