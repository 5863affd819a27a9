"""`KAN.symbolic_formula`: the formula of a network whose edges are all symbolic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kan_fast._support.checks import integer, listed, numbers, real, tensor
from kan_fast.nn.edges import Edge
from kan_fast.nn.linear import KANLinear
from kan_fast.nn.network import Network
from kan_fast.nn.nodes import Nodes

if TYPE_CHECKING:
    import numpy.typing as npt
    import sympy

    from kan_fast.symbolic.expressions.normal import Combination

    Scales = Sequence[float | Sequence[float] | Tensor]

_RECOGNISED = 1e-3  # default tolerance for constants that are replaced
_SHOWN = 8  # largest number of edges that an error names


def symbolic_formula(
    model: Network,
    var: Sequence[str | sympy.Expr] | None = None,
    *,
    digits: int | None = None,
    constants: bool | float = False,
    simplify: bool = False,
    normalizer: Scales | None = None,
    output_normalizer: Scales | None = None,
    x: Tensor | None = None,
) -> tuple[list[sympy.Expr], list[sympy.Expr]]:
    """The formulas of a network all of whose edges are symbolic, in a normal form (see docs/symbolic.md).

    They evaluate to the network's outputs up to rounding, unless `digits` or `constants` change their numbers.

    Args:
        model: the network; `model.symbolic_formula(...)` gives it.
        var: a name, symbol or expression for every input; None for x_1, x_2, ..., numbered as the columns that the
            network was trained with: an input that `prune_input` removed keeps its number.
        digits: significant digits of numbers, at least 1; None for all. Measured on the samples, the formulas change by
            at most `10^(1 - digits)` of their standard deviation there: terms too small to be seen in so many digits
            are left out, and numbers that would change the values by more keep more digits. Without samples each number
            has `digits` digits, whatever that does to the values, and no term with an input is left out.
        constants: True replaces numbers by fractions, roots, and multiples of pi and e that are within 1e-3 of them, a
            number within that distance; simple candidates may be farther off than complicated ones.
        simplify: whether to expand products and collect factors where that makes formulas shorter.
        normalizer: `(mean, std)` of the inputs, if the network was trained with `(x - mean) / std`; the formulas then
            take x itself. Each has a number for every column, or is one number for all.
        output_normalizer: likewise of the outputs; the formulas then give `y * std + mean`.
        x: samples `(n, width_in[0])` for `digits`, in the units of the formulas; None for the inputs that `fit` trained
            on last. There are none if `fit` was not called, or if `var` has expressions.

    Returns:
        The formulas, one for each output, and the symbols of the inputs.

    Raises:
        TypeError, ValueError: some edges are splines, sizes don't fit, or an option is out of range.
    """

    from kan_fast.symbolic.expressions.constants import recognised
    from kan_fast.symbolic.expressions.normal import Combination
    from kan_fast.symbolic.expressions.rounding import rounded
    from kan_fast.symbolic.expressions.simplify import shortest

    tolerance = _RECOGNISED if constants is True else real("constants", constants or 0)
    count = None if digits is None else integer("digits", digits, 1)
    splines = spline_edges(model)
    if splines:
        more = "" if len(splines) <= _SHOWN else f" and {len(splines) - _SHOWN} more"
        raise ValueError(
            f"a formula needs symbolic edges: (layer, input, output) {', '.join(map(str, splines[:_SHOWN]))}{more} are "
            "splines; fix them with fix_symbolic or auto_symbolic, or prune them"
        )
    symbols = _symbols([f"x_{i + 1}" for i in model.input_id] if var is None else listed("var", var), model.width_in[0])
    level = [Combination.of(symbol) for symbol in symbols]
    if normalizer is not None:
        pairs = zip(level, *scales("normalizer", normalizer, len(level)), strict=True)
        level = [node.plus(-mean).times(1 / std) for node, mean, std in pairs]
    for layer, nodes in zip(model.layers, model.nodes, strict=True):
        level = _nodes(nodes, _layer(layer, level))
    if output_normalizer is not None:
        pairs = zip(level, *scales("output_normalizer", output_normalizer, len(level)), strict=True)
        level = [node.times(std).plus(mean) for node, mean, std in pairs]
    formulas = [node.expression() for node in level]
    if simplify:
        formulas = [shortest(formula) for formula in formulas]
    if tolerance:
        formulas = [recognised(formula, tolerance) for formula in formulas]
    if count is not None:
        points = _points(model, x, normalizer) if all(symbol.is_Symbol for symbol in symbols) else None
        formulas = [rounded(formula, count, symbols, points) for formula in formulas]
    return formulas, symbols


def _symbols(names: Sequence[str | sympy.Expr], count: int) -> list[sympy.Expr]:
    """The expression that stands for each input in the formulas."""
    import sympy

    if len(names) != count:
        raise ValueError(f"var must have an entry for each of the {count} inputs, got {len(names)}: {names}")
    symbols = [sympy.Symbol(name) if isinstance(name, str) and name else name for name in names]
    for symbol in symbols:
        if not isinstance(symbol, sympy.Expr):
            raise TypeError(f"var must have names, symbols or expressions, got {symbol!r}")
        if symbol.is_Symbol and symbols.count(symbol) > 1:
            raise ValueError(f"var must have another symbol for every input, got {symbol} twice: {names}")
    return symbols


def _points(model: Network, x: Any, normalizer: Scales | None) -> npt.NDArray[Any] | None:
    """Samples of the formulas' inputs, float64; those of the last `fit` if x is None, and None if there are none."""
    given = model.last_inputs.x if x is None else tensor("x", x)
    if given is None:
        return None
    if given.dim() < 2 or given.shape[-1] != model.width_in[0]:
        raise ValueError(f"x must be samples (n, {model.width_in[0]}), got shape {tuple(given.shape)}")
    given = given.detach().to("cpu", torch.float64).reshape(-1, given.shape[-1])
    if x is None and normalizer is not None:
        mean, std = (given.new_tensor(part) for part in scales("normalizer", normalizer, given.shape[1]))
        given = given * std + mean
    return given.numpy()


