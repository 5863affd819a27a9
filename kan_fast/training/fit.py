"""`KAN.fit`: training that can't ruin the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial, wraps
from typing import ParamSpec, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from kan_fast import optim
from kan_fast._support.files import PathLike
from kan_fast._support.samples import ENOUGH, are_constant
from kan_fast._support.warn import warn
from kan_fast.nn import recording
from kan_fast.nn.network import Network
from kan_fast.training.data import Check, Dataset, Source, TensorSource, sources
from kan_fast.training.grid_schedule import GridSchedule, forget_splines
from kan_fast.training.loop import History, Loop, never_empty, steps_of
from kan_fast.training.objective import Diverged, Loss, Objective
from kan_fast.training.optimizer_state import fits
from kan_fast.training.optimizers import LINE_SEARCHES, make_optimizer, splines_alone, trainable
from kan_fast.training.options import Callback, FitOptions, Metric
from kan_fast.training.progress import show, shown_names
from kan_fast.training.regularization import regularization
from kan_fast.training.starts import Starts
from kan_fast.training.stopping import EarlyStopping

P = ParamSpec("P")
FAR = 100  # inputs beyond are learnt about ten times as badly as inputs of about 1 are, beyond 1e4 hardly at all
SHOWN = 8  # largest number of classes or columns that a warning names

# Labels. The figures are errors in units of the deviation of the labels, median of 5 seeds of 4 networks ([2, 1, 1] to
# [3, 5, 5, 1]) in float32, 200 samples, after 200 steps of Adam, 10 of LBFGS, 15 of LM from one start. With mean 0 and
# deviation 1 they are 0.02, 0.004 and 0.002.
FLAT = 1e-3  # deviation: 0.8, 0.15 and 0.02; at 1e-2 they are 0.16, 0.04 and 0.004
LARGE = 20  # Adam: 0.08 for deviation 10, 0.3 for mean 30, 0.4 for deviation 100, 1.9 for mean 100
LARGE_LM, LARGE_LBFGS = 1e6, 1e9  # 0.04 and 0.02; at 1e9 0.09 with LM, and at 1e100 in float64 1 with both
SHIFTED = 300  # mean by deviation, LBFGS and LM: 0.05 and 0.03 at 100, 0.2 and 0.07 at 1e3, 3 and 5 at 1e5


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a training, whatever it was at: the network is usable, and `history` ends with the last step.

    Args:
        history: of the steps that have ended.
        kept: what the network has now, for the message.
    """

    def __init__(self, history: History, kept: str = "the parameters of the last good step") -> None:
        super().__init__(f"training was interrupted: the network has {kept}, and the history ends there")
        never_empty(history)
        self.history = history


def interruptible(train: Callable[P, History]) -> Callable[P, History]:
    """The function, except that Ctrl-C makes it return the history so far, with a RuntimeWarning."""

    @wraps(train)
    def call(*args: P.args, **options: P.kwargs) -> History:
        try:
            return train(*args, **options)
        except Interrupted as interrupted:
            warn(str(interrupted), RuntimeWarning)
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
    checkpoint: PathLike | None = None,
    save_every: int = 100,
    starts: int | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> History:
    """Train the network in place; the options are those of pykan's `fit`.

    The objective is `loss + lamb * sum_l (lamb_l1 |Phi_l| + lamb_entropy S(Phi_l))`, the sparsity terms of
    arXiv 2404.19756, Eq. 2.17-2.20; further options add terms to the sum or take pykan's metrics (docs/sparsity.md).

    Data are cast to the dtype and device of the network. Grids are updated at the beginning of training, from all
    inputs in memory or from 4096 of a DataLoader (spread over its data if these come in order), and reach a quarter of
    a span beyond the inputs. An update changes the meaning of `spline_weight`, so Adam forgets its averages for these
    parameters; "LBFGS" keeps its history until the grid gets another size, and an optimiser that was used before
    `refine_` forgets what no longer fits. A layer whose `spline_weight` is frozen
    (`requires_grad` False) keeps its knots. Under torch.distributed an update waits for all processes: call `fit` in
    all of them, or with `update_grid=False`.

    Training stops early, with a RuntimeWarning, on Ctrl-C and when the objective, its gradient or the samples of a grid
    update are NaN or infinite. In both cases the network has the parameters of the last good step, those that it had
    before if there is none, and `fit` returns the history so far.

    Args:
        model: the network; `model.fit(dataset, ...)` gives it.
        dataset: a dict with train_input and test_input `(samples, in)`, train_label and test_label; or a pair `(x, y)`;
            or a DataLoader that yields such pairs, one per step, over and over. Labels have the shape
            `(samples, out)` of the output; for one output, a vector `(samples,)` is taken as that column. A `loss_fn`
            gets labels as they are, and may take others: class numbers `(samples,)` for several outputs, or any number
            of columns; integers of such shapes stay integers.
        {options}

    Returns:
        Lists with a number per step: "train_loss" and "test_loss", square roots of the loss as in pykan (a
        negative loss has the root of its size, with a minus; NaN without test data); "reg", the regularisation before
        `lamb` (0 if that is 0); the metrics. The training loss is that of the step's own batch, after the step for
        LBFGS and before it for Adam. The lists are never empty: with `steps=0` they have the values of the network as
        it is, and NaN if training ended before its first step did.

    Raises:
        TypeError, ValueError: an option is unknown or data can't be trained on; the message says what to do.

    Warns:
        RuntimeWarning: training diverged or was interrupted.
        UserWarning: training data lie outside of the grid and `update_grid` is off; or inputs are so large, or
            labels so large or small, that base function and optimiser don't suit them; or test data have classes that
            training data lack.
    """
    given = {name: value for name, value in locals().items() if name not in ("model", "dataset")}
    return train(model, dataset, FitOptions(**given))


