"""KANLinear keeps nn.Linear's contract."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
import torch
import torch.nn.utils.prune
from scipy.interpolate import BSpline
from torch import nn

from kan_fast import KANLinear


@pytest.mark.parametrize("degree", [0, 1, 3, 5])
def test_is_the_formula_of_the_paper(degree: int) -> None:
    """y = sum_i w silu(x_i) + spline(x_i), with scipy's splines."""
    layer = KANLinear(2, 3, grid_size=4, spline_order=degree, dtype=torch.float64)
    with torch.no_grad():
        layer.bias.normal_()
        layer.spline_weight.normal_()
    x = torch.rand(50, 2, dtype=torch.float64) * 2 - 1
    expected = layer.bias + torch.nn.functional.silu(x) @ layer.base_weight.T
    for i in range(2):
        splines = BSpline(layer.grid[i].numpy(), layer.spline_weight[:, i].T.detach().numpy(), degree)
        expected = expected + torch.from_numpy(splines(x[:, i].numpy()))
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)


def test_parameters_and_buffers_have_the_conventional_shapes() -> None:
    layer = KANLinear(3, 4, grid_size=7, spline_order=2, grid_range=(0, 2))
    shapes = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    assert shapes == {"spline_weight": (4, 3, 9), "base_weight": (4, 3), "bias": (4,), "grid": (3, 12)}
    assert all(parameter.is_contiguous() for parameter in layer.parameters())
    torch.testing.assert_close(layer.grid[0, 2:-2], torch.linspace(0, 2, 8))
    assert set(KANLinear(3, 4, bias=False, base="zero").state_dict()) == {"spline_weight", "grid"}


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_initialisation_keeps_the_scale_through_depth(depth: int) -> None:
    x = torch.rand(256, 64) * 2 - 1
    with torch.no_grad():
        scales = []
        for seed in range(16):
            torch.manual_seed(seed)
            net = nn.Sequential(*(KANLinear(64, 64) for _ in range(depth)))
            scales.append(net(x).square().mean().sqrt() / x.square().mean().sqrt())
    assert 0.7 < torch.stack(scales).median() < 1.5


@pytest.mark.parametrize("base", ["silu", "identity", torch.tanh], ids=str)
@pytest.mark.parametrize("grid_range", [(-1, 1), (-10, 10), (0, 1)], ids=str)
def test_initialisation_knows_base_and_range(base: object, grid_range: tuple[float, float]) -> None:
    low, high = grid_range
    x = low + (high - low) * torch.rand(512, 128)
    y = KANLinear(128, 128, base=base, grid_range=grid_range)(x)
    assert 0.75 < y.square().mean().sqrt() / x.square().mean().sqrt() < 1.33


def test_initialisation_uses_the_global_generator_as_nn_linear_does() -> None:
    torch.manual_seed(3)
    a = KANLinear(4, 5)
    torch.manual_seed(3)
    b = KANLinear(4, 5)
    assert torch.equal(a.spline_weight, b.spline_weight)
    before = a.spline_weight.clone()
    a.reset_parameters()
    assert not torch.equal(before, a.spline_weight)


def test_copies_and_files(tmp_path: object) -> None:
    layer, x = KANLinear(3, 4, extrapolation="linear"), torch.rand(5, 3)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(copy.deepcopy(layer)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), y)
    torch.save(layer.state_dict(), tmp_path / "state.pt")
    other = KANLinear(3, 4, extrapolation="linear")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other(x), y)


def test_state_of_another_size_is_refused_with_its_sizes() -> None:
    state = {"0." + name: t for name, t in KANLinear(3, 4, grid_size=10, spline_order=2).state_dict().items()}
    with pytest.raises(
        RuntimeError,
        match=re.escape(
            "0: the state is of a layer with in_features=3, out_features=4, grid_size=10, spline_order=2, this one has"
        ),
    ):
        nn.Sequential(KANLinear(3, 4)).load_state_dict(state)


def test_state_of_another_function_is_refused() -> None:
    state = KANLinear(3, 4, base="identity", extrapolation="clamp").state_dict()
    with pytest.raises(
        RuntimeError, match=r"base=identity, extrapolation=clamp, this one has base=silu, extrapolation=linear"
    ):
        KANLinear(3, 4).load_state_dict(state)
    plain = dict(state)  # without metadata, as from another library
    KANLinear(3, 4).load_state_dict(plain)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_keep_the_knots(dtype: torch.dtype) -> None:
    layer = KANLinear(3, 4, grid_size=50)
    knots = layer.grid.clone()
    layer.to(dtype)
    assert layer.spline_weight.dtype == dtype
    assert layer.grid.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(layer.grid.float(), knots)
    assert layer(torch.rand(5, 3, dtype=dtype)).dtype == dtype
    assert KANLinear(3, 4, dtype=dtype).grid.dtype == layer.grid.dtype