def spline_edges(model: Network) -> list[Edge]:
    """Edges that are splines, neither symbolic nor masked."""
    return [
        Edge(number, i, o)
        for number, layer in enumerate(model.layers)
        for o, i in layer.kinds.spline.nonzero().tolist()
    ]


def _layer(layer: KANLinear, inputs: Sequence[Combination]) -> list[Combination]:
    """The outputs of a layer: for each, its bias and its edges."""
    from kan_fast.symbolic.expressions.normal import Combination, applied, total

    biases = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    parts = [[Combination(bias)] for bias in biases]
    for (output, input_), function, (a, b, c, d) in [] if layer.symbolic is None else layer.symbolic.items():
        parts[output].append(applied(function, inputs[input_].times(a).plus(b), c, d))
    return [total(combinations) for combinations in parts]


def _nodes(nodes: Nodes, subnodes: Sequence[Combination]) -> list[Combination]:
    """The nodes of a level: its sums, then its products."""
    from kan_fast.symbolic.expressions.normal import product

    factors = groupby(range(nodes.sums, len(subnodes)), key=lambda subnode: nodes.owner[subnode])
    return [*subnodes[: nodes.sums], *(product(subnodes[n] for n in numbers) for _, numbers in factors)]


def scales(name: str, given: Any, count: int) -> tuple[list[float], list[float]]:
    """Means and standard deviations as lists of floats; a number stands for all columns, a list has one for each."""
    parts = listed(name, given)
    if len(parts) != 2:
        raise ValueError(f"{name} must be (mean, std), got {len(parts)} parts: {given!r}")
    mean = _of_columns(f"the mean in {name}", parts[0], count)
    std = _of_columns(f"the std in {name}", parts[1], count)
    if not all(map(math.isfinite, [*mean, *std])) or min(std, default=1.0) <= 0:
        raise ValueError(f"{name} must be (mean, std) with finite numbers and std > 0, got {given!r}")
    return mean, std


def _of_columns(name: str, given: Any, count: int) -> list[float]:
    part = numbers(name, given)
    if not part.dim():
        return [part.item()] * count
    if part.numel() != count:
        raise ValueError(
            f"{name} must have a number for each of {count} columns, or be one number for all, got {part.numel()}: "
            f"{given!r}"
        )
    return part.flatten().tolist()