if fit.__doc__ and FitOptions.__doc__:
    fit.__doc__ = fit.__doc__.replace("{options}", FitOptions.__doc__.split("Args:\n")[1].split("\n\n")[0].strip())


def train(model: Network, dataset: Dataset, options: FitOptions) -> History:
    """`fit` with checked options.

    Raises:
        Interrupted: on Ctrl-C at any time.
    """
    metrics = _named(cast(Sequence[Metric], options.metrics))
    history: History = {name: [] for name in ("train_loss", "test_loss", "reg", *metrics)}
    try:
        with torch.inference_mode(False), splines_alone(model) if options.continual else nullcontext():
            _run(_loop(model, dataset, options, metrics, history))
        never_empty(history)
    except KeyboardInterrupt:
        raise Interrupted(history) from None
    return history


def _loop(model: Network, dataset: Dataset, options: FitOptions, metrics: dict[str, Metric], history: History) -> Loop:
    """The loop of a training, with data and optimiser that go with the network and the options."""
    optimizer = _optimizer(model, options)
    train_data, test_data = _data(model, dataset, options)
    model.last_inputs = recording.Samples(train_data.samples())
    _warn_if_far(model, train_data.samples())
    if test_data is not None:
        _warn_of_new_labels(train_data, test_data)
    if options.loss_fn is None:
        _warn_of_labels(model, train_data.labels(), optimizer)
    if not options.moves_grids:
        _warn_if_outside(model, train_data.samples())
    scheduler = options.scheduler
    penalty = partial(regularization, **options.penalty)
    return Loop(
        model=model,
        objective=Objective(model, optimizer, options.loss_fn, options.lamb, penalty, options.clip),
        schedule=GridSchedule(options),
        stopping=EarlyStopping(options.patience),
        scheduler=scheduler if scheduler is None or isinstance(scheduler, LRScheduler) else scheduler(optimizer),
        train=train_data,
        test=test_data,
        metrics=metrics,
        options=options,
        history=history,
        starts=Starts(model, options, options.batch == -1 and isinstance(train_data, TensorSource)),
    )


def _run(loop: Loop) -> None:
    """Train to the end, or to the last good step if training diverges or is interrupted."""
    options, history = loop.options, loop.history
    shown = shown_names(options.display_metrics, history, loop.test is not None)
    position = loop.resume() if options.checkpoint is not None and os.path.exists(options.checkpoint) else (0, 0)
    total = options.steps * len(loop.schedule.sizes)
    with tqdm(total=total, initial=steps_of(history), disable=not options.progress) as bar:
        try:
            show(bar, loop.run(position), shown, options.log)
        except (Diverged, recording.NotFinite):
            loop.objective.restore()
            warn(
                f"training stopped in step {steps_of(history)}: the objective, its gradient or an "
                "activation is NaN or infinite. The parameters of the last good step are restored; a smaller lr, "
                "other data scaling or a smooth loss_fn may help",
                RuntimeWarning,
            )
        except KeyboardInterrupt:
            loop.objective.restore()
            bar.set_description("interrupted")
            raise
        finally:
            loop.objective.optimizer.zero_grad()


def _optimizer(model: Network, options: FitOptions) -> Optimizer:
    """The optimiser; raises ValueError if it does not go with the other options."""
    optimizer = make_optimizer(options.opt, model, trainable(model), options.lr)
    if isinstance(optimizer, optim.LevenbergMarquardt) and (options.loss_fn is not None or options.lamb):
        raise ValueError("LM minimises the mean squared error alone; leave out loss_fn and lamb, or use LBFGS")
    if options.clip is not None and isinstance(optimizer, LINE_SEARCHES):
        raise ValueError("clip would mislead the line search of LBFGS and the steps of LM; use it with others")
    if options.scheduler is not None and "lr" not in optimizer.defaults:
        raise ValueError(f"{options.opt} has no learning rate that a scheduler could change; leave out scheduler")
    if not fits(optimizer):
        forget_splines(optimizer, model)
    return optimizer


