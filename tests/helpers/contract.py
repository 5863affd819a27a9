"""The contract of every backend, as checks: calls of its functions, and the rule of accuracy for their results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from kan_fast.ops import dispatch, reference
from kan_fast.ops.contract import ALL, Coefficients
from tests.helpers.problems import Problem, assert_as_accurate, make_problem
from yardstick import DoubleDouble, exact_for
from yardstick.double_double import stack

CALLS: dict[str, Callable[..., object]] = {
    "forward": lambda m, p, d: m.forward(p.x, None, p.c, p.bias, p.rows(d)),
    "forward_v": lambda m, p, d: m.forward(p.x, p.v, p.c, None, p.rows(d)),
    "grad_input": lambda m, p, d: m.grad_input(p.x, p.g, p.c, p.rows(d)),
    "grad_coef": lambda m, p, d: m.grad_coef(p.x, None, p.g, p.rows(d), (True, True)),
    "grad_coef_v": lambda m, p, d: m.grad_coef(p.x, p.v, p.g, p.rows(d), (True, True)),
    "backward": lambda m, p, d: m.backward(p.x, p.v, p.g, p.c, p.rows(d), ALL),
    "edge_magnitude": lambda m, p, d: m.edge_magnitude(p.x, p.c, p.rows()),
    "edge_magnitude_backward": lambda m, p, d: m.edge_magnitude_backward(p.x, p.gm, p.c, p.rows()),
}

SHAPES = [(7, 3, 3), (7, 257, 1), (1000, 1, 64), (7, 64, 257), (1000, 3, 5), (65, 33, 130), (1, 64, 64)]

steep_problems = pytest.mark.parametrize(
    ("order", "extrapolation", "dtype"),
    [
        pytest.param(order, extrapolation, dtype, id=f"{order}-{extrapolation}-{str(dtype).removeprefix('torch.')}")
        for order, extrapolation in ((0, "zero"), (0, "linear"), (1, "zero"), (2, "clamp"))
        for dtype in (torch.bfloat16, torch.float16)
    ],
)


def as_tuple(result: object) -> tuple:
    return result if isinstance(result, tuple) else (result,)


def judged(backend: str, p: Problem) -> tuple[tuple[ModuleType, Problem], ...]:
    """Who computes what for the rule of accuracy: the backend, plain torch in the same dtype, and the yardstick."""
    dtype = p.x.dtype
    return (dispatch.module(backend), p), (reference, p.to(dtype)), (exact_for(dtype), p.to(torch.float64))


def results(
    backend: str, p: Problem, name: str, order: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor | DoubleDouble]]:
    """What a call returns: from the backend, from plain torch, and exactly."""
    outputs = (as_tuple(CALLS[name](module, problem, order)) for module, problem in judged(backend, p))
    for a, b, c in zip(*outputs, strict=True):
        assert a.dtype == p.x.dtype
        assert a.is_contiguous()
        yield a, b, c


def check(backend: str, p: Problem, orders: tuple[int, ...] = (0,), edges: bool = True) -> None:
    for order in orders:
        for name in CALLS:
            if name.startswith("edge") and (order or not edges):
                continue
            for i, (a, b, c) in enumerate(results(backend, p, name, order)):
                assert_as_accurate(a, b, c, f"{name}[{i}], d = {order}")


def check_calls(
    backend: str, p: Problem, order: int, names: tuple[str, ...] = ("forward", "grad_input", "grad_coef")
) -> None:
    """The rule of accuracy for some of the functions."""
    for name in names:
        for a, b, c in results(backend, p, name, order):
            assert_as_accurate(a, b, c, f"{name}, d = {order}")


def check_one_edge(backend: str, dtype: torch.dtype, name: str, adaptive: bool, seeds: int = 32) -> None:
    """Judges many problems together, because the error of a single number is a matter of luck."""
    problems = (make_problem(1, 1, 1, dtype=dtype, adaptive=adaptive, seed=seed) for seed in range(seeds))
    for numbers in zip(*(results(backend, p, name) for p in problems), strict=True):
        a, b, c = zip(*numbers, strict=True)
        assert_as_accurate(torch.stack(a), torch.stack(b), stack([DoubleDouble.of(t) for t in c]), name)


def check_rows_and_results_left_out(backend: str, dtype: torch.dtype, keep: tuple[bool, bool]) -> None:
    p = make_problem(33, 4, 6, dtype=dtype)

    def outputs(m: ModuleType, q: Problem) -> tuple[Tensor, ...]:
        c = Coefficients(q.spline_weight if keep[0] else None, q.base_weight if keep[1] else None)
        return (
            m.forward(q.x, q.v, c, None, q.rows()),
            m.grad_input(q.x, q.g, c, q.rows(1)),
            *m.grad_coef(q.x, None, q.g, q.rows(), keep),
            *m.backward(q.x, None, q.g, c, q.rows(), (keep[1], *keep, keep[0])),
            m.edge_magnitude(q.x, c, q.rows()),
            *m.edge_magnitude_backward(q.x, q.gm, c, q.rows()),
        )

    for a, b, c in zip(*(outputs(*pair) for pair in judged(backend, p)), strict=True):
        assert_as_accurate(a, b, c)


def check_nan_and_infinity_stay_in_their_sample(
    backend: str, dtype: torch.dtype, grid_size: int, degree: int, extrapolation: str, shape: tuple[int, int, int]
) -> None:
    p = make_problem(*shape, grid_size, degree, dtype=dtype, extrapolation=extrapolation)
    module = dispatch.module(backend)
    clean = module.forward(p.x, None, p.c, p.bias, p.rows())
    rows = {3: torch.nan, 17: torch.inf, 30: -torch.inf}
    for row, value in rows.items():
        p.x[row, 2] = value
    for c in (p.c, p.c._replace(base=None)):
        for order in (0, 1):
            arguments = (p.x, None, c, None, p.rows(order))
            got, expected = module.forward(*arguments)[list(rows)], reference.forward(*arguments)[list(rows)]
            if extrapolation == "linear" and not order:  # NaN, or infinite where the slopes allow it
                assert not got.isfinite().any()
            else:
                torch.testing.assert_close(got, expected, equal_nan=True, rtol=1e-2, atol=1e-2)
            gx = module.grad_input(p.x, p.g, c, p.rows(order))
            others = torch.ones_like(gx, dtype=torch.bool)
            others[list(rows), 2] = False
            assert gx[others].isfinite().all()
    got = module.forward(p.x, None, p.c, p.bias, p.rows())
    untouched = torch.tensor([row not in rows for row in range(len(p.x))])
    assert torch.equal(got[untouched], clean[untouched])


def check_large_rows_that_cancel(backend: str, order: int, extrapolation: str, dtype: torch.dtype) -> None:
    """Neighbouring coefficients of a trained function are close, so its slope is a small sum of large terms."""
    p = make_problem(32, 4, 32, 50, extrapolation=extrapolation, dtype=dtype)
    phase = torch.rand(32, 4, 1) * 6
    p.spline_weight = torch.sin(torch.linspace(-2, 2, 53) + phase).to(dtype)
    p.x = torch.randn(32, 4).to(dtype)
    call, exact = CALLS["forward_v"], p.to(torch.float64)
    got, plain, exact = (
        call(m, q, order) for m, q in ((dispatch.module(backend), p), (reference, p), (reference, exact))
    )
    rms, plain_rms = ((y.double() - exact).square().mean().sqrt() for y in (got, plain))
    assert rms <= 2 * plain_rms


def check_any_strides(backend: str, dtype: torch.dtype) -> None:
    """To the accuracy of the contract: a BLAS may sum other strides in another order."""
    p = make_problem(21, 6, 10, dtype=dtype).strided()
    assert not p.x.is_contiguous()
    check(backend, p)
    p.g = p.g[:1].expand_as(p.g)  # what sum().backward() sends
    check(backend, p, orders=(1,))
