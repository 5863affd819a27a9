"""`KAN.discover`: from data to a formula, by networks of growing size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor
from tqdm import tqdm

from kan_fast._support import samples
from kan_fast._support.checks import integer, tensor
from kan_fast._support.warn import warn
from kan_fast.analysis import pruning
from kan_fast.nn import recording
from kan_fast.nn.functions import Function, select
from kan_fast.nn.network import Network
from kan_fast.symbolic.curves.chains import chains
from kan_fast.symbolic.curves.pairs import pairs
from kan_fast.symbolic.curves.single import held_out, plain
from kan_fast.symbolic.search import Data, Trial, distinct, priced, rate, refit, simplify, snap, thin
from kan_fast.training import fit as fitting
from kan_fast.training.data import Check

LEAST = 40  # samples
HELD_OUT = 0.2  # share of the samples
EXACT = 1e-20  # mean squared error, in units of the variance, that is rounding of float64
STARTS, STEPS = 4, 25  # of the first training
PATIENCE = 4  # steps without progress after which training ends
FIRST_GRID = 3
COARSE, FINE, REFINED_STEPS = (6,), (12, 24), 12  # grids before and after edges are left out, and steps on each
PROMISING = 1e-3  # error of splines from which on a formula is looked for at once
LIKELY, LIKELY_ONES = 2.0, 3  # else in the end, from the best, up to this factor
PAIRS = 6  # of functions of one input that are tried as chain, sum and product


N = TypeVar("N", bound=Network)


class Shape(NamedTuple):
    """The form of a network that is tried."""

    width: list[Any]
    adds: bool = False  # whether the last layer only adds its inputs


def shapes(inputs: int) -> list[list[Shape]]:
    """Groups of networks in the order in which they are tried; the best network of a group counts."""
    if inputs == 1:
        return [[Shape([1, 1])]]
    return [
        [Shape([inputs, 1])],
        [Shape([inputs, 1, 1]), Shape([inputs, [0, 1], 1], adds=True)],
        [Shape([inputs, [1, 1], 1], adds=True)],
        [Shape([inputs, [0, 1], 1])],
        [Shape([inputs, 2, 1])],
        [Shape([inputs, [0, 2], 1], adds=True)],
        [Shape([inputs, 3, 1])],
    ]


def discover(
    cls: type[N],
    dataset: Mapping[str, Any] | tuple[Any, Any],
    *,
    seed: int = 0,
    lib: Iterable[str | Function] | None = None,
    progress: bool = True,
) -> N:
    """Find a formula for data, by networks of growing size.

    The networks write sums of functions, functions of such sums, products of such sums, and sums of these. For each,

    * a coarse network of splines is trained with Levenberg-Marquardt, from several starts,
    * edges that the others can replace are removed,
    * grids are refined as long as that lowers the error on samples held out,
    * splines become functions of the library, layer by layer, and the best combinations are trained on,
    * edges become constants or straight lines where that lowers the cost.

    The search ends with the first formula that is exact up to rounding. If there is none, the result is the formula
    with the best balance of complexity and error on held-out samples, a fifth of the data. For one variable the search
    also covers chains of two functions of the library, such as `log(1 + x^2)`, and sums and products of two, such as
    `x^2 + sin(x)`.

    The outputs of another network can be the data: `KAN.discover((x, net(x)))` with a `net` that solves a differential
    equation.

    Args:
        cls: `KAN.discover(...)` gives it.
        dataset: a pair `(x, y)`, or a dict with train_input and train_label (test data are not used); inputs
            `(samples, in)`, outputs `(samples, 1)` or `(samples,)`, in any units in which they reach 1e-100 to 1e100.
        seed: makes the result reproducible; the global random generator stays as it was.
        lib: names of functions; None for the whole library, `kan_fast.nn.functions.LIBRARY`.
        progress: whether to show a progress bar (on stderr).

    Returns:
        A float64 network all of whose edges are symbolic. `symbolic_formula()[0][0]` is the formula, in the symbols
        x_1, x_2, ... for the columns of x, and `formula_report(test_input, test_label)` its error.

    Raises:
        TypeError, ValueError: the data are not finite floating point numbers of these shapes and sizes, or fewer than
            40 samples; or there is no such function.

    Warns:
        UserWarning: splines explain the data much better than any formula that was found.
    """
    functions, seed = select(lib), integer("seed", seed, 0)
    x, y, rounding = _samples(dataset)
    scales = _Scales.of(x, y)
    data = scales.data(x, y, rounding)
    found: list[Trial] = []
    others: list[tuple[float, Trial]] = []  # networks from which no formula was made, with the error of their splines
    for group in tqdm(shapes(x.shape[1]), "formulas by size", disable=not progress):
        for shape in group:
            trial = _refine(_train(cls, shape, data, seed), data, COARSE)
            error = _refine(trial, data, FINE).error
            if error < min([PROMISING, *(formula.error for formula in found)]):
                found += _formula(trial, data, functions)
            others.append((error, trial))
        for two in (_chains, _sums, _products):
            if data.x.shape[1] == 1 and data.x.any() and not _exact(found, data):
                found += two(cls, data, functions)
        if _exact(found, data):
            break
    least = min(error for error, _ in others)
    if least > PROMISING:
        likely = [trial for error, trial in others if error <= LIKELY * least][:LIKELY_ONES]
        found += [formula for trial in likely for formula in _formula(trial, data, functions)]
    if not found:
        raise ValueError(f"none of the functions {[f.name for f in functions]} is defined on the data")
    best = _best(found, data)
    if best.error > 4 * max(least, data.floor):
        warn(
            f"no formula was found that explains the data as splines do: the best one leaves {best.error:.1e} of the "
            f"variance on held-out samples unexplained, splines {least:.1e}; other functions may do (add_symbolic)",
            UserWarning,
        )
    return cast(N, _finish(refit(best.model, data.whole(), 10).model, scales, x))


def _train(cls: type[Network], shape: Shape, data: Data, seed: int) -> Trial:
    """The best network of several starts on a coarse grid."""
    trials: list[Trial] = []
    for start in range(STARTS if len(shape.width) > 2 else 1):
        model = cls(
            shape.width,
            grid=FIRST_GRID,
            base="identity",
            extrapolation="linear",
            seed=STARTS * seed + start,
            dtype=torch.float64,
        )
        last = model.layers[-1]
        if shape.adds:
            last.fix_many([(0, i) for i in range(last.in_features)], ["x"] * last.in_features)
            last.requires_grad_(False)
        trials.append(_fit(model, data, STEPS))
        last.requires_grad_(True)
        if trials[-1].error < PROMISING:
            break
    return min(trials, key=lambda trial: trial.error)


def _fit(model: Network, data: Data, steps: int) -> Trial:
    """Train in place, until the loss hardly falls any more."""
    losses: list[float] = []

    def stalled(_: int, entry: dict[str, float]) -> bool:
        losses.append(entry["train_loss"])
        return len(losses) > PATIENCE and losses[-1] > 0.98 * losses[-1 - PATIENCE]

    pair = data.x, data.y
    fitting.fit(model, pair, "LM", steps, stop_grid_update_step=steps // 2, callbacks=stalled, progress=False)
    return rate(model, data)


def _refine(trial: Trial, data: Data, grids: Sequence[int]) -> Trial:
    """Train on finer grids, as long as the error on samples held out falls."""
    for grid in grids:
        finer = _fit(trial.model.refine(grid), data, REFINED_STEPS)
        if finer.error > trial.error:
            break
        trial = finer
    return trial


def _formula(trial: Trial, data: Data, functions: Sequence[Function]) -> list[Trial]:
    """The network of functions that a coarse network of splines becomes, in a list; an empty list if there is none."""
    formula = snap(_refine(thin(trial, data), data, FINE).model, data, functions)
    return [] if formula is None else [formula]


def _chains(cls: type[Network], data: Data, functions: Sequence[Function]) -> list[Trial]:
    """Networks [1, 1, 1] of two functions of the library."""
    trials = []
    for chain in chains(data.x[:, 0], data.y[:, 0], functions, PAIRS):
        model = cls([1, 1, 1], grid=1, dtype=torch.float64, seed=0)
        model.layers[0].fix(0, 0, chain.inner, chain.inner_affine)
        model.layers[1].fix(0, 0, chain.outer, chain.outer_affine)
        trials.append(refit(model, data, 30))
    return _simplified(trials, data)


def _sums(cls: type[Network], data: Data, functions: Sequence[Function], multiply: bool = False) -> list[Trial]:
    """Networks [1, 2, 1] that add two functions of the library, or [1, [0, 1], 1] that multiply them."""
    trials = []
    for pair in pairs(data.x[:, 0], data.y[:, 0], distinct(functions), PAIRS, multiply):
        model = cls([1, [0, 1] if multiply else 2, 1], grid=1, dtype=torch.float64, seed=0)
        first, last = model.layers
        first.fix_many([(0, 0), (1, 0)], pair.functions, pair.affine)
        last.fix_many([(0, i) for i in range(last.in_features)], ["x"] * last.in_features)
        torch.nn.init.constant_(last.get_parameter("bias"), pair.constant)
        trials.append(refit(model, data, 30))
    return _simplified(trials, data)


_products = partial(_sums, multiply=True)


def _simplified(trials: Sequence[Trial], data: Data) -> list[Trial]:
    """The trials that are defined on the samples, and the best of them simplified."""
    trials = [trial for trial in trials if trial.error < math.inf]
    if not trials:
        return []
    best = _best(trials, data)
    return [*trials, simplify(best, priced(data, best.error))]


def _exact(found: Sequence[Trial], data: Data) -> bool:
    return any(formula.error <= data.floor for formula in found)


def _best(found: Sequence[Trial], data: Data) -> Trial:
    data = priced(data, min(formula.error for formula in found))
    return min((rate(formula.model, data) for formula in found), key=lambda formula: formula.cost)


def _samples(dataset: Mapping[str, Any] | tuple[Any, Any]) -> tuple[Tensor, Tensor, float]:
    """Inputs `(n, in)` and outputs `(n, 1)` of the training data in float64, and the rounding of y as it was given."""
    if isinstance(dataset, Mapping):
        missing = [key for key in ("train_input", "train_label") if key not in dataset]
        if missing:
            raise ValueError(f"dataset must have train_input and train_label, got the keys {list(dataset)}")
        dataset = dataset["train_input"], dataset["train_label"]
    if not isinstance(dataset, (tuple, list)) or len(dataset) != 2:
        raise TypeError(f"dataset must be a pair (x, y) or a dict, got {type(dataset).__name__}")
    x, y = (tensor(name, data) for name, data in zip(("x", "y"), dataset, strict=True))
    y = y[:, None] if y.dim() == 1 else y
    if y.dim() == 2 and y.shape[1] != 1:
        raise ValueError(
            f"discover finds one formula, got labels {tuple(y.shape)}; call it for each column, with y[:, [0]] first"
        )
    columns = x.shape[1] if x.dim() == 2 else 1
    rounding = torch.finfo(y.dtype).eps if y.is_floating_point() else 0.0
    x, y = Check(columns, 1, torch.empty(0, dtype=torch.float64), own_loss=False)(x, y, ("x", "y"))
    if len(x) < LEAST or not columns:
        raise ValueError(f"discover needs at least {LEAST} samples of at least one input, got {tuple(x.shape)}")
    samples.check_sizes("x", x)
    samples.check_sizes("y", y)
    return x, y, rounding


class _Scales(NamedTuple):
    """Maps data to standard units: inputs reach from -1 to 1, outputs have mean 0 and variance 1."""

    centre: Tensor  # (in,)
    half: Tensor  # (in,)
    mean: Tensor  # (1,)
    deviation: Tensor  # (1,)

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> _Scales:
        """The scales of these data."""
        low, high = x.aminmax(dim=0)
        deviation = y.std(0, correction=0)
        return cls(
            (low + high) / 2,
            torch.where(samples.are_constant(x), 1, (high - low) / 2),
            y.mean(0),
            torch.where(samples.are_constant(y), 1, deviation),
        )

    def data(self, x: Tensor, y: Tensor, rounding: float) -> Data:
        """The data in standard units, some of the samples held out."""
        test = held_out(x, HELD_OUT)
        floor = max(EXACT, (4 * rounding * y.abs().max() / self.deviation).square().item())
        x, y = (x - self.centre) / self.half, (y - self.mean) / self.deviation
        return Data(x[~test], y[~test], x[test], y[test], floor)


@torch.no_grad()
def _finish(model: Network, scales: _Scales, x: Tensor) -> Network:
    """The network for the data in their own units, without edges that are constants."""
    first, last = model.layers[0].symbolic, model.layers[-1].symbolic
    if first is not None:
        inputs = first.edges[:, 1]
        first.affine[:, 0] /= scales.half[inputs]
        first.affine[:, 1] -= first.affine[:, 0] * scales.centre[inputs]
    if last is not None:
        last.affine[:, 2:] *= scales.deviation
    assert model.layers[-1].bias is not None
    model.layers[-1].bias.mul_(scales.deviation).add_(scales.mean)
    for number, layer in enumerate(model.layers):
        for (output, input_), function, affine in [] if layer.symbolic is None else layer.symbolic.items():
            if function.name == "0":
                assert layer.bias is not None
                layer.bias[output] += affine[3]
                pruning.remove_edge(model, number, input_, output)
            else:
                layer.fix(output, input_, function, plain(function, torch.tensor(affine, dtype=torch.float64)))
    model.last_inputs = recording.Samples(x)
    return pruning.prune_edge(model, 0.0)