def _data(model: Network, dataset: Dataset, options: FitOptions) -> tuple[Source, Source | None]:
    """Batches for training and for tests."""
    generator = None if options.seed is None else torch.Generator().manual_seed(options.seed)
    like = trainable(model)[0]
    check = Check(model.width_in[0], model.width_in[-1], like, own_loss=options.loss_fn is not None)
    return sources(dataset, options.val, options.batch, generator, check)


def _named(metrics: Iterable[Metric]) -> dict[str, Metric]:
    named: dict[str, Metric] = {}
    for metric in metrics:
        name = getattr(metric, "__name__", None)
        if name is None:
            raise TypeError(f"metrics must be functions without arguments that have a __name__, got {metric!r}")
        if name in named or name in ("train_loss", "test_loss", "reg", "start"):
            raise ValueError(f"two lists of the history would have the name {name!r}; rename a metric")
        named[name] = metric
    return named


def _warn_if_far(model: Network, x: Tensor) -> None:
    """Grids follow the data wherever they are; base functions grow with them, and with these the gradients."""
    layer = model.layers[0]
    if layer.base_weight is None or not layer.kinds.spline.any():
        return
    size = x.abs().median(0).values
    far = (size > FAR).nonzero().flatten().tolist()
    if far:
        warn(
            f"half of the inputs are beyond {size.max().item():.3g}; {len(far)} of {len(size)} columns, first column "
            f"{far[0]}, exceed {FAR}, which a network learns badly. Scale them, x = (x - x.mean(0)) / x.std(0), "
            'as the estimators of kan_fast.sklearn do, or use base="zero"',
            UserWarning,
        )


def _warn_of_labels(model: Network, y: Tensor, optimizer: Optimizer) -> None:
    """Outputs begin at about 1: far from large labels for steps of a fixed length, and far from labels that are tiny.

    Line searches reach large labels, if these vary around 0. LM reaches small ones too, until rounding hides them.
    """
    if not model.layers[-1].kinds.spline.any():
        return
    largest = y.abs().amax(0).clamp_min(torch.finfo(y.dtype).tiny)
    deviation = (y / largest).std(0, correction=0) * largest  # squares of small labels would be 0
    mean, size = ((y / largest).mean(0) * largest).abs(), y.abs().median(0).values
    lm = isinstance(optimizer, optim.LevenbergMarquardt)
    least = torch.finfo(y.dtype).eps ** 0.5 if lm else FLAT
    most = LARGE_LM if lm else LARGE_LBFGS if isinstance(optimizer, LINE_SEARCHES) else LARGE
    varies = ~are_constant(y)
    flat, shifted = (deviation < least) & varies, (mean > SHIFTED * deviation) & varies
    if flat.any():
        found = f"labels deviate by {deviation[flat].min().item():.3g} from their mean"
    elif (size > most).any():
        found = f"half of the labels are beyond {size.max().item():.3g}"
    elif shifted.any():
        found = f"the mean of labels is {(mean / deviation)[shifted].max().item():.3g} times their deviation"
    else:
        return
    warn(
        f"{found}, which a network learns badly with {type(optimizer).__name__}. Scale them, y = (y - y.mean(0)) / "
        "y.std(0), as the estimators of kan_fast.sklearn do; formulas come back to their units by output_normalizer",
        UserWarning,
    )


def _warn_of_new_labels(train: Source, test: Source) -> None:
    """Of classes, or values beside the one of training, that test data alone have: nothing can learn them."""
    seen, asked = train.labels(), test.labels()
    if not isinstance(train, TensorSource) and len(seen) >= ENOUGH:
        return  # the rest of a DataLoader may have them
    if seen.dtype == torch.long:
        new = sorted(set(asked.unique().tolist()) - set(seen.unique().tolist()))
        found = f"test_label holds classes that train_label lacks: {', '.join(map(str, new[:SHOWN]))}"
    else:
        new = ((seen == seen[0]).all(0) & (asked != seen[0]).any(0)).flatten().nonzero().flatten().tolist()
        found = f"train_label has one value in columns where test_label has others: {', '.join(map(str, new[:SHOWN]))}"
    if new:
        warn(
            f"{found}. A network can't learn what it never sees; train on some of these rows too, by a split at random "
            "or by class",
            UserWarning,
        )


def _warn_if_outside(model: Network, x: Tensor) -> None:
    layer = model.layers[0]
    start, end = layer.grid_ends
    outside = (((x < start) | (x > end)) & layer.kinds.spline.any(0)).any(1).float().mean().item()
    if outside:
        warn(
            f"{outside:.1%} of the training samples lie outside of the grid, where splines hardly learn. Use "
            "update_grid=True, scale the inputs, or give the network a grid_range that covers them: "
            f"the data reach from {x.min().item():.4g} to {x.max().item():.4g}",
            UserWarning,
        )
