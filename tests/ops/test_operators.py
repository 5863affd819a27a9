"""torch.ops.kan_fast.*: whatever they are given, they say what is wrong with it, and never read beyond it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import kan_fast  # noqa: F401  # defines them
from kan_fast.ops import dispatch
from tests.helpers.problems import make_problem

BACKENDS = [name for name, status in dispatch.backends().items() if status.available and name in ("cpu", "reference")]
OPERATORS = ("forward", "grad_input", "grad_coef", "backward", "edge_magnitude", "edge_magnitude_backward")


def names_of(operator: str) -> list[str]:
    return [argument.name for argument in getattr(torch.ops.kan_fast, operator).default._schema.arguments]


def right(operator: str, groups: int | None = None, device: str = "cpu", **options: Any) -> dict[str, Any]:
    """Arguments of an operator by name: 6 samples, 3 inputs, 4 outputs, 5 spans."""
    p = make_problem(6, 3, 4)
    tensors = {name: t.to(device) for name, t in vars(p).items() if isinstance(t, Tensor)}
    if groups is not None:
        tensors = {name: t.expand(groups, *t.shape) for name, t in tensors.items()}
    needs = [True] * {"grad_coef": 2, "backward": 4}.get(operator, 0)
    spec = {"degree": 3, "base": "silu", "extrapolation": "zero", "backend": "cpu"}
    given = tensors | {"order": 0, "needs": needs} | spec | options
    return {name: given[name] for name in names_of(operator)}


def call(operator: str, given: dict[str, Any]) -> Any:
    return getattr(torch.ops.kan_fast, operator)(*given.values())


# What is wrong with which argument, the error, and what it says.
WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("x", lambda t: t.double(), TypeError, "dtype"),
    ("x", lambda t: t.long(), TypeError, "must be floating point, got torch.int64"),
    ("x", lambda t: t[0], ValueError, r"must have the shape \(batch, in\) or \(groups, batch, in\), got \(3,\)"),
    ("x", lambda t: None, TypeError, "x must be a tensor, got None"),
    ("x", lambda t: t[None, None], ValueError, r"must have the shape \(batch, in\) or \(groups, batch, in\)"),
    ("x", lambda t: t[None], ValueError, "grid must have the shape"),
    (
        "x",
        lambda t: t[:, :2],
        ValueError,
        r"grid must have the shape .* \(2, grid_size \+ 2 \* degree \+ 1\), got \(3,",
    ),
    ("x", lambda t: t.to_sparse(), TypeError, "x must be a dense tensor, got one of layout torch.sparse_coo"),
    ("grid", lambda t: t[:, :4], ValueError, r"grid must have the shape .* for degree 3 .*got \(3, 4\)"),
    ("grid", lambda t: t[:, :7], ValueError, "grid_size >= 1"),
    ("grid", lambda t: t[:2], ValueError, r"grid must have the shape .*got \(2, 12\)"),
    ("grid", lambda t: t.half(), TypeError, "grid must have dtype torch.float32 where x has torch.float32"),
    ("grid", lambda t: t.to("meta"), ValueError, "grid is on meta, x on cpu; move them together"),
    ("v", lambda t: t[:5], ValueError, r"v must have the shape \(batch, in\) .* \(6, 3\), got \(5, 3\)"),
    ("v", lambda t: t.double(), TypeError, "v must have dtype torch.float32"),
    ("g", lambda t: t[:5], ValueError, r"g must have the shape \(batch, out\)"),
    ("g", lambda t: t.bfloat16(), TypeError, "g must have dtype torch.float32"),
    ("gm", lambda t: t[:, :2], ValueError, r"gm must have the shape \(out, in\)"),
    ("spline_weight", lambda t: t[:, :2], ValueError, r"spline_weight must have .* \(out, 3, 8\), got \(4, 2, 8\)"),
    ("spline_weight", lambda t: t[..., :7], ValueError, r"spline_weight must have .* \(out, 3, 8\), got \(4, 3, 7\)"),
    ("spline_weight", lambda t: t[0], ValueError, "spline_weight must have the shape"),
    ("spline_weight", lambda t: t.double(), TypeError, "spline_weight must have dtype torch.float32"),
    (
        "base_weight",
        lambda t: t[:3],
        ValueError,
        r"base_weight must have the shape \(out, in\) .* \(4, 3\), got \(3, 3\)",
    ),
    ("base_weight", lambda t: t.to("meta"), ValueError, "base_weight is on meta, x on cpu"),
    ("bias", lambda t: t[:3], ValueError, r"bias must have the shape \(out\)"),
    ("order", lambda _: -1, ValueError, "order, of a derivative, must be 0 to 100, got -1"),
    ("order", lambda _: 2**40, ValueError, "order, of a derivative, must be 0 to 100"),
    ("degree", lambda _: -1, ValueError, "spline_order must be 0 to 5, got -1"),
    ("degree", lambda _: 9, ValueError, "spline_order must be 0 to 5, got 9"),
    ("degree", lambda _: 2, ValueError, "spline_weight must have the shape"),
    ("base", lambda _: "tanh", ValueError, "unknown base 'tanh'; allowed: silu, identity, zero"),
    ("extrapolation", lambda _: "none", ValueError, "unknown extrapolation 'none'; allowed: zero, linear, clamp"),
    ("backend", lambda _: "fpga", ValueError, "unknown backend 'fpga'; allowed: cuda, triton, cpu, reference"),
    ("backend", lambda _: "triton", ValueError, "backend 'triton' can't be used here: .*; 'reference' always can"),
    ("needs", lambda needs: needs[1:], ValueError, "needs must have [24] bools, got"),
]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_wrong_arguments_are_refused(operator: str, backend: str, device: str) -> None:
    """Also where only shapes are computed."""
    for name, change, error, message in WRONG:
        given = right(operator, device=device, backend=backend)
        on_cpu = "meta" in message or name == "backend" or "sparse" in message  # is about devices
        only_splines = name == "degree" and "spline_weight" not in given
        if name not in given or only_splines or (device == "meta" and on_cpu):
            continue
        with pytest.raises(error, match=message):
            call(operator, given | {name: change(given[name])})


@pytest.mark.parametrize("operator", sorted(set(OPERATORS) - {"grad_coef"}))
def test_a_layer_without_any_rows_is_refused(operator: str) -> None:
    with pytest.raises(ValueError, match="needs spline_weight, base_weight or both, got neither"):
        call(operator, right(operator, spline_weight=None, base_weight=None))


@pytest.mark.parametrize("operator", OPERATORS)
def test_groups_must_be_those_of_x(operator: str) -> None:
    given = right(operator, groups=2)
    call(operator, given)
    for name, value in given.items():
        if isinstance(value, Tensor):
            with pytest.raises(ValueError, match="must have the shape"):
                call(operator, given | {name: value[:1]})


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("groups", [None, 0, 2])
def test_fakes_give_the_shapes(operator: str, groups: int | None) -> None:
    shapes = [
        [t.shape for t in (got if isinstance(got, (tuple, list)) else (got,))]
        for got in (call(operator, right(operator, groups, device)) for device in ("cpu", "meta"))
    ]
    assert shapes[0] == shapes[1]


def test_wrong_shapes_are_refused_while_a_program_is_traced() -> None:
    given = right("forward")
    wrong = given["spline_weight"][:, :2]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = {name: mode.from_tensor(t) if isinstance(t, Tensor) else t for name, t in given.items()}
        assert call("forward", fakes).shape == (6, 4)
        with pytest.raises(ValueError, match=r"spline_weight must have the shape .* \(out, 3, 8\), got \(4, 2, 8\)"):
            call("forward", fakes | {"spline_weight": mode.from_tensor(wrong)})


def test_arguments_by_name() -> None:
    given = right("forward")
    assert torch.equal(torch.ops.kan_fast.forward(**given), call("forward", given))
