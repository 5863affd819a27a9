"""pykan's helpers that scripts import beside `KAN`: data from functions, and rounded formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kan_fast._support import samples
from kan_fast._support.checks import integer, real, tensor
from kan_fast.nn.functions import LIBRARY as SYMBOLIC_LIB
from kan_fast.nn.functions import add_symbolic

if TYPE_CHECKING:
    import sympy

__all__ = ["SYMBOLIC_LIB", "add_symbolic", "create_dataset", "create_dataset_from_data", "ex_round"]


def create_dataset(
    f: Callable[[Tensor], Tensor],
    n_var: int = 2,
    f_mode: str = "col",
    ranges: Sequence[float] | Sequence[Sequence[float]] = (-1, 1),
    train_num: int = 1000,
    test_num: int = 1000,
    normalize_input: bool = False,
    normalize_label: bool = False,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> dict[str, Tensor]:
    """Uniform samples of a function, the same ones as pykan's of this name; torch's global generator stays as it is.

    Args:
        f: takes inputs `(n, n_var)`, or `(n_var, n)` with f_mode="row", and gives labels `(n,)` or `(n, outputs)`.
        n_var: number of variables, at least 1.
        f_mode: "col" or "row".
        ranges: `(start, end)` of all variables, or such a pair for each.
        train_num: number of samples for training, at least 0.
        test_num: number of samples for tests, at least 0.
        normalize_input: whether to subtract the mean and divide by the standard deviation of the training inputs.
        normalize_label: the same for labels.
        device: of the result.
        seed: of the samples.

    Returns:
        A dict with train_input, train_label, test_input, test_label, in torch's default dtype; for `KAN.fit`.

    Raises:
        ValueError: an option is not allowed, or f gives something else than a label for each sample.
    """
    n_var, numbers = integer("n_var", n_var, 1), [integer("train_num", train_num, 0), integer("test_num", test_num, 0)]
    if f_mode not in ("col", "row"):
        raise ValueError(f"f_mode must be 'col' or 'row', got {f_mode!r}")
    bounds = torch.as_tensor(ranges, dtype=torch.get_default_dtype())
    bounds = bounds.expand(n_var, 2) if bounds.dim() == 1 else bounds
    if bounds.shape != (n_var, 2) or not (bounds[:, 0] < bounds[:, 1]).all():
        raise ValueError(f"ranges must be (start, end) with start < end, or {n_var} such pairs, got {ranges}")
    make = torch.Generator().manual_seed(integer("seed", seed))
    start, length = bounds[:, 0], bounds[:, 1] - bounds[:, 0]
    columns = [[torch.rand(n, generator=make) * length[i] + start[i] for n in numbers] for i in range(n_var)]
    inputs = [torch.stack(part, 1) for part in zip(*columns, strict=True)]
    labels = [f(x if f_mode == "col" else x.T) for x in inputs]
    return _dataset(inputs, labels, normalize_input, normalize_label, device)


def create_dataset_from_data(
    inputs: Any, labels: Any, train_ratio: float = 0.8, device: torch.device | str = "cpu", *, seed: int = 0
) -> dict[str, Tensor]:
    """Samples that exist, `(n, in)` and `(n,)` or `(n, out)`, split at random into training and test data.

    Args:
        inputs: `(n, in)`; a tensor, an array or a table of pandas.
        labels: `(n,)` or `(n, out)`, likewise.
        train_ratio: share for training, 0 to 1.
        device: of the result.
        seed: of the split. (pykan's draws from numpy's global generator.)

    Raises:
        TypeError: inputs or labels are not numbers.
        ValueError: the numbers of samples differ, or the ratio is out of range.
    """
    if real("train_ratio", train_ratio) > 1:
        raise ValueError(f"train_ratio must be 0 to 1, got {train_ratio}")
    inputs, labels = tensor("inputs", inputs), tensor("labels", labels)
    if len(inputs) != len(labels):
        raise ValueError(f"{len(inputs)} inputs have {len(labels)} labels; each needs one")
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(integer("seed", seed)))
    parts = order.split([int(len(order) * train_ratio), len(order) - int(len(order) * train_ratio)])
    return _dataset([inputs[ids] for ids in parts], [labels[ids] for ids in parts], False, False, device)


def ex_round(expression: sympy.Expr, n_digit: int) -> sympy.Expr:
    """A formula with its numbers rounded to `n_digit` decimal places, but at least to as many significant digits.

    No term with an input is lost, in whatever units: 1.23456e-7 is 1.235e-7 with n_digit=4, not 0 as pykan's. Numbers
    go if they count at no inputs from 1e-12 to 1e12, as 1e-17 in sin(3*x_1 + 1e-17). For a formula that leaves out what
    does not count on the samples, take `model.symbolic_formula(digits=...)`.

    Args:
        expression: a formula of sympy.
        n_digit: decimal places, at least 0; numbers keep at least one significant digit.
    """
    from kan_fast.symbolic.expressions.rounding import rounded

    return rounded(expression, integer("n_digit", n_digit, 0), places=True)


def _dataset(
    inputs: list[Tensor], labels: list[Tensor], normalize_input: bool, normalize_label: bool, device: torch.device | str
) -> dict[str, Tensor]:
    for number, (x, label) in enumerate(zip(inputs, labels, strict=True)):
        if not isinstance(label, Tensor) or label.dim() not in (1, 2) or len(label) != len(x):
            got = tuple(label.shape) if isinstance(label, Tensor) else type(label).__name__
            raise ValueError(f"labels must have the shape ({len(x)},) or ({len(x)}, outputs), got {got}")
        labels[number] = label.reshape(len(x), -1)
    pairs = [
        _normalized("inputs", inputs) if normalize_input else inputs,
        _normalized("labels", labels) if normalize_label else labels,
    ]
    names = ("train_input", "test_input", "train_label", "test_label")
    return {name: t.to(device) for name, t in zip(names, [*pairs[0], *pairs[1]], strict=True)}


def _normalized(name: str, parts: list[Tensor]) -> list[Tensor]:
    """The tensors, standardised by the mean and standard deviation of the first one."""
    if len(parts[0]) < 2:
        raise ValueError(f"normalising needs at least 2 training samples, got {len(parts[0])}")
    constant = samples.are_constant(parts[0]).nonzero().flatten().tolist()
    if constant:
        raise ValueError(f"can't normalise columns {constant}, which are constant in training; leave them as they are")
    samples.check_sizes(name, parts[0])
    mean, std = parts[0].mean(0), parts[0].double().std(0).to(parts[0].dtype)
    return [(part - mean) / std for part in parts]
