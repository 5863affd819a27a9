"""Triton kernels against the float64 reference, executed by the interpreter with checked memory accesses."""

from __future__ import annotations

import pytest
import torch

from kan_fast.ops import autograd, dispatch, reference, tuning
from kan_fast.ops.contract import Rows, Spec
from kan_fast.ops.triton import plan, table
from tests.helpers import contract
from tests.helpers.problems import Problem, make_problem


def test_all_calls() -> None:
    contract.check("triton", make_problem(19, 5, 18, adaptive=True))


@pytest.mark.parametrize("name", contract.CALLS)
def test_one_edge(name: str) -> None:
    contract.check_one_edge("triton", torch.float32, name, adaptive=True, seeds=8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    contract.check("triton", make_problem(17, 3, 5, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0, 4), (5, 3, 0), (0, 0, 0)], ids=lambda s: "x".join(map(str, s)))
def test_empty_sizes(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    contract.check("triton", make_problem(*shape, dtype=dtype))


@pytest.mark.parametrize("degree", range(6))
def test_degrees_and_orders(degree: int) -> None:
    p = make_problem(16, 4, 5, 3, degree, adaptive=True)
    for order in sorted({0, 1, degree, degree + 1}):
        contract.check_calls("triton", p, order, ("forward", "grad_coef"))


@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
@pytest.mark.parametrize("base", ["silu", "identity", "zero"])
def test_bases_and_extrapolations(base: str, extrapolation: str) -> None:
    p = make_problem(16, 4, 5, 4, 2, base=base, extrapolation=extrapolation, adaptive=True)
    for order in (0, 1, 2):
        contract.check_calls("triton", p, order, ("grad_input",))


@pytest.mark.parametrize("size", [12], ids="G{}".format)  # a block and a part of one
def test_several_blocks_of_rows(size: int) -> None:
    contract.check("triton", make_problem(9, 5, 6, size, adaptive=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sums_of_edges_split_over_programs(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "choose_splits", lambda programs, steps, *_: min(3, steps))
    contract.check_calls("triton", make_problem(34, 9, 6, dtype=dtype, adaptive=True), 0, ("edge_magnitude",))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("space", [1 << 8, 1 << 13], ids=["parts-of-samples", "parts-of-inputs"])
def test_workspaces_that_hold_a_part(space: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "WORKSPACE", space)
    p = make_problem(34, 37, 6, dtype=dtype, adaptive=True)
    for order in (0, 1):
        contract.check_calls("triton", p, order, ("forward_v", "grad_input", "grad_coef_v"))


@pytest.mark.parametrize("keep", [(True, False), (False, True)], ids=["splines", "base"])
def test_rows_and_results_can_be_left_out(keep: tuple[bool, bool]) -> None:
    contract.check_rows_and_results_left_out("triton", torch.float32, keep)


@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
def test_nan_and_infinity_stay_in_their_sample(extrapolation: str) -> None:
    contract.check_nan_and_infinity_stay_in_their_sample("triton", torch.float32, 5, 3, extrapolation, (37, 5, 9))


@contract.steep_problems
def test_large_rows_that_cancel_keep_their_digits(order: int, extrapolation: str, dtype: torch.dtype) -> None:
    contract.check_large_rows_that_cancel("triton", order, extrapolation, dtype)


def test_inputs_may_have_any_strides() -> None:
    contract.check_any_strides("triton", torch.float32)


def test_tf32_only_where_torch_allows_it() -> None:
    p = make_problem(16, 8, 8)
    exact = contract.CALLS["edge_magnitude"](reference, p.to(torch.float64), 0)

    def error() -> float:
        return (contract.CALLS["edge_magnitude"](dispatch.module("triton"), p, 0) - exact).abs().max().item()

    before, strict = torch.get_float32_matmul_precision(), error()
    try:
        torch.set_float32_matmul_precision("high")
        loose = error()
    finally:
        torch.set_float32_matmul_precision(before)
    scale = exact.abs().max().item()
    assert strict < 2**-20 * scale
    assert 2**-14 * scale < loose < 2**-8 * scale


@pytest.mark.parametrize("extrapolation", ["zero", "linear"])
def test_derivatives_of_the_layer(extrapolation: str) -> None:
    """First and second derivatives through autograd.py, which calls the kernels at d = 0, 1, 2 and with v."""

    def derivatives(backend: str) -> list[torch.Tensor]:
        p = make_problem(5, 3, 4, 4, extrapolation=extrapolation, dtype=torch.float64)
        leaves = [p.x, *p.c, p.bias]
        for leaf in leaves:
            leaf.requires_grad_()
        y = autograd.forward(p.x, None, p.c, p.bias, p.rows(), backend)
        first = torch.autograd.grad((y * p.g).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), leaves[:3])
        plain = torch.autograd.grad(y_again(p, backend), leaves)
        return [y, *first, *second, *plain]

    def y_again(p: Problem, backend: str) -> torch.Tensor:
        y = autograd.forward(p.x, None, p.c, p.bias, p.rows(), backend)
        return y.square().sum()

    for got, expected in zip(derivatives("triton"), derivatives("reference"), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
def test_table_has_a_piece_for_every_place(extrapolation: str) -> None:
    spec = Spec(2, "silu", extrapolation)
    p = make_problem(4, 3, 2, 4, 2, adaptive=True, dtype=torch.float64)
    entries = table.build(Rows(p.grid, 0, spec))
    ends, inner = entries[:, 0], p.grid if extrapolation == "zero" else p.grid[:, 2:-2]
    last = inner[:, -1] if extrapolation != "zero" else p.grid[:, -3]
    for row in range(3):
        found = ends[row][~ends[row].isnan()]
        assert found.shape == inner[row].shape
        assert (found >= inner[row]).all()
        assert (found > last[row]).sum() == (inner[row] >= last[row]).sum(), "the end of the range is in its last span"
        torch.testing.assert_close(found, inner[row])
