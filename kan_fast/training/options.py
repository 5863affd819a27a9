"""The options of `fit`, checked once: one frozen object that every part of training reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kan_fast._support.checks import function, functions, integer, listed, real
from kan_fast._support.files import PathLike, named
from kan_fast.nn.grids import checked_trim
from kan_fast.training.data import Dataset
from kan_fast.training.objective import Loss
from kan_fast.training.regularization import REG_METRICS

Metric = Callable[[], Any]
Callback = Callable[[int, dict[str, float]], Any]


@dataclass(frozen=True)
class FitOptions:
    """The options of `fit`, checked when they are made.

    Args:
        opt: "LBFGS" (strong Wolfe line search, up to 20 iterations a step), "Adam", or "LM" (Levenberg-Marquardt, for
            the mean squared error and up to about 5,000 parameters); see `kan_fast.optim`. Or a torch.optim.Optimizer,
            or a class of them, which gets the trainable parameters and `lr` if that is given.
        steps: number of steps, on each of `grids`. With batches, a step is one batch.
        log: the progress bar shows new numbers every `log` steps.
        lamb: weight of the regularisation, at least 0.
        lamb_l1: weight of the L1 norm in it, at least 0.
        lamb_entropy: weight of the entropy in it, at least 0.
        lamb_coef: weight of the L1 norm of the spline weights in it, at least 0.
        lamb_coefdiff: weight of the L1 norm of the differences between neighbouring spline weights, at least 0.
        lamb_smooth: weight of the integral of the squared second derivative of the splines, at least 0; against
            overfitting on fine grids, with lamb=1, lamb_l1=0 and lamb_entropy=0.
        reg_metric: measure of the edges of which L1 norm and entropy are taken: "edge_magnitude" (the paper's), or
            pykan's "edge_forward_spline_n", "edge_forward_sum", "edge_forward_spline_u", "edge_backward",
            "node_backward".
        update_grid: whether to move the grids to where the data are.
        grids: numbers of spans, such as [3, 5, 10, 20]: the network is trained for `steps` steps on each, and refined
            in between (see `KAN.refine`). The options below count the steps of each grid from 0. None keeps the grid.
        grid_update_num: about how many updates of the grids there are. By pykan's rule, grids are updated in steps,
            counted from 0, that are multiples of `max(1, stop_grid_update_step // grid_update_num)`.
        start_grid_update_step: no update before this step.
        stop_grid_update_step: no update from this step on.
        update_grid_every: number of steps between updates, instead of pykan's rule.
        grid_trim: share of the samples at either end of each column that updated grids leave out, 0 to below 0.5: a few
            outliers in a table then do not stretch the spans of all the others.
        stop_update_at: the same as `stop_grid_update_step`.
        continual: whether the data cover a part of the domain and the function elsewhere is to stay: grids stay, and
            only splines are trained, not the base weights and biases, which act everywhere.
        loss_fn: `loss_fn(output, label)` gives a scalar; None for the mean squared error.
        lr: learning rate, greater than 0; None for 1 with LBFGS and 0.01 with Adam.
        batch: samples per step, at most all; -1 for all. Batches are parts of random permutations of the data, one
            permutation after the other. The same for test data.
        metrics: a function, or several, without arguments that returns a number, called after every step; each has a
            list in the history under its `__name__`.
        display_metrics: names of lists of the history that the progress bar shows; None for the losses and reg.
        val: test data `(x, y)` or a DataLoader, when the dataset is not a dict.
        clip: largest norm of the gradient, with optimisers of one evaluation per step; longer ones are scaled down.
        scheduler: a function that makes a scheduler of the learning rate for an optimiser, `lambda o: StepLR(o, 10)`;
            or a scheduler of the optimiser that is given as `opt`. It is stepped after each step of training; a
            ReduceLROnPlateau gets the test loss (the training loss, without test data).
        patience: stop the training on a grid when the test loss (the training loss, without test data) has not become
            smaller for this number of steps, and go back to the best parameters. None never stops early.
        callbacks: a function, or several, `callback(step, entry)`, called after every step with its number, from 0, and
            its entries of the history. Training ends if one returns True.
        checkpoint: file that is written every `save_every` steps and at the end. If the file exists, training goes on
            from it and gives the same numbers as without the interruption; call `fit` with the same arguments (or more
            steps). Where batches are random, that needs a `seed`, or a DataLoader that yields the same batches again.
        save_every: steps between checkpoints.
        starts: number of initialisations, at least 1: after ten steps up to `starts - 1` others are drawn (as
            `KANLinear.reset_parameters` does), trained for ten steps too, and the one with the smallest objective goes
            on. 1 keeps to the network's own. None tries others, up to 4 with LBFGS and 20 with LM, for networks of at
            most 1,000 parameters that are as their layers drew them, none of them frozen, with all data in every step
            and no `loss_fn`, scheduler or checkpoint. Without `lamb` none is tried once 99 % of the variance of the
            labels is explained. The history then has a list "start" with the number of the initialisation, 0 for the
            network's own.
        seed: makes the batches reproducible; None draws from torch's global generator, as DataLoader does. Must be None
            with a DataLoader, which has a generator of its own.
        progress: whether to show a progress bar (on stderr).

    Raises:
        TypeError, ValueError: an option has a wrong type or value; the message says what is allowed.
    """

    opt: str | Optimizer | type[Optimizer] = "LBFGS"
    steps: int = 100
    log: int = 1
    lamb: float = 0.0
    lamb_l1: float = 1.0
    lamb_entropy: float = 2.0
    lamb_coef: float = 0.0
    lamb_coefdiff: float = 0.0
    lamb_smooth: float = 0.0
    reg_metric: str = "edge_magnitude"
    update_grid: bool = True
    grids: Sequence[int] | None = None
    grid_update_num: int = 10
    start_grid_update_step: int = -1
    stop_grid_update_step: int = 50
    update_grid_every: int | None = None
    grid_trim: float = 0.0
    stop_update_at: int | None = None
    continual: bool = False
    loss_fn: Loss | None = None
    lr: float | None = None
    batch: int = -1
    metrics: Metric | Sequence[Metric] | None = None
    display_metrics: str | Sequence[str] | None = None
    val: Dataset | None = None
    clip: float | None = None
    scheduler: LRScheduler | Callable[[Optimizer], LRScheduler] | None = None
    patience: int | None = None
    callbacks: Callback | Sequence[Callback] | None = None
    checkpoint: PathLike | None = None
    save_every: int = 100
    starts: int | None = None
    seed: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        if self.continual and self.grids is not None:
            raise ValueError("continual training keeps the grid; leave out grids and refine the network before it")
        if (self.starts or 1) > 1 and not (
            isinstance(self.opt, str) and self.checkpoint is None and not self.continual
        ):
            raise ValueError(
                "several starts need an optimiser by name, to make one for each, and neither checkpoint nor continual; "
                f"got starts={self.starts}, opt={self.opt!r}, checkpoint={self.checkpoint!r}"
            )

    @property
    def moves_grids(self) -> bool:
        """Whether grids follow the data."""
        return self.update_grid and not self.continual

    @property
    def penalty(self) -> dict[str, Any]:
        """The keyword arguments of `regularization`."""
        names = ("lamb_l1", "lamb_entropy", "lamb_coef", "lamb_coefdiff", "lamb_smooth", "reg_metric")
        return {name: getattr(self, name) for name in names}


Check = Callable[[str, Any], Any]


def _maybe(check: Check) -> Check:
    """A check that lets None pass."""
    return lambda name, value: None if value is None else check(name, value)


def _scheduler(name: str, value: Any) -> Any:
    return value if isinstance(value, LRScheduler) else function(name, value)


def _metric(name: str, value: Any) -> str:
    if value not in REG_METRICS:
        raise ValueError(f"unknown {name} {value!r}; allowed: {', '.join(REG_METRICS)}")
    return value


def _sizes(name: str, value: Any) -> list[int]:
    sizes = [integer(f"a size in {name}", size, 1) for size in listed(name, value)]
    if not sizes:
        raise ValueError(f"{name} must list at least one number of spans, such as [3, 5, 10]; None keeps the grid")
    return sizes


_CHECKS: dict[str, Check] = {
    "steps": partial(integer, least=0),
    "log": partial(integer, least=1),
    **dict.fromkeys(("lamb", "lamb_l1", "lamb_entropy", "lamb_coef", "lamb_coefdiff", "lamb_smooth"), real),
    "reg_metric": _metric,
    "grids": _maybe(_sizes),
    "grid_update_num": partial(integer, least=1),
    **dict.fromkeys(("start_grid_update_step", "stop_grid_update_step"), integer),
    "update_grid_every": _maybe(partial(integer, least=1)),
    "stop_update_at": _maybe(integer),
    "grid_trim": checked_trim,
    "loss_fn": function,
    "lr": _maybe(partial(real, positive=True)),
    "metrics": functions,
    "clip": _maybe(partial(real, positive=True)),
    "scheduler": _scheduler,
    "patience": _maybe(partial(integer, least=1)),
    "callbacks": functions,
    "checkpoint": _maybe(lambda name, value: named(value)),
    "save_every": partial(integer, least=1),
    "starts": _maybe(partial(integer, least=1)),
    "seed": _maybe(integer),
}
