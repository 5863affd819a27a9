"""`KAN.fit`: pykan's options, checked, and training that can't ruin the network."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from typing import ParamSpec

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from kan_fast import optim
from kan_fast._support.checks import function, functions, integer, listed, real
from kan_fast._support.files import Path
from kan_fast._support.warn import warn
from kan_fast.nn import recording
from kan_fast.nn.network import Network
from kan_fast.training.data import Check, Dataset, sources
from kan_fast.training.grid_schedule import EarlyStopping, GridSchedule
from kan_fast.training.loop import Callback, Entry, History, Loop, Metric
from kan_fast.training.objective import Diverged, Loss, Objective
from kan_fast.training.regularization import REG_METRICS, regularization

OPTIMIZERS: dict[str, Callable[[Network, Sequence[Tensor], float | None], Optimizer]] = {
    "LBFGS": lambda model, parameters, lr: optim.LBFGS(parameters, lr=1.0 if lr is None else lr),
    "Adam": lambda model, parameters, lr: Adam(parameters, lr=1e-2 if lr is None else lr, fused=True),
    "LM": lambda model, parameters, lr: optim.LevenbergMarquardt(model),
}
_LINE_SEARCHES = (torch.optim.LBFGS, optim.LBFGS, optim.LevenbergMarquardt)
_REFRESH = 0.1  # seconds between new numbers in the progress bar
P = ParamSpec("P")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while a network was trained, which is as the last good step left it; with the history so far."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self.history = history


def interruptible(train: Callable[P, History]) -> Callable[P, History]:
    """The function, but Ctrl-C ends it with the history so far."""

    @wraps(train)
    def call(*args: P.args, **options: P.kwargs) -> History:
        try:
            return train(*args, **options)
        except Interrupted as interrupted:
            return interrupted.history

    return call


def fit(
    model: Network,
    dataset: Dataset,
    opt: str | Optimizer | type[Optimizer] = "LBFGS",
    steps: int = 100,
    *,
    log: int = 1,
    lamb: float = 0.0,
    lamb_l1: float = 1.0,
    lamb_entropy: float = 2.0,
    lamb_coef: float = 0.0,
    lamb_coefdiff: float = 0.0,
    lamb_smooth: float = 0.0,
    reg_metric: str = "edge_magnitude",
    update_grid: bool = True,
    grids: Sequence[int] | None = None,
    grid_update_num: int = 10,
    start_grid_update_step: int = -1,
    stop_grid_update_step: int = 50,
    update_grid_every: int | None = None,
    grid_trim: float = 0.0,
    stop_update_at: int | None = None,
    continual: bool = False,
    loss_fn: Loss | None = None,
    lr: float | None = None,
    batch: int = -1,
    metrics: Metric | Sequence[Metric] | None = None,
    display_metrics: str | Sequence[str] | None = None,
    val: Dataset | None = None,
    clip: float | None = None,
    scheduler: LRScheduler | Callable[[Optimizer], LRScheduler] | None = None,
    patience: int | None = None,
    callbacks: Callback | Sequence[Callback] | None = None,
    checkpoint: Path | None = None,
    save_every: int = 100,
    seed: int | None = None,
    progress: bool = True,
) -> History:
    """Train the network in place; the options are those of pykan's `fit`.

    The objective is `loss + lamb * sum_l (lamb_l1 |Phi_l| + lamb_entropy S(Phi_l))`, the sparsity terms of
    arXiv 2404.19756, Eq. 2.17-2.20; further options add to what `lamb` multiplies or take pykan's metrics instead (see
    `kan_fast.training.regularization.regularization`).

    Data are cast to the dtype and device of the network. Grids are updated at the beginning of training, from all
    inputs in memory or from the present batch of a DataLoader, and reach a quarter of a span beyond them. That changes
    the meaning of `spline_weight`, so Adam forgets its averages for these parameters; "LBFGS" keeps its history, which
    a finer grid alone ends. A layer whose `spline_weight` is frozen (`requires_grad` False) keeps its knots. Under
    torch.distributed an update waits for all processes: call `fit` in all of them, or with `update_grid=False`.

    Training stops early, with the parameters of the last step that was good, when the objective, its gradient or the
    samples of a grid update are NaN or infinite (a RuntimeWarning says so) and on Ctrl-C. Either way the history so far
    is returned.

    Args:
        model: the network; `model.fit(dataset, ...)` gives it.
        dataset: a dict with train_input and test_input `(samples, in)`, train_label and test_label; or a pair `(x, y)`;
            or a DataLoader that yields such pairs, one per step, over and over. Labels have the shape
            `(samples, out)` of the output; with a `loss_fn` and out > 1, integer labels are left to it as they are.
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
        reg_metric: what L1 norm and entropy are taken of: "edge_magnitude" (the paper's), or pykan's
            "edge_forward_spline_n", "edge_forward_sum", "edge_forward_spline_u", "edge_backward", "node_backward".
        update_grid: whether to move the grids to where the data are.
        grids: numbers of spans, such as [3, 5, 10, 20]: training goes on `steps` steps on each, the network being
            refined in between (see `KAN.refine`). Counts of steps below begin anew with each. None keeps the grid.
        grid_update_num: sets how often grids are updated, by pykan's rule: in steps, counted from 0, that are multiples
            of `max(1, stop_grid_update_step // grid_update_num)`. That is about this number of updates, more if it
            doesn't divide `stop_grid_update_step`.
        start_grid_update_step: no update before this step.
        stop_grid_update_step: no update from this step on.
        update_grid_every: the number of steps between updates itself, instead of pykan's rule.
        grid_trim: share of the samples at either end of each column that updated grids leave out, 0 to below 0.5: a few
            outliers in a table then do not stretch the spans of all the others.
        stop_update_at: the same as `stop_grid_update_step`.
        continual: train on data of a part of the domain and leave what was learnt elsewhere as it is: grids stay, and
            only splines are trained, not the base weights and biases, which act everywhere.
        loss_fn: `loss_fn(output, label)` gives a scalar; None for the mean squared error.
        lr: learning rate, greater than 0; None for 1 with LBFGS and 0.01 with Adam.
        batch: samples per step, at most all; they walk through random permutations of the data, end to end. -1 for
            all. Test data as well.
        metrics: a function, or several, without arguments that returns a number, called after every step; each has a
            list in the history under its `__name__`.
        display_metrics: names of lists of the history that the progress bar shows; None for the losses and reg.
        val: test data `(x, y)` or a DataLoader, when the dataset is not a dict.
        clip: largest norm of the gradient, with optimisers of one evaluation per step; longer ones are scaled down.
        scheduler: makes a scheduler of the learning rate from the optimiser, `lambda o: StepLR(o, 10)`; or one for the
            optimiser that is given as `opt`. It makes a step after each of training, with the test loss (the training
            loss, without test data) if it is a ReduceLROnPlateau.
        patience: stop the training on a grid when the test loss (the training loss, without test data) has not become
            smaller for this number of steps, and go back to the best parameters. None never stops early.
        callbacks: a function, or several, `callback(step, entry)`, called after every step with its number, from 0, and
            its entries of the history. Training ends if one returns True.
        checkpoint: file that is written every `save_every` steps and at the end. If it exists, training goes on from
            there with the same numbers as without the interruption; call `fit` with the same arguments (or more
            steps). That needs a `seed` where batches are drawn at random, or a DataLoader that yields the same batches
            again.
        save_every: steps between checkpoints.
        seed: makes the batches reproducible; None takes them from torch's global generator, as DataLoader does. With a
            DataLoader, which has a generator of its own, None only.
        progress: whether to show a progress bar (on stderr).

    Returns:
        Lists with a number per step: "train_loss" and "test_loss", square roots of the loss as in pykan (NaN for a
        negative loss, or without test data); "reg", the regularisation before `lamb` (0 if that is 0); the metrics.
        The training loss is that of the step's own batch, after the step for LBFGS and before it for Adam.

    Raises:
        TypeError, ValueError: an option is unknown or data can't be trained on; the message says what to do.

    Warns:
        RuntimeWarning: training diverged.
        UserWarning: training data lie outside of the grid and `update_grid` is off.
    """
    steps, log = integer("steps", steps, 0), integer("log", log, 1)
    stop = stop_grid_update_step if stop_update_at is None else stop_update_at
    schedule = GridSchedule(
        grids,
        update_grid and not continual,
        grid_update_num,
        update_grid_every,
        start_grid_update_step,
        stop,
        grid_trim,
    )
    if continual and grids is not None:
        raise ValueError("continual training keeps the grid; leave out grids and refine the network before it")
    stopping = EarlyStopping(patience)
    save_every = integer("save_every", save_every, 1)
    lr = None if lr is None else real("lr", lr, positive=True)
    clip = None if clip is None else real("clip", clip, positive=True)
    lamb = real("lamb", lamb)
    seed = None if seed is None else integer("seed", seed)
    loss_fn = function("loss_fn", loss_fn)
    if not isinstance(scheduler, LRScheduler):
        scheduler = function("scheduler", scheduler)
    if reg_metric not in REG_METRICS:
        raise ValueError(f"unknown reg_metric {reg_metric!r}; allowed: {', '.join(REG_METRICS)}")
    penalty = partial(
        regularization,
        lamb_l1=real("lamb_l1", lamb_l1),
        lamb_entropy=real("lamb_entropy", lamb_entropy),
        lamb_coef=real("lamb_coef", lamb_coef),
        lamb_coefdiff=real("lamb_coefdiff", lamb_coefdiff),
        lamb_smooth=real("lamb_smooth", lamb_smooth),
        reg_metric=reg_metric,
    )
    with _splines_alone(model) if continual else nullcontext():
        parameters = _trainable(model)
        optimizer = _optimizer(opt, model, parameters, lr)
        if isinstance(optimizer, optim.LevenbergMarquardt) and (loss_fn is not None or lamb):
            raise ValueError("LM minimises the mean squared error alone; leave out loss_fn and lamb, or use LBFGS")
        if clip is not None and isinstance(optimizer, _LINE_SEARCHES):
            raise ValueError("clip would mislead the line search of LBFGS and the steps of LM; use it with others")
        if scheduler is not None and "lr" not in optimizer.defaults:
            raise ValueError(f"{opt} has no learning rate that a scheduler could change; leave out scheduler")
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        check = Check(model.width_in[0], model.width_in[-1], parameters[0], classes=loss_fn is not None)
        train, test = sources(dataset, val, batch, generator, check)
        model.last_inputs = recording.Samples(train.samples())
        measures = _named(functions("metrics", metrics))
        history: History = {name: [] for name in ("train_loss", "test_loss", "reg", *measures)}
        shown = _shown(display_metrics, history)
        if not update_grid or continual:
            _warn_if_outside(model, train.samples())
        loop = Loop(
            model,
            Objective(model, optimizer, loss_fn, lamb, penalty, clip),
            schedule,
            stopping,
            scheduler if scheduler is None or isinstance(scheduler, LRScheduler) else scheduler(optimizer),
            train,
            test,
            steps,
            measures,
            functions("callbacks", callbacks),
            checkpoint,
            save_every,
            history,
        )
        position = loop.resume() if checkpoint is not None and os.path.exists(checkpoint) else (0, 0)
        done = len(history["train_loss"])
        with tqdm(total=steps * len(schedule.sizes), initial=done, disable=not progress) as bar:
            try:
                _show(bar, loop.run(position), shown, log)
            except (Diverged, recording.NotFinite):
                loop.objective.restore()
                warn(
                    f"training stopped in step {len(history['train_loss'])}: the objective, its gradient or an "
                    "activation is NaN or infinite. The parameters of the last good step are restored; a smaller lr, "
                    "other data scaling or a smooth loss_fn may help",
                    RuntimeWarning,
                )
            except KeyboardInterrupt:
                loop.objective.restore()
                bar.set_description("interrupted")
                raise Interrupted(history) from None
            finally:
                optimizer.zero_grad()
    return history


def _show(bar: tqdm, entries: Iterator[Entry], shown: Sequence[str], log: int) -> None:
    """Run through the steps; new numbers every `log` steps, but no faster than an eye can read."""
    last, entry = -_REFRESH, None
    for step, entry in enumerate(entries):
        bar.update()
        if not bar.disable and step % log == 0 and time.monotonic() - last >= _REFRESH:
            last = time.monotonic()
            bar.set_description(_text(entry, shown), refresh=False)
    if entry is not None:
        bar.set_description(_text(entry, shown), refresh=False)


def _text(entry: Entry, shown: Sequence[str]) -> str:
    return " | ".join(f"{name}: {entry[name]:.2e}" for name in shown)


def _trainable(model: Network) -> list[Tensor]:
    if any(t.is_meta for t in [*model.parameters(), *model.buffers()]):
        raise ValueError(
            "the network is on the meta device, which holds no numbers; call to_empty(device=...), then "
            "reset_parameters() of every layer or load_state_dict"
        )
    unused = {id(p) for layer in model.layers for p in layer.unused_parameters()}
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad and id(p) not in unused]
    if not parameters:
        raise ValueError("the network has no trainable parameters; set requires_grad_(True) on some")
    return parameters


def _optimizer(
    opt: str | Optimizer | type[Optimizer], model: Network, parameters: Sequence[Tensor], lr: float | None
) -> Optimizer:
    """The optimiser that a name, a class or an instance stands for."""
    if opt is optim.LevenbergMarquardt:
        opt = "LM"
    if isinstance(opt, str) and opt in OPTIMIZERS:
        if opt == "LM" and lr is not None:
            raise ValueError("LM has no learning rate; leave out lr")
        if opt in ("LM", "LBFGS") and any(hasattr(p, "full_tensor") for p in parameters):
            raise ValueError(
                f"{opt} can't train parameters that are sharded (DTensor); use Adam, or fit before sharding"
            )
        return OPTIMIZERS[opt](model, parameters, lr)
    if isinstance(opt, Optimizer):
        if lr is not None:
            raise ValueError("lr has no effect on an optimiser that exists already; set it there")
        if {id(p) for group in opt.param_groups for p in group["params"]} - {id(p) for p in model.parameters()}:
            raise ValueError("the optimiser has parameters of another network; make it with model.parameters()")
        return opt
    if isinstance(opt, type) and issubclass(opt, Optimizer):
        return opt(parameters) if lr is None else opt(parameters, lr=lr)  # type: ignore[call-arg]
    raise ValueError(f"unknown optimiser {opt!r}; allowed: {', '.join(OPTIMIZERS)}, a torch.optim.Optimizer or a class")


@contextmanager
def _splines_alone(model: Network) -> Iterator[None]:
    """Freeze what acts on the whole line: base weights, biases and symbolic edges."""
    weights = [
        p
        for layer in model.layers
        for p in (layer.base_weight, layer.bias, None if layer.symbolic is None else layer.symbolic.affine)
        if p is not None and p.requires_grad
    ]
    for p in weights:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in weights:
            p.requires_grad_(True)


def _shown(names: str | Sequence[str] | None, history: History) -> Sequence[str]:
    if names is None:
        names = ("train_loss", "test_loss", "reg")
    shown = [names] if isinstance(names, str) else listed("display_metrics", names)
    unknown = [name for name in shown if name not in history]
    if unknown:
        raise ValueError(f"unknown display_metrics {', '.join(unknown)}; allowed: {', '.join(history)}")
    return shown


def _named(metrics: Iterable[Metric]) -> dict[str, Metric]:
    named: dict[str, Metric] = {}
    for metric in metrics:
        name = getattr(metric, "__name__", None)
        if name is None:
            raise TypeError(f"metrics must be functions without arguments that have a __name__, got {metric!r}")
        if name in named or name in ("train_loss", "test_loss", "reg"):
            raise ValueError(f"two lists of the history would have the name {name!r}; rename a metric")
        named[name] = metric
    return named


def _warn_if_outside(model: Network, x: Tensor) -> None:
    layer = model.layers[0]
    knots, k = layer.grid, layer.spline_order
    start, end = knots[:, k], knots[:, -1 - k]
    outside = (((x < start) | (x > end)) & layer.splines.any(0)).any(1).float().mean().item()
    if outside:
        warn(
            f"{outside:.1%} of the training samples lie outside of the grid, where splines hardly learn. Use "
            "update_grid=True, scale the inputs, or give the network a grid_range that covers them: "
            f"the data reach from {x.min().item():.4g} to {x.max().item():.4g}",
            UserWarning,
        )
