"""When `fit` changes grids, what optimisers forget then, and when training stops early."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from kan_fast import optim
from kan_fast._support.checks import integer, listed
from kan_fast.nn.network import Network

MARGIN = 0.25  # spans that updated grids reach beyond the samples: others lie there, and samples still fix the curves


class GridSchedule:
    """Sizes of the grid, one stage of training for each, and the steps of a stage in which knots move to the samples.

    Args:
        grids: numbers of spans, or None for one stage on the grids as they are.
        update: whether knots move at all.
        number: pykan's `grid_update_num`: every `max(1, stop // number)` steps.
        every: that number of steps itself, if not None.
        start: first step in which they may move.
        stop: first step in which they may not any more.
        trim: share of the samples at either end that grids need not reach.
    """

    def __init__(
        self,
        grids: Sequence[int] | None,
        update: bool,
        number: int,
        every: int | None,
        start: int,
        stop: int,
        trim: float = 0.0,
    ) -> None:
        self.sizes = (
            [None] if grids is None else [integer("a size in grids", size, 1) for size in listed("grids", grids)]
        )
        if not self.sizes:
            raise ValueError("grids must list at least one number of spans, such as [3, 5, 10]; None keeps the grid")
        stop = integer("stop_grid_update_step", stop)
        rule = max(1, stop // integer("grid_update_num", number, 1))
        self.every = rule if every is None else integer("update_grid_every", every, 1)
        self.trim = trim
        self.steps = range(max(0, integer("start_grid_update_step", start)), stop if update else 0)

    def refine(self, model: Network, optimizer: Optimizer, stage: int) -> bool:
        """Give the model the grid of a stage; whether that changed it."""
        size = self.sizes[stage]
        if size is None or all(layer.grid_size == size for layer in model.layers):
            return False
        model.refine_(size)
        forget_splines(optimizer, model)
        return True

    def update(self, model: Network, optimizer: Optimizer, step: int, samples: Callable[[], Tensor]) -> None:
        """Move the knots if it is time to, `step` steps after the beginning of the stage."""
        movable = [layer for layer in model.layers if layer.spline_weight.requires_grad and layer.has_splines()]
        if movable and step in self.steps and step % self.every == 0:
            finest = max(layer.grid_size for layer in movable)
            model.update_grid(samples(), layers=movable, margin=MARGIN / finest, trim=self.trim)
            # Pairs of our L-BFGS never span two steps. They stay a positive and near enough model of the curvature, and
            # without them every update would begin anew with steepest descent, which is lost among kinks.
            if not isinstance(optimizer, optim.LBFGS):
                forget_splines(optimizer, model)


def forget_splines(optimizer: Optimizer, model: Network) -> None:
    """Drop what the optimiser remembers of parameters whose meaning or shape has changed."""
    if isinstance(optimizer, (LBFGS, optim.LBFGS)):
        optimizer.state.clear()  # its history mixes all parameters
        optimizer._numel_cache = None  # type: ignore[union-attr]  # torch's keeps their number
        return
    for layer in model.layers:
        optimizer.state.pop(layer.spline_weight, None)


class EarlyStopping:
    """Stops when a number has not become smaller for `patience` steps, and keeps the best parameters.

    Args:
        patience: None never stops.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = None if patience is None else integer("patience", patience, 1)
        self.best, self.waited = math.inf, 0
        self.state: dict[str, Tensor] = {}

    def stops(self, model: Network, value: float) -> bool:
        """Whether to stop after a step with this value."""
        if self.patience is None:
            return False
        if value < self.best:
            self.best, self.waited = value, 0
            self.state = {name: t.clone() for name, t in model.state_dict().items()}
        else:
            self.waited += 1
        return self.waited >= self.patience

    @torch.no_grad()
    def end_stage(self, model: Network) -> None:
        """Put the best parameters back; the next stage begins anew."""
        if self.state:
            model.load_state_dict(self.state)
        self.best, self.waited, self.state = math.inf, 0, {}