def test_meta_device() -> None:
    layer = KANLinear(3, 4, device="meta")
    assert layer(torch.rand(5, 3, device="meta")).shape == (5, 4)
    with torch.device("meta"):
        assert KANLinear(3, 4).grid.is_meta
    real = layer.to_empty(device="cpu")
    real.reset_parameters()
    assert torch.equal(real.grid, KANLinear(3, 4).grid)
    assert real(torch.rand(5, 3)).isfinite().all()
    real.load_state_dict(KANLinear(3, 4).state_dict())


def test_repr() -> None:
    assert repr(KANLinear(3, 4)) == (
        "KANLinear(in_features=3, out_features=4, bias=True, grid_size=5, spline_order=3, grid_range=(-1.0, 1.0), "
        "base=silu, extrapolation=linear)"
    )
    assert "grid_range=(-2.0, 5.0)" in repr(KANLinear(2, 4, grid_range=[(-2, 0), (1, 5)]))
    assert "base=sin, extrapolation=clamp, backend=reference" in repr(
        KANLinear(3, 4, base=torch.sin, extrapolation="clamp", backend="reference")
    )


BAD = {
    "grid_size": ({"grid_size": 0}, ValueError, "grid_size must be at least 1, got 0"),
    "indistinct knots": ({"grid_range": (1e6, 1e6 + 1), "grid_size": 200}, ValueError, "can't tell apart the knots"),
    "bool": ({"in_features": True}, TypeError, "in_features must be an int, got True"),
    "grid_size type": ({"grid_size": 2.5}, TypeError, "grid_size must be an int, got 2.5"),
    "negative features": ({"in_features": -1}, ValueError, "in_features must be at least 0, got -1"),
    "degree": ({"spline_order": 6}, ValueError, "spline_order must be 0 to 5, got 6"),
    "decreasing range": ({"grid_range": (1, -1)}, ValueError, "finite start < end, got (1, -1)"),
    "infinite range": ({"grid_range": (0, float("inf"))}, ValueError, "finite start < end"),
    "base": ({"base": "gelu"}, ValueError, "unknown base 'gelu'"),
    "extrapolation": ({"extrapolation": "none"}, ValueError, "unknown extrapolation 'none'"),
    "backend": ({"backend": "gpu"}, ValueError, "unknown backend 'gpu'"),
    "eps": ({"grid_eps": 2}, ValueError, "grid_eps must be between 0 (quantiles) and 1 (uniform), got 2"),
    "dtype": ({"dtype": torch.int32}, TypeError, "dtype must be one of torch.float64"),
}


