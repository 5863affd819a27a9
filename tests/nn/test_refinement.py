"""Grid refinement, ranges per feature, coverage: the function stays, and so does everything else."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from kan_fast import KAN, KANLinear
from kan_fast.nn import grids
from kan_fast.ops.reference import bspline

DEGREES = range(6)
EXTRAPOLATIONS = ("zero", "linear", "clamp")


def make_layer(size, degree, *, adaptive, dtype=torch.float64, **options):
    layer = KANLinear(
        3, 2, grid_size=size, spline_order=degree, dtype=dtype, grid_range=((-1, 1), (0, 5), (-3e3, 2e3)), **options
    )
    if adaptive:
        layer.update_grid(torch.randn(100, 3, dtype=dtype) ** 3 + torch.tensor([0, 7, 1e3], dtype=dtype))
    torch.nn.init.normal_(layer.spline_weight)
    return layer


def whole_line(layer, count=500):
    """Samples inside of the grid range, in the spans beyond it and farther, and on all knots."""
    first, last = layer.grid[:, 0], layer.grid[:, -1]
    share = torch.linspace(-0.2, 1.2, count, dtype=layer.grid.dtype)[:, None]
    return torch.cat([first + (last - first) * share, layer.grid.T])


def relative_change(before, after):
    return ((after - before).abs().max() / (before.max() - before.min())).item()


# Refinement


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize("adaptive", [False, True], ids=["uniform", "adaptive"])
@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=["float64", "float32"]
)
def test_nested_refinement_is_exact_on_the_whole_line(degree, adaptive, extrapolation, dtype, bound):
    for size, finer in ((3, 6), (1, 7), (4, 100)):
        layer = make_layer(size, degree, adaptive=adaptive, dtype=dtype, extrapolation=extrapolation)
        x = whole_line(layer)
        assert relative_change(layer(x), layer.refine(finer)(x)) <= bound


@pytest.mark.parametrize("degree", DEGREES)
def test_inserted_knots_are_those_of_scipy(degree):
    """Insert the new knots one by one with scipy's own knot insertion."""
    layer = make_layer(3, degree, adaptive=True)
    finer = layer.refine(6)
    for o in range(2):
        for i in range(3):
            knots, fine = layer.grid[i].numpy(), finer.grid[i].numpy()
            curve = BSpline(knots, layer.spline_weight[o, i].detach().numpy(), degree)
            for knot in sorted(set(fine) - set(knots)):
                curve = curve.insert_knot(knot)
            rows = len(fine) - degree - 1
            np.testing.assert_array_equal(curve.t[: len(fine)], fine)
            np.testing.assert_allclose(finer.spline_weight[o, i].detach(), curve.c[:rows], rtol=1e-12, atol=1e-13)


def test_the_curve_between_other_knots_is_the_best_approximation():
    layer = make_layer(3, 3, adaptive=False)
    errors = []
    for size in (5, 10, 20, 40):
        x = whole_line(layer)
        errors.append(relative_change(layer(x), layer.refine(size)(x)))
    assert all(fine < 0.3 * coarse for coarse, fine in pairwise(errors))
    # The error is orthogonal to all splines on the new knots, whose spans weigh alike. Gauss's rule is exact here.
    finer = layer.refine(5)
    breaks = torch.cat([layer.grid, finer.grid], 1).sort(1).values
    node, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(4))
    width = breaks.diff(dim=1)[..., None]
    x = breaks[:, :-1, None] + width * (node + 1) / 2  # (in, interval, node)
    span = torch.searchsorted(finer.grid, x.mean(2)).clamp(1, finer.grid.shape[1] - 1) - 1
    weight = (width * weight / finer.grid.diff(dim=1).gather(1, span)[..., None]).flatten(1)
    x = x.flatten(1).T
    rows = bspline(x, finer.grid, 3)
    old = torch.einsum("bir,oir->boi", bspline(x, layer.grid, 3), layer.spline_weight)
    error = old - torch.einsum("bir,oir->boi", rows, finer.spline_weight)
    inner = torch.einsum("boi,bir,ib->oir", error, rows, weight)
    assert inner.abs().max() < 1e-12 * error.abs().max()


@pytest.mark.parametrize("finer", [6, 7, 2, 1, 3])
def test_every_size_keeps_knots_in_order_and_the_ends(finer):
    layer = make_layer(3, 3, adaptive=True)
    refined = layer.refine(finer)
    assert refined.grid.shape == (3, finer + 7)
    assert (refined.grid.diff(dim=1) > 0).all()
    assert torch.equal(refined.grid[:, [0, 1, 2, 3, -4, -3, -2, -1]], layer.grid[:, [0, 1, 2, 3, -4, -3, -2, -1]])
    assert refined(whole_line(layer)).isfinite().all()


