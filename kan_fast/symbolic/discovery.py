"""`KAN.discover`: from data to a formula."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kan_fast.functions import Function, select
from kan_fast.symbolic.fitting import held_out
from kan_fast.symbolic.search import Data, Trial, rate, snap, thin

if TYPE_CHECKING:
    from kan_fast.network import KAN

STARTS, STEPS = 4, 25
GRIDS = (3, 6, 12, 24)
PROMISING = 1e-3  # error of splines


def shapes(n: int) -> Iterator[tuple[list[Any], bool]]:
    """Widths of networks in the order in which they are tried, and whether the last layer only adds."""
    yield [n, 1], False
    if n > 1:
        yield [n, 1, 1], False
        yield [n, [0, 1], 1], True
        yield [n, [1, 1], 1], True
        yield [n, 2, 1], False
        yield [n, [0, 1], 1], False
        yield [n, [0, 2], 1], True
        yield [n, 3, 1], False


def train(cls: type[KAN], width: list[Any], adds: bool, data: Data, seed: int) -> Trial:
    model = cls(width, grid=GRIDS[0], base="identity", extrapolation="linear", seed=seed, dtype=torch.float64)
    last = model.layers[-1]
    if adds:
        last.fix_many([(0, i) for i in range(last.in_features)], ["x"] * last.in_features)
        last.symbolic.affine.requires_grad_(False)
    model.multistart(
        (data.x, data.y),
        STARTS if len(width) > 2 else 1,
        "LM",
        STEPS,
        seed=seed,
        stop_grid_update_step=12,
        progress=False,
    )
    if adds:
        last.symbolic.affine.requires_grad_(True)
    return rate(model, data)


def refine(best: Trial, data: Data) -> Trial:
    for grid in GRIDS[1:]:
        if best.error <= data.floor:
            break
        finer = best.model.refine(grid)
        finer.fit((data.x, data.y), "LM", 12, stop_grid_update_step=6, progress=False)
        now = rate(finer, data)
        if now.error > best.error:
            break
        best = now
    return best


def show(t):
    return (
        [[(p, f.name, [round(v, 3) for v in a]) for p, f, a in l.symbolic.items()] for l in t.model.layers]
        if t.error < math.inf
        else ""
    )


def discover(
    cls: type[KAN], dataset: Any, *, seed: int = 0, lib: Sequence[str | Function] | None = None, verbose=False
) -> KAN:
    functions = select(lib)
    x, y = dataset
    mean, std = y.mean(0), y.std(0)
    low, high = x.amin(0), x.amax(0)
    x, y = (x - (low + high) / 2) / ((high - low) / 2), (y - mean) / std
    test = held_out(len(x), 0.2)
    data = Data(x[~test], y[~test], x[test], y[test], 1e-20)
    import time

    best = None
    waiting = []
    for width, adds in shapes(x.shape[1]):
        t0 = time.perf_counter()
        coarse = train(cls, width, adds, data, seed)
        t1 = time.perf_counter()
        if verbose:
            print(width, adds, "coarse %.1e" % coarse.error, "%.1fs" % (t1 - t0), end=" ")
        limit = PROMISING
        if best is not None:
            limit = min(limit, best.error)
        if coarse.error > 30 * limit:
            waiting.append(coarse)
            if verbose:
                print()
            continue
        thinned = thin(coarse, data)
        t2 = time.perf_counter()
        spline = refine(thinned, data)
        t3 = time.perf_counter()
        if verbose:
            print(
                "thin %s %.1e" % ([l.present.sum().item() for l in spline.model.layers], thinned.error),
                "%.1fs" % (t2 - t1),
                "fine %d %.1e" % (spline.model.grid, spline.error),
                "%.1fs" % (t3 - t2),
                end=" ",
            )
        if spline.error > limit:
            waiting.append(spline)
            if verbose:
                print()
            continue
        formula = snap(spline.model, data, functions)
        t4 = time.perf_counter()
        if verbose:
            print("formula %.1e %.1f" % (formula.error, formula.cost), "%.1fs" % (t4 - t3), show(formula), flush=True)
        if best is None or formula.cost < best.cost:
            best = formula
        if formula.error <= data.floor:
            break
    return best and best.model
