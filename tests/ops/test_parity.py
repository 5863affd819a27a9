"""Every backend against the float64 reference: one contract suite, under the rule of accuracy."""

from __future__ import annotations

import itertools
import math
from types import ModuleType

import pytest
import torch
from torch import Tensor

from kan_fast.nn import grids
from kan_fast.ops import dispatch, native, reference
from kan_fast.ops.contract import Coefficients
from tests.helpers.contract import (
    CALLS,
    SHAPES,
    as_tuple,
    check,
    check_any_strides,
    check_large_rows_that_cancel,
    check_nan_and_infinity_stay_in_their_sample,
    check_one_edge,
    check_rows_and_results_left_out,
    judged,
    steep_problems,
)
from tests.helpers.problems import Problem, assert_as_accurate, make_problem

BACKENDS = [name for name, status in dispatch.backends().items() if status.available and name != "reference"]


backend_and_dtype = pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        pytest.param(name, dtype, id=f"{name}-{str(dtype).removeprefix('torch.')}")
        for name in BACKENDS
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
        if dispatch.refusal(name, "cpu", dtype) is None
    ],
)


@backend_and_dtype
@pytest.mark.parametrize("adaptive", [False, True], ids=["uniform", "adaptive"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_shapes(backend: str, dtype: torch.dtype, shape: tuple[int, int, int], adaptive: bool) -> None:
    check(backend, make_problem(*shape, dtype=dtype, adaptive=adaptive))


@backend_and_dtype
@pytest.mark.parametrize("adaptive", [False, True], ids=["uniform", "adaptive"])
@pytest.mark.parametrize("name", CALLS)
def test_one_edge(backend: str, dtype: torch.dtype, name: str, adaptive: bool) -> None:
    check_one_edge(backend, dtype, name, adaptive)


@backend_and_dtype
@pytest.mark.parametrize(
    "shape", [(0, 3, 4), (5, 0, 4), (5, 3, 0), (0, 0, 0), (100, 0, 2)], ids=lambda s: "x".join(map(str, s))
)
def test_empty_sizes(backend: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    check(backend, make_problem(*shape, dtype=dtype))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)  # float16 overflows here
@pytest.mark.parametrize("grid_size", [1, 3, 5, 50, 200])
@pytest.mark.parametrize("degree", range(6))
def test_degrees_orders_and_grids(backend: str, dtype: torch.dtype, degree: int, grid_size: int) -> None:
    for adaptive in (False, True):
        p = make_problem(37, 3, 19, grid_size, degree, dtype=dtype, adaptive=adaptive)
        check(backend, p, orders=(0, 1, degree + 1))


@backend_and_dtype
@pytest.mark.parametrize("degree", range(6))
@pytest.mark.parametrize(
    "shape", [(70, 18, 2), (200, 7, 5), (2050, 1, 3), (2100, 2, 31)], ids=lambda s: "x".join(map(str, s))
)
def test_few_outputs(backend: str, dtype: torch.dtype, shape: tuple[int, int, int], degree: int) -> None:
    """The cpu backend has kernels of its own for them; with 31 outputs for all but the coefficient gradient."""
    grid_size, extrapolation = (4, 3, 2, 1, 5, 6)[degree], ("zero", "linear", "clamp")[degree % 3]
    adaptive, base = degree % 2 == 0, ("silu", "identity", "zero")[degree // 2]
    p = make_problem(*shape, grid_size, degree, base=base, extrapolation=extrapolation, dtype=dtype, adaptive=adaptive)
    check(backend, p, orders=(0, 1, degree + 1) if dtype != torch.float16 else (0, 1), edges=False)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(20, 3, 4), (100, 3, 2), (1000, 3, 64)], ids=lambda s: "x".join(map(str, s)))
def test_backward_gives_what_is_needed(backend: str, shape: tuple[int, int, int]) -> None:
    """Any of the results, with and without v and each of the weights; v counts in the coefficients' gradients alone."""
    p = make_problem(*shape)
    for needs in itertools.product((False, True), repeat=4):
        for v, spline_weight, base_weight in itertools.product(
            (None, p.v), (p.spline_weight, None), (p.base_weight, None)
        ):
            if (spline_weight is None and (base_weight is None or needs[1])) or (base_weight is None and needs[2]):
                continue
            arguments = (p.x, v, p.g, Coefficients(spline_weight, base_weight), p.rows(), needs)
            got, expected = dispatch.module(backend).backward(*arguments), reference.backward(*arguments)
            for a, b, need in zip(got, expected, needs, strict=True):
                if need:
                    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@backend_and_dtype
@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
@pytest.mark.parametrize("base", ["silu", "identity", "zero"])
@pytest.mark.parametrize("degree", [0, 1, 3])
def test_bases_and_extrapolations(backend: str, dtype: torch.dtype, degree: int, base: str, extrapolation: str) -> None:
    p = make_problem(37, 3, 19, 4, degree, base=base, extrapolation=extrapolation, dtype=dtype, adaptive=True)
    check(backend, p, orders=(0, 1, 2))


@backend_and_dtype
@pytest.mark.parametrize("keep", [(True, False), (False, True)], ids=["splines", "base"])
def test_rows_and_results_can_be_left_out(backend: str, dtype: torch.dtype, keep: tuple[bool, bool]) -> None:
    check_rows_and_results_left_out(backend, dtype, keep)


@backend_and_dtype
@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
@pytest.mark.parametrize(("grid_size", "degree"), [(1, 0), (5, 3), (9, 1), (20, 3), (50, 2), (7, 5)])
@pytest.mark.parametrize("shape", [(37, 5, 9), (90, 5, 2)], ids=lambda s: "x".join(map(str, s)))
def test_nan_and_infinity_stay_in_their_sample(
    backend: str, dtype: torch.dtype, grid_size: int, degree: int, extrapolation: str, shape: tuple[int, int, int]
) -> None:
    check_nan_and_infinity_stay_in_their_sample(backend, dtype, grid_size, degree, extrapolation, shape)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("degree", range(1, 6))
def test_slopes_are_accurate_in_every_span(backend: str, degree: int) -> None:
    """However much wider the others are: the errors of narrow spans must not reach them."""
    spans, samples = 20, 40
    for seed in range(6):
        make = torch.Generator().manual_seed(seed)
        widths = (torch.rand(1, spans, generator=make, dtype=torch.float64) * math.log(1e6)).exp()
        ends = torch.cat([torch.zeros(1, 1), widths.cumsum(1) / widths.sum()], 1) * 2 - 1
        p = make_problem(spans * samples, 1, 40, spans, degree, seed=seed)
        p.grid = grids.extend(ends, degree).float()
        left, right = p.grid[:, degree : degree + spans].T, p.grid[:, degree + 1 : degree + spans + 1].T
        p.x = (left + (right - left) * torch.rand(spans, samples, generator=make)).reshape(-1, 1)
        slopes = (
            m.grad_input(q.x, q.g, q.c._replace(base=None), q.rows(1)).reshape(spans, samples)
            for m, q in judged(backend, p)
        )
        for span, (a, b, c) in enumerate(zip(*slopes, strict=True)):
            assert_as_accurate(a, b, c, f"span {span}")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("out", [9, 2])
@pytest.mark.parametrize("degree", range(6))
def test_slopes_of_a_line_stay_finite(backend: str, degree: int, out: int) -> None:
    """Beyond narrow end spans, too, in whose widths far inputs would be infinite."""
    p = make_problem(70, 1, out, 4, degree, extrapolation="linear")
    p.grid = grids.extend(torch.tensor([[-1, -1 + 1e-6, 0, 1 - 1e-6, 1]]), degree)
    p.x[:6, 0] = torch.tensor([torch.inf, -torch.inf, 3e38, -3e38, 1e34, -1e34])

    def slopes(module: ModuleType, p: Problem) -> Tensor:
        c = p.c._replace(base=None)
        alone = module.grad_input(p.x, p.g, c, p.rows(1))
        joint = module.backward(p.x, None, p.g, c, p.rows(), (True, True, False, False))[0]
        return torch.stack([alone, joint])[:, :6]

    expected = slopes(reference, p.to(torch.float64))
    torch.testing.assert_close(slopes(dispatch.module(backend), p).double(), expected, rtol=1e-5, atol=1e-5)


@backend_and_dtype
@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
@pytest.mark.parametrize("shape", [(37, 3, 9), (90, 3, 2)], ids=lambda s: "x".join(map(str, s)))
def test_nan_and_infinity_stay_in_the_gradients_of_their_edges(
    backend: str, dtype: torch.dtype, extrapolation: str, shape: tuple[int, int, int]
) -> None:
    p = make_problem(*shape, dtype=dtype, extrapolation=extrapolation)
    backward = CALLS["backward"]
    clean = as_tuple(backward(dispatch.module(backend), p, 0))
    for value in (torch.nan, torch.inf, -torch.inf):
        p.x[5, 1] = value
        gx, gs, gb, gbias = as_tuple(backward(dispatch.module(backend), p, 0))
        assert torch.equal(gbias, clean[3])
        others = torch.ones_like(gx, dtype=torch.bool)
        others[5, 1] = False
        assert torch.equal(gx[others], clean[0][others])
        assert torch.equal(gs[:, ::2], clean[1][:, ::2])
        assert torch.equal(gb[:, ::2], clean[2][:, ::2])
        assert not gb[:, 1].isfinite().any()
        if extrapolation == "linear" or value != value:  # else splines are 0 or constant there
            assert not gs[:, 1].isfinite().all()
        else:
            assert gs.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
@pytest.mark.parametrize("shape", [(37, 3, 9), (90, 3, 2)], ids=lambda s: "x".join(map(str, s)))
def test_inputs_whose_square_overflows(backend: str, extrapolation: str, shape: tuple[int, int, int]) -> None:
    p = make_problem(*shape, base="identity", extrapolation=extrapolation)
    p.x[4::7] *= 1e22
    check(backend, p, orders=(0, 1), edges=False)


@pytest.mark.parametrize("backend", BACKENDS)
@steep_problems
def test_large_rows_that_cancel_keep_their_digits(
    backend: str, order: int, extrapolation: str, dtype: torch.dtype
) -> None:
    check_large_rows_that_cancel(backend, order, extrapolation, dtype)


@backend_and_dtype
def test_inputs_may_have_any_strides(backend: str, dtype: torch.dtype) -> None:
    check_any_strides(backend, dtype)


@pytest.mark.parametrize("isa", native.isas()[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_every_instruction_set(isa: str, dtype: torch.dtype) -> None:
    """The best one runs in all tests above."""
    with native.use_isa(isa):
        for shape, grid_size, degree in (
            ((67, 5, 19), 5, 3),
            ((7, 64, 130), 20, 3),
            ((300, 3, 2), 50, 5),
            ((9, 4, 4), 1, 0),
        ):
            for extrapolation in ("zero", "linear", "clamp"):
                p = make_problem(*shape, grid_size, degree, dtype=dtype, extrapolation=extrapolation, adaptive=True)
                check("cpu", p, orders=(0, 1))
        check_nan_and_infinity_stay_in_their_sample("cpu", dtype, 20, 3, "clamp", (37, 5, 9))
        check("cpu", make_problem(0, 3, 4, dtype=dtype))
