"""`KAN.discover`: from data to a formula, by networks of growing size."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from kan_fast import flow
from kan_fast.data import Check
from kan_fast.functions import Function, select
from kan_fast.options import integer
from kan_fast.symbolic.chains import chains
from kan_fast.symbolic.fitting import held_out, plain
from kan_fast.symbolic.search import Data, Trial, priced, rate, refit, snap, thin

if TYPE_CHECKING:
    from kan_fast.network import KAN

STARTS, STEPS = 4, 25  # of the first training
GRIDS, FINE_STEPS = (3, 6, 12, 24), 12
THINNED = 6  # the grid on which edges are left out
PROMISING = 1e-3  # mean squared error of splines from which a formula is looked for at once
LEAST = 40  # samples
EXACT = 1e-20  # mean squared error, in units of the variance, that is rounding of float64
CHAINS = 6


class Shape(NamedTuple):
    """A network that is tried."""

    width: list[Any]
    adds: bool = False  # whether the last layer only adds what comes before: products have no inverse then


def shapes(inputs: int) -> list[list[Shape]]:
    """Networks in the order in which they are tried. Those of one group are all tried before one is taken."""
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
    cls: type[KAN],
    dataset: Mapping[str, Any] | tuple[Any, Any],
    *,
    seed: int = 0,
    lib: Iterable[str | Function] | None = None,
    progress: bool = True,
) -> KAN:
    """Find a formula for data: the recipe `fit -> prune -> refine -> auto_symbolic -> fit` for networks of growing size.

    ...
    """
    functions, seed = select(lib), integer("seed", seed, 0)
    x, y = _samples(dataset)
    scales = _Scales.of(x, y)
    if not y.std() > 0:
        return _finish(_constant(cls, x.shape[1]), scales, x)
    data = scales.data(x, y)
    found: list[Trial] = []
    waiting: list[Trial] = []
    for group in tqdm(shapes(x.shape[1]), disable=not progress):
        for shape in group:
            trial = _train(cls, shape, data, seed)
            if _refine(trial, data, GRIDS).error < min([PROMISING, *(formula.error for formula in found)]):
                found += _formula(trial, data, functions)
            else:
                waiting.append(trial)
        if x.shape[1] == 1 and not any(formula.error <= data.floor for formula in found):
            found += _chains(cls, data, functions)
        if any(formula.error <= data.floor for formula in found):
            break
    else:
        least = min(trial.error for trial in waiting) if waiting else math.inf
        for trial in [t for t in waiting if t.error <= 2 * least][:3]:
            found += _formula(trial, data, functions)
    data = priced(data, min(formula.error for formula in found))
    best = min((rate(formula.model, data) for formula in found), key=lambda formula: formula.cost)
    whole = Data(torch.cat([data.x, data.test_x]), torch.cat([data.y, data.test_y]), data.x, data.y, data.floor)
    return _finish(refit(best.model, whole, 10).model, scales, x)


def _train(cls: type[KAN], shape: Shape, data: Data, seed: int) -> Trial:
    """The best of several starts on a coarse grid."""
    model = cls(shape.width, grid=GRIDS[0], base="identity", extrapolation="linear", seed=seed, dtype=torch.float64)
    last = model.layers[-1]
    if shape.adds:
        last.fix_many([(0, i) for i in range(last.in_features)], ["x"] * last.in_features)
        last.symbolic.affine.requires_grad_(False)
    starts = STARTS if len(shape.width) > 2 else 1
    options = {"seed": seed, "stop_grid_update_step": STEPS // 2, "progress": False}
    model.multistart((data.x, data.y), starts, "LM", STEPS, **options)
    if shape.adds:
        last.symbolic.affine.requires_grad_(True)
    return rate(model, data)


def _refine(trial: Trial, data: Data, grids: Sequence[int]) -> Trial:
    """Go on on finer grids as long as that leads on."""
    for grid in grids:
        if grid <= trial.model.grid:
            continue
        finer = trial.model.refine(grid)
        finer.fit((data.x, data.y), "LM", FINE_STEPS, stop_grid_update_step=FINE_STEPS // 2, progress=False)
        now = rate(finer, data)
        if now.error > trial.error:
            break
        trial = now
    return trial


def _formula(trial: Trial, data: Data, functions: Sequence[Function]) -> list[Trial]:
    """What the network becomes as a formula, if it does."""
    thinned = thin(_refine(trial, data, GRIDS[:2]), data)
    formula = snap(_refine(thinned, data, GRIDS[2:]).model, data, functions)
    return [] if formula is None else [formula]


def _chains(cls: type[KAN], data: Data, functions: Sequence[Function]) -> list[Trial]:
    trials = []
    for chain in chains(data.x[:, 0], data.y[:, 0], functions, CHAINS):
        model = cls([1, 1, 1], grid=1, seed=0, dtype=torch.float64)
        model.layers[0].fix(0, 0, chain.inner, chain.inner_affine)
        model.layers[1].fix(0, 0, chain.outer, chain.outer_affine)
        trials.append(refit(model, data, 30))
    return trials


def _samples(dataset: Mapping[str, Any] | tuple[Any, Any]) -> tuple[Tensor, Tensor]:
    """Inputs `(n, in)` and outputs `(n, 1)` of the training data, in float64."""
    x, y = (dataset["train_input"], dataset["train_label"]) if isinstance(dataset, Mapping) else dataset
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    if y.dim() == 2 and y.shape[1] != 1:
        raise ValueError(
            f"discover finds one formula, got labels {tuple(y.shape)}; call it for each column: "
            "KAN.discover((x, y[:, [0]]))"
        )
    return Check(x.shape[-1], 1, torch.empty(0, dtype=torch.float64), classes=False)(x, y, "train")


class _Scales(NamedTuple):
    """Standard inputs reach from -1 to 1, standard outputs have mean 0 and variance 1."""

    centre: Tensor
    half: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> _Scales:
        low, high = x.aminmax(dim=0)
        half = torch.where(high > low, (high - low) / 2, 1)
        return cls((low + high) / 2, half, y.mean(0), torch.where(y.std(0) > 0, y.std(0), 1))

    def data(self, x: Tensor, y: Tensor) -> Data:
        test = held_out(len(x), 0.2)
        x, y = (x - self.centre) / self.half, (y - self.mean) / self.deviation
        return Data(x[~test], y[~test], x[test], y[test], EXACT)


@torch.no_grad()
def _finish(model: KAN, scales: _Scales, x: Tensor) -> KAN:
    """The network for data as they were given, without edges that are constants."""
    first, last = model.layers[0], model.layers[-1]
    inputs, affine = first.symbolic.edges[:, 1], first.symbolic.affine
    affine[:, 1] -= affine[:, 0] * (scales.centre / scales.half)[inputs]
    affine[:, 0] /= scales.half[inputs]
    last.symbolic.affine[:, 2:] *= scales.deviation
    last.bias.mul_(scales.deviation).add_(scales.mean)
    for layer in model.layers:
        for pair, function, affine in layer.symbolic.items():
            layer.fix(*pair, function, plain(function, torch.tensor(affine, dtype=torch.float64)))
    model.last_inputs = flow.Samples(x)
    return model
