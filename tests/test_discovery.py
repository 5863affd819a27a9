"""KAN.discover: formulas from data alone."""

from collections.abc import Callable

import pytest
import sympy
import torch
from torch import Tensor

from kan_fast import KAN


def samples(columns: int) -> Tensor:
    return torch.rand(1000, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


CASES: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "x_1*x_2": (2, lambda x: x[:, :1] * x[:, 1:]),
    "sqrt(x_1**2 + x_2**2)": (2, lambda x: x.square().sum(1, keepdim=True).sqrt()),
    "log(x_1**2 + 1)": (1, lambda x: torch.log(1 + x**2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("formula", CASES)
def test_the_formula_is_found(formula: str) -> None:
    columns, f = CASES[formula]
    x, random = samples(columns), torch.get_rng_state()
    model = KAN.discover((x, f(x)), seed=0, progress=False)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.symbolic_formula(digits=3)[0][0] == sympy.sympify(formula)
    torch.testing.assert_close(model(x), f(x), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((samples(1)[:20], samples(1)[:20]), "40"),
        ((samples(1), samples(2)), "outputs|labels|shape"),
        ((samples(1), samples(1) * torch.nan), "NaN|finite"),
    ],
)
def test_errors(data: tuple[Tensor, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KAN.discover(data, progress=False)