def test_a_refined_layer_shares_nothing_and_keeps_everything():
    layer = make_layer(3, 2, adaptive=True, dtype=torch.float32, base="identity", extrapolation="linear", grid_eps=0.3)
    layer.eval()
    layer.base_weight.requires_grad_(False)
    layer(torch.rand(5, 3)).sum().backward()
    before, gradient = copy.deepcopy(layer.state_dict()), layer.spline_weight.grad.clone()
    refined = layer.refine(12)
    for name, t in layer.state_dict().items():
        assert torch.equal(t, before[name])
        assert t.untyped_storage().data_ptr() != refined.state_dict()[name].untyped_storage().data_ptr()
    assert torch.equal(layer.spline_weight.grad, gradient)
    assert refined.spline_weight.grad is None and refined.spline_weight.requires_grad
    assert not refined.base_weight.requires_grad and not refined.training
    assert (refined.grid_size, refined.spline_order, refined.base) == (12, 2, "identity")
    assert (refined.extrapolation, refined.grid_eps) == ("linear", 0.3)
    assert {t.dtype for t in refined.state_dict().values()} == {torch.float32}
    refined(torch.rand(5, 3)).sum().backward()
    assert refined.spline_weight.grad.shape == (2, 3, 14)


def test_a_refined_network_computes_the_same_and_trains():
    model = KAN([2, 3, 1], grid=3, seed=0, dtype=torch.float64).eval()
    x = 3 * torch.randn(200, 2, dtype=torch.float64)  # hidden activations leave their grids, too
    finer = model.refine(9)
    assert relative_change(model(x), finer(x)) <= 1e-12
    assert (model.grid, finer.grid, finer.training) == (3, 9, False)
    assert all(layer.grid_size == 9 for layer in finer.layers)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in finer.parameters()}
    before = model(x)
    finer.fit((x, x[:, :1]), steps=2, progress=False)
    assert torch.equal(model(x), before)
    copied = KAN([2, 3, 1], grid=9, seed=1, dtype=torch.float64)
    copied.load_state_dict(finer.state_dict())
    assert torch.equal(copied(x), finer(x))


def test_the_next_step_works_while_the_loss_of_the_last_one_is_alive():
    """Its graph holds a node for the parameter that torch goes on using, and that expects the old shape."""
    layer, x = make_layer(3, 2, adaptive=False), torch.rand(5, 3, dtype=torch.float64)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    loss = layer(x).sum()
    loss.backward()
    for size in (10, 20):
        layer.refine_(size)
        optimizer.zero_grad()
        loss = layer(x).square().sum()
        loss.backward()
        optimizer.step()
        assert layer.spline_weight.grad.shape == layer.spline_weight.shape
    assert layer.spline_weight.dtype == torch.float64


def test_refinement_is_the_same_from_run_to_run():
    layer = make_layer(3, 3, adaptive=True)
    first, second = layer.refine(7), layer.refine(7)
    assert torch.equal(first.spline_weight, second.spline_weight) and torch.equal(first.grid, second.grid)


def test_sixteen_bits_and_empty_layers():
    layer = KANLinear(2, 2, grid_size=2, dtype=torch.bfloat16)
    refined = layer.refine(8)
    assert refined.spline_weight.dtype == torch.bfloat16 and refined.grid.dtype == torch.float32
    assert KANLinear(0, 2).refine(10).spline_weight.shape == (2, 0, 13)


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (0, ValueError, "grid_size must be at least 1, got 0"),
        (2.5, TypeError, "grid_size must be an int, got 2.5"),
        (10**5, ValueError, "float32 can't tell apart the knots of 100000 spans"),
    ],
)
def test_bad_sizes(size, error, message):
    layer = KANLinear(1, 1, grid_range=(10, 10.01), dtype=torch.float32)
    with pytest.raises(error, match=message):
        layer.refine(size)


def test_parameters_that_are_computed_from_others_are_refused():
    layer = torch.nn.utils.parametrizations.weight_norm(KANLinear(2, 2), "spline_weight")
    with pytest.raises(ValueError, match=r"refine can't move curves.*parametrisation"):
        layer.refine(10)


# Ranges and coverage


def test_every_feature_can_have_a_range_of_its_own():
    layer = KANLinear(2, 3, grid_size=4, grid_range=[(-1, 1), (10, 30)], dtype=torch.float64)
    assert layer.grid_range == ((-1.0, 1.0), (10.0, 30.0))
    assert layer.grid[:, 3].tolist() == [-1, 10]
    assert layer.grid[:, -4].tolist() == [1, 30]
    torch.testing.assert_close(layer.grid.diff(dim=1), torch.tensor([[0.5], [5.0]]).double().expand(2, 10))
    model = KAN([2, 3, 1], grid_range=[(-1, 1), (10, 30)])
    assert [layer.grid_range for layer in model.layers] == [((-1.0, 1.0), (10.0, 30.0)), (-1.0, 1.0)]
    assert KAN([2, 3, 1], grid_range=(0, 2)).layers[1].grid_range == (0.0, 2.0)


@pytest.mark.parametrize("bad", [(1, 1), (0, math.inf), ((0, 1), (2, 2), (0, 1)), ((0, 1), (0, 1)), (0, 1, 2)])
def test_bad_ranges(bad):
    with pytest.raises(ValueError, match=r"grid_range must be \(start, end\).*, got .* each of the 3 features"):
        KANLinear(3, 1, grid_range=bad)


