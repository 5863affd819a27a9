"""All combinations of kernel, dtype, degree, order and extrapolation, and shapes around the edges of tiles.

What else a problem has does not multiply: grids of different sizes, uniform and adaptive ones, and base functions take
turns over the combinations, since a kernel sees a grid as a piece table and a number of blocks of rows, and the base
function is a product of its own. Shapes and default tiles run with one cubic grid: the loops over them do not look at
the table. The edge kernels have no order.
"""

from __future__ import annotations

import pytest
import torch

from tests.helpers import contract
from tests.helpers.problems import make_problem

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
EXTRAPOLATIONS = ("zero", "linear", "clamp")
BASES = ("silu", "identity", "zero")
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: str(t).removeprefix("torch."))
each_shape = pytest.mark.parametrize(
    "shape",
    [
        pytest.param((3, 9, 2), id="less-than-a-tile"),
        pytest.param((33, 5, 34), id="one-more-than-two-tiles"),
        pytest.param((32, 8, 32), id="whole-tiles"),
        pytest.param((5, 33, 1), id="many-inputs"),
        pytest.param((50, 2, 5), id="many-samples"),
        pytest.param((1, 4, 50), id="many-outputs"),
    ],
)


@each_dtype
@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize("degree", range(6))
def test_dtypes_degrees_orders_and_extrapolations(degree: int, extrapolation: str, dtype: torch.dtype) -> None:
    turn = degree + EXTRAPOLATIONS.index(extrapolation) + DTYPES.index(dtype)
    narrow = dtype != torch.float16  # whose range derivatives of high order leave on narrow spans
    p = make_problem(
        16,
        4,
        5,
        (1, 8 - degree, 13 if narrow else 9 - degree)[turn % 3],  # one span; one full block of rows; several blocks
        degree,
        base=BASES[turn // 3 % 3],
        extrapolation=extrapolation,
        adaptive=narrow and turn % 2 == 0,
        dtype=dtype,
    )
    for order in sorted({0, 1, 2, degree, degree + 1}):
        contract.check_calls("triton", p, order, ("forward_v", "grad_input", "grad_coef_v"))
    contract.check_calls("triton", p, 0, ("edge_magnitude", "edge_magnitude_backward"))


@each_dtype
@pytest.mark.parametrize(("grid_size", "degree"), [(50, 3), (200, 2)])
def test_large_grids(grid_size: int, degree: int, dtype: torch.dtype) -> None:
    contract.check("triton", make_problem(16, 3, 5, grid_size, degree, adaptive=True, dtype=dtype))


@each_dtype
@each_shape
def test_shapes(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    contract.check("triton", make_problem(*shape, dtype=dtype, adaptive=True))


@each_dtype
def test_default_tiles(dtype: torch.dtype, default_tiles: None) -> None:
    shape = (150, 20, 140) if dtype.itemsize == 2 else (70, 12, 70)  # more than a tile in all directions
    contract.check("triton", make_problem(*shape, dtype=dtype))
