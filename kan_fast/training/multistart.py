"""`KAN.multistart`: training from several initialisations, since some lead into a poor local minimum."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from kan_fast._support.checks import integer
from kan_fast.nn.network import Network
from kan_fast.training.data import Dataset
from kan_fast.training.fit import Interrupted, train
from kan_fast.training.loop import History
from kan_fast.training.options import FitOptions
from kan_fast.training.starts import draw


def multistart(
    model: Network,
    dataset: Dataset,
    starts: int = 10,
    opt: str | type[torch.optim.Optimizer] = "LBFGS",
    steps: int = 100,
    *,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> History:
    """Train from several initial parameters and keep the best, in place.

    Small networks have local minima from which no optimiser recovers, and a high loss shows them early: train some
    starts on a coarse grid, then go on with `fit(grids=[...])`. The first start is the network as it is. The others
    draw new parameters (`KANLinear.reset_parameters`), except for layers with frozen parameters; masked edges stay
    masked. On Ctrl-C the best start so far is kept, also one that has not ended.

    Args:
        model: the network; `model.multistart(dataset, ...)` gives it.
        dataset: see `fit`.
        starts: number of initialisations, at least 1.
        opt: a name, or a class of optimisers; see `fit`.
        steps: steps for each start.
        seed: makes the initial parameters and the batches reproducible; the global random generator stays as it was.
        progress: whether to show a progress bar (on stderr), a step for each start.
        **options: further ones of `fit`, without `checkpoint` and `grids`.

    Returns:
        The history of the best start: the one with the smallest training loss at the end.

    Raises:
        TypeError, ValueError: as `fit`; an optimiser that exists already knows one set of parameters alone.
    """
    count, seed = integer("starts", starts, 1), integer("seed", seed, 0)
    if isinstance(opt, torch.optim.Optimizer):
        raise TypeError(
            f"multistart needs the name or the class of an optimiser, to make one for every start, got an instance of "
            f"{type(opt).__name__}"
        )
    for name in {"checkpoint", "grids"} & options.keys():
        raise ValueError(f"multistart takes no {name}: give it to the fit that follows")
    batches = None if isinstance(dataset, DataLoader) else seed
    chosen = FitOptions(opt, steps, seed=batches, starts=1, progress=False, **options)
    best: tuple[Network, History] | None = None
    stopped: Interrupted | None = None
    with tqdm(total=count, disable=not progress) as bar:
        for start in range(count):
            trial = copy.deepcopy(model)
            if start:
                draw(trial, seed + start)
            try:
                history = train(trial, dataset, chosen)
            except Interrupted as interrupted:
                history, stopped = interrupted.history, interrupted
            if best is None or _loss(history) < _loss(best[1]):
                best = trial, history
            if stopped:
                bar.set_description("interrupted")
                break
            bar.update()
            bar.set_description(f"best train_loss: {_loss(best[1]):.2e}", refresh=False)
    assert best is not None
    model.load_state_dict(best[0].state_dict())
    model.last_inputs = best[0].last_inputs
    if stopped:
        raise Interrupted(best[1], "the best parameters so far") from None
    return best[1]


def _loss(history: History) -> float:
    """The training loss at the end; infinite where there is none."""
    loss = history["train_loss"][-1]
    return math.inf if math.isnan(loss) else loss
