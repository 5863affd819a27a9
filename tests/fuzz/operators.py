"""Random calls of torch.ops.kan_fast.*, compared with the reference in float64."""

from __future__ import annotations

import math
import random
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import kan_fast  # noqa: F401  # defines the operators
from kan_fast.ops import native, reference
from kan_fast.ops.contract import Coefficients, Rows, Spec
from tests.fuzz import values

NAMES = ("forward", "grad_input", "grad_coef", "backward", "edge_magnitude", "edge_magnitude_backward")
NEEDS = {"grad_coef": 2, "backward": 4}
ISAS = [*native.isas(), None]


def call(choose: random.Random) -> str:
    operator = choose.choice(NAMES)
    given = arguments(choose, operator)
    if choose.random() < 0.5:
        for _ in range(choose.randrange(1, 3)):
            spoil(choose, given)
    isa = choose.choice(ISAS)
    results = run(operator, given, isa)
    if any(t.is_meta for t in results):
        return "shapes"
    if operator == "edge_magnitude_backward" or given.get("order", 0) > given["degree"] + 1:
        return "result"  # where phi is 0 to rounding, its sign is a matter of luck
    compare(operator, given, results)
    return "right"


def run(operator: str, given: dict[str, Any], isa: str | None = None) -> tuple[Tensor, ...]:
    function = getattr(torch.ops.kan_fast, operator)
    if isa is None:
        results = function(*given.values())
    else:
        with native.use_isa(isa):
            results = function(*given.values())
    return (results,) if isinstance(results, Tensor) else tuple(results)


def arguments(choose: random.Random, operator: str) -> dict[str, Any]:
    """Right ones, by name."""
    batch, features, outs, size, degree = values.sizes(choose)
    dtype = choose.choice(values.DTYPES)
    groups = choose.choice((None, None, None, None, 0, 1, 3))
    grid = values.knots(choose, features, size, degree, torch.float64 if dtype == torch.float64 else torch.float32)
    dimensions = {
        "v": (batch, features),
        "g": (batch, outs),
        "gm": (outs, features),
        "spline_weight": (outs, features, size + degree),
        "base_weight": (outs, features),
        "bias": (outs,),
    }
    tensors: dict[str, Any] = {name: values.numbers(choose, shape, dtype) for name, shape in dimensions.items()}
    tensors |= {"grid": grid, "x": values.inputs(choose, batch, grid, dtype)}
    for name in ("v", "bias", choose.choice(("spline_weight", "base_weight"))):
        if choose.random() < 0.3:
            tensors[name] = None
    if groups is not None:
        tensors = {name: t if t is None else t.expand(groups, *t.shape) for name, t in tensors.items()}
    given = tensors | {
        "order": choose.choice((0, 0, 0, 1, 2, 3, 20)),
        "needs": [choose.random() < 0.7 for _ in range(NEEDS.get(operator, 0))],
        "degree": degree,
        "base": choose.choice(("silu", "identity", "zero")),
        "extrapolation": choose.choice(("zero", "linear", "clamp")),
        "backend": choose.choice(("cpu", "cpu", "cpu", "cpu", "reference")),
    }
    schema = getattr(torch.ops.kan_fast, operator).default._schema.arguments
    return {argument.name: given[argument.name] for argument in schema}


def spoil(choose: random.Random, given: dict[str, Any]) -> None:
    """Replace an argument by another one, most often a wrong one."""
    name = choose.choice(list(given))
    value = given[name]
    if isinstance(value, Tensor) or value is None:
        like = value if isinstance(value, Tensor) else torch.randn(3, 2)
        given[name] = choose.choice((1, "x", [])) if choose.random() < 0.05 else values.wrong_tensor(choose, like)
    elif isinstance(value, list):
        given[name] = choose.choice(([], value[1:], [*value, True], [1, 2, 3]))
    elif isinstance(value, int):
        given[name] = choose.choice((-1, 0, 1, 5, 6, 9, 21, 22, 100, 2**31, 2**40, -(2**62)))
    else:
        given[name] = choose.choice(("", "cuda", "triton", "cpu", "silu", "linear", "\N{SNOWMAN}" * 3, "zero"))
    if name == "order" and given["backend"] == "reference" and given[name] > 25:
        given[name] = 25  # takes too long


def exact(operator: str, given: dict[str, Any]) -> tuple[Tensor, ...]:
    """The reference in float64, group by group."""
    groups = given["x"].shape[0] if given["x"].dim() == 3 else None
    if groups is not None:
        parts = [
            exact(operator, {name: t[i] if isinstance(t, Tensor) else t for name, t in given.items()})
            for i in range(groups)
        ]
        return tuple(map(torch.stack, zip(*parts, strict=True)))
    rest = {name: t.double() if isinstance(t, Tensor) else t for name, t in given.items()}
    spec = Spec(*(rest.pop(name) for name in ("degree", "base", "extrapolation")))
    rest["rows"] = Rows(rest.pop("grid"), rest.pop("order", 0), spec)
    if "spline_weight" in rest:
        rest["c"] = Coefficients(rest.pop("spline_weight"), rest.pop("base_weight"))
    del rest["backend"]
    results = getattr(reference, operator)(**rest)
    return (results,) if isinstance(results, Tensor) else tuple(results)


def compare(operator: str, given: dict[str, Any], results: tuple[Tensor, ...]) -> None:
    """To the rounding errors that sums of such terms can have."""
    wanted = exact(operator, given) if given["x"].dim() == 2 or len(given["x"]) else results
    positive = {
        name: t.abs() if isinstance(t, Tensor) and name not in ("x", "grid") else t for name, t in given.items()
    }
    basis, base = reference.basis, reference.base_function
    # A row is a polynomial whose terms are as large as this, also where it is 0.
    terms = (1 / given["grid"].double().diff(dim=-1).amin()) ** given.get("order", 0) if given["grid"].numel() else 1
    with (
        mock.patch.object(reference, "basis", lambda *a: basis(*a).abs() + terms),
        mock.patch.object(
            reference, "base_function", lambda *a: base(*a).abs() + (a[0].abs() if a[1] == "silu" else 0)
        ),
    ):
        scales = exact(operator, positive) if given["x"].dim() == 2 or len(given["x"]) else results
    eps = torch.finfo(results[0].dtype).eps
    for got, want, scale in zip(results, wanted, scales, strict=True):
        assert got.shape == want.shape, (got.shape, want.shape)
        numbers = torch.finfo(got.dtype)
        # Rows of neighbours are as large as the largest one nearby, and have its errors.
        most = scale.abs().amax() if scale.numel() else torch.zeros(())
        if not want.isfinite().all() or not most < numbers.max / 1e4 or _condition(given) > 1e3:
            continue
        steepest = (given["degree"] + 1.0) ** 3 * _condition(given) * (1 + given.get("order", 0)) ** 2
        allowed = 32 * eps * steepest * most + numbers.tiny * 1e3
        error = (got.double() - want).abs().max() if got.numel() else 0
        assert error <= allowed, f"{operator}: error {error:.3g}, allowed {allowed:.3g}"


def _condition(given: dict[str, Any]) -> float:
    """How much rounding the knots and inputs moves samples within their spans."""
    grid = given["grid"].double()
    if not grid.numel():
        return 1.0
    if not (grid.diff(dim=-1) > 0).all():
        return math.inf  # nothing is promised
    return float(1 + (grid.abs().amax(-1) / grid.diff(dim=-1).amin(-1)).max())
