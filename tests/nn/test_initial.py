"""The schemes of initial parameters, against sums over samples and scipy's splines."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from kan_fast import KAN, KANLinear
from kan_fast.nn.initial import SCHEMES

FAN_IN, FAN_OUT = 300, 200


def deviations(init: str, **options: object) -> tuple[float, float]:
    """Of base weights and spline weights, as drawn."""
    layer = KANLinear(FAN_IN, FAN_OUT, init=init, dtype=torch.float64, **options)
    assert layer.base_weight is not None
    return layer.base_weight.std().item(), layer.spline_weight.std().item()


def moments(size: int, degree: int) -> tuple[float, float]:
    """Mean squares of splines on [-1, 1] and of their slopes, over uniform x, from scipy."""
    knots = -1 + 2 * np.arange(-degree, size + degree + 1) / size
    x = np.linspace(-1, 1, 20001)[:-1] + 5e-5
    splines = [BSpline(knots, np.eye(size + degree)[r], degree) for r in range(size + degree)]
    return tuple(np.mean([s(x, order) ** 2 for s in splines]) for order in (0, 1))  # type: ignore[return-value]


def of_the_paper(init: str, size: int, degree: int) -> tuple[float, float]:
    """Equations of arXiv 2509.03417 and 2404.19756 for the identity as base function and x in [-1, 1]."""
    power, functions = 1 / 3, size + degree + 1
    spline, slope = moments(size, degree)
    if init == "xavier":
        return math.sqrt(2 / (FAN_IN + FAN_OUT)), 0.1 / size
    if init == "lecun":
        return tuple(math.sqrt(power / (FAN_IN * functions * m)) for m in (power, spline))  # type: ignore[return-value]
    if init == "glorot":
        base = math.sqrt(2 * power / (functions * (FAN_IN * power + FAN_OUT * power)))
        return base, math.sqrt(2 * power / (functions * (FAN_IN * spline + FAN_OUT * slope * power)))
    if init == "power":
        return (FAN_IN * functions) ** -0.25, (FAN_IN * functions) ** -1.75
    return math.sqrt(1 / FAN_IN), 0.1 * math.sqrt(power / FAN_IN)


@pytest.mark.parametrize(("size", "degree"), [(5, 3), (1, 1), (8, 2)])
@pytest.mark.parametrize("init", SCHEMES)
def test_deviations_are_those_of_the_papers(init: str, size: int, degree: int) -> None:
    got = deviations(init, base="identity", grid_size=size, spline_order=degree)
    assert got == pytest.approx(of_the_paper(init, size, degree), rel=0.02)


@pytest.mark.parametrize("init", SCHEMES)
def test_schemes_scale_with_the_range(init: str) -> None:
    base, spline = deviations(init, base="identity")
    for scale in (1e-3, 1e100):
        scaled = deviations(init, base="identity", grid_range=(-scale, scale))
        assert scaled == pytest.approx((base, spline * scale), rel=0.02)


@pytest.mark.parametrize("init", SCHEMES)
@pytest.mark.parametrize("base", ["silu", torch.nn.functional.silu, torch.sign], ids=["silu", "callable", "sign"])
def test_base_functions_have_the_mean_squares_of_their_values_and_slopes(init: str, base: object) -> None:
    x = torch.randn(1_000_000, dtype=torch.float64) / math.sqrt(3)
    x.requires_grad_()
    y = torch.sign(x) if base is torch.sign else torch.nn.functional.silu(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    ratio, slope_power = y.square().mean().item() * 3, slope.square().mean().item()
    expected = {
        "variance": 1 / math.sqrt(FAN_IN * ratio),
        "xavier": math.sqrt(2 / (FAN_IN + FAN_OUT)),
        "lecun": 1 / math.sqrt(FAN_IN * 9 * ratio),
        "glorot": math.sqrt(2 / (9 * (FAN_IN * ratio + FAN_OUT * slope_power))),
        "power": (FAN_IN * 9) ** -0.25,
    }
    assert deviations(init, base=base)[0] == pytest.approx(expected[init], rel=0.02)


@pytest.mark.parametrize("init", SCHEMES)
def test_a_network_and_its_file_keep_the_scheme(init: str, tmp_path) -> None:
    model = KAN([2, 3, 1], seed=0, init=init)
    model.save(tmp_path / "model.kan")
    again = KAN.load(tmp_path / "model.kan")
    assert [layer.init for layer in again.layers] == [init, init]
    torch.manual_seed(0)
    model.layers[0].reset_parameters()
    torch.manual_seed(0)
    again.layers[0].reset_parameters()
    assert torch.equal(model.layers[0].spline_weight, again.layers[0].spline_weight)


def test_an_unknown_scheme_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match="unknown init 'kaiming'; allowed: variance, xavier, lecun, glorot, power"):
        KANLinear(2, 3, init="kaiming")


def test_schemes_that_need_no_slopes_evaluate_the_base_function_alone() -> None:
    def base(x: torch.Tensor) -> torch.Tensor:
        assert not x.requires_grad
        return torch.from_numpy(np.sin(x.numpy()))

    for init in SCHEMES:
        if init != "glorot":
            KANLinear(2, 3, init=init, base=base)
