"""The schedule by which `fit` changes grids, and the state that optimisers forget with each change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from kan_fast import optim
from kan_fast.nn.network import Network
from kan_fast.training.options import FitOptions

MARGIN = 0.25  # spans that updated grids reach beyond the samples: test samples lie there, and data still fix the curve


class GridSchedule:
    """Sizes of the grid, one stage of training for each, and the steps of a stage in which knots move to the samples.

    Args:
        options: of `fit`. pykan's rule for updates is every `max(1, stop_grid_update_step // grid_update_num)` steps.
    """

    def __init__(self, options: FitOptions) -> None:
        self.sizes: Sequence[int | None] = [None] if options.grids is None else options.grids
        stop = options.stop_grid_update_step if options.stop_update_at is None else options.stop_update_at
        rule = max(1, stop // options.grid_update_num)
        self.every = rule if options.update_grid_every is None else options.update_grid_every
        self.trim = options.grid_trim
        self.steps = range(max(0, options.start_grid_update_step), stop if options.moves_grids else 0)

    def refine(self, model: Network, optimizer: Optimizer, stage: int) -> bool:
        """Give the model the grid of a stage; returns whether the grid changed."""
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
            # Pairs of our L-BFGS never span two steps, so they still model the curvature closely enough. Without them
            # every update would start again with steepest descent, which makes no progress among kinks.
            if not isinstance(optimizer, optim.LBFGS):
                forget_splines(optimizer, model)


def forget_splines(optimizer: Optimizer, model: Network) -> None:
    """Drop the optimiser's state for parameters whose meaning or shape has changed."""
    if isinstance(optimizer, (LBFGS, optim.LBFGS)):
        optimizer.state.clear()  # its history mixes all parameters
        optimizer._numel_cache = None  # type: ignore[union-attr]  # torch's LBFGS caches the number of parameters
        return
    for layer in model.layers:
        optimizer.state.pop(layer.spline_weight, None)