@pytest.mark.parametrize(("options", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        KANLinear(**{"in_features": 3, "out_features": 4} | options)


def test_sizes_may_be_numpy_integers() -> None:
    assert KANLinear(np.int64(3), np.int32(4), grid_size=np.int64(6))(torch.rand(2, 3)).shape == (2, 4)


@pytest.mark.parametrize("base", [nn.PReLU(), torch.exp, torch.log], ids=["module", "exp", "log"])
@pytest.mark.parametrize("grid_range", [(-1, 1), (-1000, 1000)], ids=str)
def test_any_callable_is_a_base(base: object, grid_range: tuple[float, float]) -> None:
    layer = KANLinear(3, 4, base=base, grid_range=grid_range)
    assert layer.base_weight.isfinite().all()
    assert layer.base_weight.any()
    assert layer(torch.rand(5, 3)).isfinite().all()


def test_lbfgs_and_vectors_of_parameters_work() -> None:
    layer, x = KANLinear(2, 1), torch.rand(64, 2) * 2 - 1
    y = (x[:, :1] * x[:, 1:]).sin()
    optimiser = torch.optim.LBFGS(layer.parameters(), line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = (layer(x) - y).square().mean()
        loss.backward()
        return loss

    first = closure().item()
    optimiser.step(closure)
    assert closure().item() < 0.5 * first
    assert nn.utils.parameters_to_vector(layer.parameters()).shape == (sum(p.numel() for p in layer.parameters()),)


def test_update_grid_preserves_the_function_and_follows_the_samples() -> None:
    layer = KANLinear(2, 3, grid_size=20, dtype=torch.float64, grid_range=(-3, 3))
    with torch.no_grad():  # a cubic polynomial is in the spline space of every grid
        knots = layer.grid
        sites = torch.stack([knots[:, j : j + 3].mean(1)[..., None] for j in range(1, 24)], 1)  # Greville points
        layer.spline_weight.copy_(sites.squeeze(-1).expand(3, -1, -1))  # the identity, exactly
    x = torch.randn(500, 2, dtype=torch.float64).clamp(-2.5, 2.5)
    before = layer(x)
    layer.update_grid(x)
    torch.testing.assert_close(layer(x), before, atol=1e-12, rtol=0)
    counts = torch.stack(
        [torch.histc(x[:, 0][(x[:, 0] >= a) & (x[:, 0] <= b)], 1) for a, b in layer.grid[0, 3:-3].unfold(0, 2, 1)]
    )
    assert counts.min() > 5  # quantiles: no span is empty
    again = layer.grid.clone()
    layer.update_grid(x)
    torch.testing.assert_close(layer.grid, again)


@pytest.mark.parametrize(
    "column",
    [[0.3] * 9, [0.3, 0.7] * 5, [0.3], [1e6, *torch.linspace(-1, 1, 50).tolist()], [1e6, 1e6 + 1], [0.0, 1e-40]],
    ids=["constant", "two values", "one sample", "outlier", "far from zero", "denormal"],
)
@pytest.mark.parametrize("eps", [0.0, 0.02, 1.0])
def test_update_grid_survives_degenerate_samples(column: list[float], eps: float) -> None:
    layer = KANLinear(1, 2, grid_size=8)
    x = torch.tensor(column)[:, None]
    layer.update_grid(x, eps=eps)
    assert (layer.grid.diff(dim=1) > 0).all()
    assert layer.spline_weight.isfinite().all()
    assert layer(x).isfinite().all()


@pytest.mark.parametrize("size", [5, 20])
def test_functions_are_kept_where_samples_repeat(size: int) -> None:
    changes = []
    for seed in range(10):
        torch.manual_seed(seed)
        layer = KANLinear(1, 4, grid_size=size, grid_eps=0.0, grid_range=(-0.1, 1.1)).double()
        torch.nn.init.normal_(layer.spline_weight)
        x = torch.randint(4, (400, 1)) / torch.tensor(3.0, dtype=torch.float64)
        before = layer(x)
        layer.update_grid(x)
        spans = layer.grid[:, 3:-3].diff()
        assert spans.min() > 0.0199 * spans.mean()
        changes.append(((layer(x) - before).square().mean().sqrt() / before.std()).item())
    assert np.mean(changes) < 0.03  # 0.08 and 0.5 with short spans of the weight of their widths


def test_update_grid_can_leave_out_outliers() -> None:
    layer = KANLinear(3, 2, grid_size=4).double()
    x = torch.rand(1000, 3, dtype=torch.float64)
    x[:5, 0], x[5:10, 0] = 1e6, -1e6
    x[5:, 1] = 0  # constant but for five samples
    layer.update_grid(x, eps=0.0, trim=0.01)
    start, end = layer.grid[:, 3], layer.grid[:, -4]
    expected = torch.from_numpy(np.quantile(x.numpy(), [0.01, 0.99], axis=0))
    expected[:, 1] = torch.tensor([x[:, 1].min(), x[:, 1].max()])
    torch.testing.assert_close(torch.stack([start, end]), expected, atol=1e-5, rtol=0)


def test_update_grid_refuses_bad_samples() -> None:
    layer = KANLinear(2, 3)
    with pytest.raises(ValueError, match="at least one sample"):
        layer.update_grid(torch.empty(0, 2))
    with pytest.raises(ValueError, match="finite samples"):
        layer.update_grid(torch.tensor([[0.0, float("nan")]]))
    with pytest.raises(ValueError, match=r"overflow torch\.float32; scale the data"):
        layer.update_grid(torch.tensor([[-3e38, 0.0], [3e38, 1.0]]))
    for samples in (torch.tensor(1.0), [[0.0, 1.0]]):
        with pytest.raises(TypeError, match="expected samples"):
            layer.update_grid(samples)
    x = torch.rand(9, 2)
    for options in ({"eps": 7.0}, {"eps": float("nan")}, {"margin": -0.1}, {"margin": float("nan")}, {"trim": 0.5}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            layer.update_grid(x, **options)
    nn.utils.prune.identity(layer, "spline_weight")
    before = layer.grid.clone()
    with pytest.raises(ValueError, match="computed from other parameters"):
        layer.update_grid(x)
    assert torch.equal(layer.grid, before)


@pytest.mark.parametrize(("size", "reach"), [(1e-300, 1e300), (1e-300, 1e150), (1e-30, 1e300)])
def test_a_base_that_is_tiny_on_a_large_range(size, reach):
    with pytest.raises(ValueError, match=r"overflow torch\.float64; scale the data"):
        KANLinear(3, 2, grid_range=(-reach, reach), base=lambda x: size * torch.tanh(x), dtype=torch.float64)
