"""kan_linear and edge_magnitude: what they accept, and how clearly they refuse the rest."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import kan_fast
from kan_fast import KANLinear, functional
from kan_fast.ops import dispatch, reference
from kan_fast.ops.arguments import grid_dtype
from tests.helpers.problems import make_problem

BACKENDS = [name for name, status in dispatch.backends().items() if status.available]

ARGUMENTS = ("x", "spline_weight", "base_weight", "grid", "bias")


def arguments(**changes: object) -> dict:
    p = make_problem(6, 3, 4)
    return {name: getattr(p, name) for name in ARGUMENTS} | {"spline_order": 3} | changes


@pytest.mark.parametrize("leading", [(), (0,), (5,), (2, 0, 3), (2, 3, 4)], ids=str)
def test_any_leading_dimensions(leading: tuple[int, ...]) -> None:
    p = make_problem(6, 3, 4)
    x = torch.rand(*leading, 3)
    y = functional.kan_linear(**arguments(x=x))
    assert y.shape == (*leading, 4)
    flat = reference.forward(x.reshape(-1, 3), None, p.c, p.bias, p.rows())
    torch.testing.assert_close(y.reshape(-1, 4), flat)
    assert functional.edge_magnitude(**{k: v for k, v in arguments(x=x).items() if k != "bias"}).shape == (4, 3)


def test_callable_base_is_the_named_one() -> None:
    named, called = (functional.kan_linear(**arguments(base=b)) for b in ("silu", torch.nn.functional.silu))
    torch.testing.assert_close(named, called)
    without_bias = {k: v for k, v in arguments().items() if k != "bias"}
    named, called = (
        functional.edge_magnitude(**without_bias | {"base": b}) for b in ("silu", torch.nn.functional.silu)
    )
    torch.testing.assert_close(named, called)


def test_base_zero_and_no_base_weight_are_the_same() -> None:
    a, b = functional.kan_linear(**arguments(base="zero")), functional.kan_linear(**arguments(base_weight=None))
    assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_its_dtype_and_float32_gradients(dtype: torch.dtype) -> None:
    exact = functional.kan_linear(**arguments())
    tensors = arguments()
    tensors["spline_weight"].requires_grad_()
    for x in (tensors["x"], tensors["x"].to(dtype)):
        with torch.autocast("cpu", dtype=dtype):
            y = functional.kan_linear(**tensors | {"x": x})
        assert y.dtype == dtype
        torch.testing.assert_close(y.float(), exact, rtol=2e-2, atol=5e-2)
    y.float().sum().backward()
    assert tensors["spline_weight"].grad.dtype == torch.float32


BAD = {
    "last dimension": ({"x": torch.rand(32, 7)}, ValueError, "expected last dimension 3, got 7 (input shape (32, 7))"),
    "scalar": ({"x": torch.tensor(1.0)}, ValueError, "expected last dimension 3, got a scalar"),
    "integer input": ({"x": torch.ones(2, 3, dtype=torch.long)}, TypeError, "floating point input, got torch.int64"),
    "mixed dtypes": ({"x": torch.rand(2, 3).double()}, TypeError, "torch.float64, the weights have torch.float32"),
    "float64 input": ({"x": torch.rand(2, 3).double()}, TypeError, "torch.float64, the weights have torch.float32"),
    "a list": ({"x": [[1.0, 2.0, 3.0]]}, TypeError, "expected a dense tensor as input, got list; convert it"),
    "sparse": ({"x": torch.eye(3).to_sparse()}, TypeError, "got a tensor of layout torch.sparse_coo"),
    "grid with gradient": ({"grid": torch.rand(3, 12, requires_grad=True)}, ValueError, "knots have no gradient"),
    "devices": ({"x": torch.rand(2, 3, device="meta")}, ValueError, "input is on meta"),
    "grid shape": ({"grid": torch.rand(3, 11)}, ValueError, "(3, 12), got (3, 11)"),
    "grid dtype": ({"grid": torch.rand(3, 12).double()}, TypeError, "grid must have dtype torch.float32"),
    "weight shape": (
        {"spline_weight": torch.rand(4, 3)},
        ValueError,
        "(out, in, grid_size + spline_order), got (4, 3)",
    ),
    "base shape": ({"base_weight": torch.rand(3, 4)}, ValueError, "base_weight must have the shape (4, 3), got (3, 4)"),
    "bias dtype": ({"bias": torch.rand(4).double()}, TypeError, "bias has dtype torch.float64"),
    "degree": ({"spline_order": 6}, ValueError, "spline_order must be 0 to 5, got 6"),
    "negative degree": ({"spline_order": -1}, ValueError, "spline_order must be 0 to 5, got -1"),
    "degree type": ({"spline_order": 3.0}, TypeError, "spline_order must be an int, got 3.0"),
    "base": ({"base": "relu6"}, ValueError, "unknown base 'relu6'; allowed: silu, identity, zero or a callable"),
    "extrapolation": ({"extrapolation": "cubic"}, ValueError, "unknown extrapolation 'cubic'; allowed: zero, linear"),
    "backend": ({"backend": "tpu"}, ValueError, "unknown backend 'tpu'; allowed: cuda, triton, cpu, reference"),
    "backend here": ({"backend": "triton"}, ValueError, "backend 'triton' can't be used here: needs tensors on cuda"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        functional.kan_linear(**arguments(**change))


def test_autocast_does_not_excuse_float64() -> None:
    """It used to hand float64 memory to float32 kernels or the other way around."""
    for change in ({"x": torch.rand(6, 3).double()}, {"spline_weight": torch.rand(4, 3, 8).double()}):
        with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(TypeError, match=r"torch\.float64"):
            functional.kan_linear(**arguments(**change))


@pytest.mark.parametrize("backend", [None, "reference"])
def test_autocast_rounds_once(backend: str | None) -> None:
    p = make_problem(64, 16, 8)
    tensors = {name: getattr(p, name) for name in ARGUMENTS} | {"spline_order": 3, "backend": backend}
    exact = functional.kan_linear(**tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = functional.kan_linear(**tensors)
        del tensors["bias"]
        magnitude = functional.edge_magnitude(**tensors)
    torch.testing.assert_close(rounded, exact.bfloat16())
    torch.testing.assert_close(magnitude, functional.edge_magnitude(**tensors))


def test_backends_and_explain() -> None:
    states = kan_fast.backends()
    assert list(states) == ["cuda", "triton", "cpu", "reference"]
    assert states["reference"].available
    assert all(state.detail for state in states.values())
    layer, x = kan_fast.KANLinear(3, 4), torch.rand(2, 3)
    choice = kan_fast.explain(layer, x)
    assert choice.backend == ("cpu" if states["cpu"].available else "reference")
    assert "triton: needs tensors on cuda, got cpu" in str(choice)
    assert f"{choice.backend}: used" in str(choice)
    layer.backend = "reference"
    assert kan_fast.explain(layer, x).backend == "reference"
    with pytest.raises(TypeError, match="expected a KANLinear, got KAN"):
        kan_fast.explain(kan_fast.KAN([3, 1]), x)
    with pytest.raises(ValueError, match="move them together"):
        kan_fast.explain(layer, x.to("meta"))


def test_reference_serves_what_the_kernels_do_not() -> None:
    def result(backend: str | None) -> Tensor:
        return functional.kan_linear(**arguments(backend=backend))

    torch.testing.assert_close(result(None), result("reference"))


@pytest.mark.parametrize(
    ("available", "dtype", "expected"),
    [
        ({"triton", "cuda"}, torch.float32, "cuda"),
        ({"triton", "cuda"}, torch.bfloat16, "cuda"),
        ({"triton", "cuda"}, torch.float64, "cuda"),
        ({"triton"}, torch.float64, "triton"),
        ({"cuda"}, torch.float16, "cuda"),
        (set(), torch.float32, "reference"),
    ],
)
def test_gpu_tensors_go_to_the_gpu_backends(
    monkeypatch: pytest.MonkeyPatch, available: set[str], dtype: torch.dtype, expected: str
) -> None:
    """On tensors that only pretend to be on a GPU, which run the operators' fakes."""
    for name in ("triton", "cuda"):
        why = None if name in available else "not here"
        monkeypatch.setattr(dispatch.module(name), "unavailable_reason", lambda why=why: why)
    dispatch.choose.cache_clear()
    try:
        choice = dispatch.choose("cuda", dtype)
        assert choice.backend == expected
        assert all(why == "not here" for name, why in choice.refusals.items() if name != "cpu")
        with FakeTensorMode(), torch.no_grad():
            shapes = {"x": (5, 3), "spline_weight": (4, 3, 8), "base_weight": (4, 3), "bias": (4,), "grid": (3, 12)}
            tensors = {name: torch.empty(shape, device="cuda", dtype=dtype) for name, shape in shapes.items()}
            tensors["grid"] = torch.empty(3, 12, device="cuda", dtype=grid_dtype(dtype))
            y = functional.kan_linear(**tensors, spline_order=3)
            assert (y.shape, y.device.type, y.dtype) == ((5, 4), "cuda", dtype)
            with pytest.raises(ValueError, match="input is on cpu"):
                functional.kan_linear(**tensors | {"x": torch.empty(5, 3, dtype=dtype)}, spline_order=3)
    finally:
        dispatch.choose.cache_clear()


@pytest.mark.parametrize("backend", BACKENDS)
def test_features_of_torch_that_the_short_way_must_not_miss(backend: str) -> None:
    layer, x = KANLinear(3, 2, backend=backend), torch.rand(4, 3)
    wanted = torch.autograd.functional.jacobian(layer, x)
    torch.testing.assert_close(torch.autograd.functional.jacobian(layer, x, vectorize=True), wanted)
    torch.testing.assert_close(layer(torch._neg_view(x)), layer(-x))
    layer(x).backward(torch._efficientzerotensor(4, 2))
    assert not layer.bias.grad.any()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit:DeprecationWarning")
def test_trace() -> None:
    layer, x = KANLinear(3, 2), torch.rand(4, 3)
    torch.testing.assert_close(torch.jit.trace(layer, (x,))(-x), layer(-x))