def test_coverage_counts_what_lies_outside():
    layer = KANLinear(2, 1, grid_range=((-1, 1), (0, 4)))
    x = torch.tensor([[[-1.0, 0.0], [1.0, 5.0]], [[1.5, -1.0], [math.nan, 4.0]]])
    assert layer.coverage(x).tolist() == [0.5, 0.5]
    assert layer.coverage(x[:0]).tolist() == [0.0, 0.0]
    model = KAN([2, 3, 1], seed=0)
    x = torch.rand(50, 2) * 4 - 2
    first, second = model.coverage(x)
    torch.testing.assert_close(first, ((x < -1) | (x > 1)).float().mean(0))
    assert second.shape == (3,)
    model.update_grid(x)
    first, second = model.coverage(x)
    assert first.tolist() == [0.0, 0.0]
    assert second.max() < 0.1  # what reaches it now comes from curves that were projected


# Updates on awkward samples


AWKWARD = {
    "constant": torch.full((50,), 0.3),
    "one sample": torch.tensor([0.3]),
    "two values": torch.tensor([0.25, 0.75]).repeat(20),
    "duplicates": torch.linspace(-1, 1, 7).repeat_interleave(9),
    "heavy tails": torch.tan(torch.linspace(-1.5, 1.5, 101)),
    "outliers": torch.cat([torch.linspace(-1, 1, 99), torch.tensor([-1e6, 1e6])]),
}


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("degree", [0, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_updates_and_refinement_after_them_on_awkward_samples(name, degree, dtype):
    layer = KANLinear(1, 2, grid_size=8, spline_order=degree, dtype=dtype)
    x = AWKWARD[name].to(dtype)[:, None]
    layer.update_grid(x)
    weight, again = layer.spline_weight.clone(), copy.deepcopy(layer)
    assert (layer.grid.diff(dim=1) > 0).all() and weight.isfinite().all()
    assert layer.coverage(x).item() == 0
    for size in (16, 11):
        refined = layer.refine(size)
        assert refined(x).isfinite().all()
        assert (refined.grid.diff(dim=1) > 0).all()
    again.update_grid(x)
    layer.update_grid(x)
    assert torch.equal(layer.spline_weight, again.spline_weight) and torch.equal(layer.grid, again.grid)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("value", [0.3, 7.4, -1e6])
def test_a_column_that_is_constant_but_for_rounding_keeps_its_grid(value, dtype):
    x = torch.full((100, 1), value, dtype=dtype)
    noise = x * (1 + torch.finfo(dtype).eps * torch.randint(0, 3, x.shape))
    for samples in (x, noise):
        layer = KANLinear(1, 1, dtype=dtype)
        before = layer.grid.clone()
        layer.update_grid(samples)
        assert torch.equal(layer.grid, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("eps", [0.0, 0.02])
@pytest.mark.parametrize("samples", ["ties", "power", "logarithm"])
def test_coefficients_on_grids_with_narrow_ends_are_of_the_size_of_the_curve(samples, eps, dtype):
    """Those of B-splines that lie beyond a narrow end span were 1e9, and training in float32 diverged."""
    for seed in range(5):
        make = torch.Generator().manual_seed(seed)
        u = torch.rand(200, 2, generator=make, dtype=dtype)
        x = {"ties": u.round(), "power": u**8, "logarithm": (1 + 1e6 * u).log() - 10}[samples]
        layer = KANLinear(2, 3, grid_eps=eps, grid_range=(-12, 12), base="zero", dtype=dtype)
        torch.nn.init.normal_(layer.spline_weight, generator=make)
        size = layer.spline_weight.abs().max()
        layer.update_grid(x)
        assert layer.spline_weight.abs().max() < 30 * size


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-4)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("degree", DEGREES)
def test_an_update_whose_knots_hold_the_old_ones_keeps_the_function(dtype, bound, degree):
    """The move from one grid to another that covers it and can represent every curve."""
    old = grids.uniform_grid(1, 4, degree, (-1, 1)).to(dtype)
    new = grids.uniform_grid(1, 12, degree, (-1.5, 1.5)).to(dtype)  # half as long spans, on both sides beyond
    weight = torch.randn(1, 4 + degree, dtype=dtype)
    layer = KANLinear(1, 1, grid_size=4, spline_order=degree, base="zero", dtype=dtype)
    wide = KANLinear(1, 1, grid_size=12, spline_order=degree, base="zero", dtype=dtype)
    with torch.no_grad():
        layer.grid.copy_(old)
        layer.spline_weight.copy_(weight[None])
        wide.grid.copy_(new)
        wide.spline_weight.copy_((grids.transfer(old, new, degree, "zero")[0] @ weight[0].double())[None, None])
    x = torch.linspace(-1, 0.999, 400, dtype=dtype)[:, None]  # constants jump at the end, x = 1
    assert relative_change(layer(x), wide(x)) <= bound
