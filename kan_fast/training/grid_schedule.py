"""When grids change, which ones, and what optimisers forget then: rules of `fit` and of loops of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from kan_fast import optim
from kan_fast.nn.linear import KANLinear
from kan_fast.nn.network import Network
from kan_fast.nn.regrid import GridLayer
from kan_fast.training.options import FitOptions


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
        self.steps = update_steps(options.start_grid_update_step, stop if options.moves_grids else 0, self.every)

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
        movable = [layer for layer in model.layers if is_movable(layer)]
        if movable and step in self.steps:
            model.update_grid(samples(), layers=movable, margin=None, trim=self.trim)
            forget_moved(optimizer, movable)


def update_steps(start: int, stop: int, every: int) -> range:
    """The steps, counted from 0, in which knots move: multiples of `every` from `start` on, before `stop`."""
    return range(-(-max(0, start) // every) * every, stop, every)


def is_movable(layer: KANLinear) -> bool:
    """Whether training may move the knots of a layer: it has splines, and they are not frozen."""
    return layer.spline_weight.requires_grad and layer.has_splines()


def forget_moved(optimizer: Optimizer, layers: Iterable[GridLayer]) -> None:
    """Drop the optimiser's state for the splines of layers whose knots have moved; their shapes are as before.

    Pairs of our L-BFGS never span two steps, so they still model the curvature closely enough. Without them every
    update would start again with steepest descent, which makes no progress among kinks.
    """
    if not isinstance(optimizer, optim.LBFGS):
        _forget(optimizer, layers)


def forget_splines(optimizer: Optimizer, model: nn.Module) -> None:
    """Drop the optimiser's state for parameters whose meaning or shape has changed.

    Args:
        optimizer: one that trains the model.
        model: a module that holds KANLinear layers, whose grids have moved or got another size.
    """
    _forget(optimizer, (layer for layer in model.modules() if isinstance(layer, GridLayer)))


def _forget(optimizer: Optimizer, layers: Iterable[GridLayer]) -> None:
    if isinstance(optimizer, (LBFGS, optim.LBFGS)):
        optimizer.state.clear()  # its history mixes all parameters
        optimizer._numel_cache = None  # type: ignore[union-attr]  # torch's LBFGS caches the number of parameters
        return
    for layer in layers:
        optimizer.state.pop(layer.spline_weight, None)
