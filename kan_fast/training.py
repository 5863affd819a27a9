"""The training loop behind `KAN.fit`: pykan's options, with data checked and training that can't ruin the model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import LBFGS, Adam, Optimizer
from tqdm import tqdm

from kan_fast import flow
from kan_fast.data import Check, Dataset, Pair, sources
from kan_fast.options import integer, real
from kan_fast.sparsity import REG_METRICS, regularization

if TYPE_CHECKING:
    from kan_fast.network import KAN

Loss = Callable[[Tensor, Tensor], Tensor]
Metric = Callable[[], Any]
History = dict[str, list[float]]

OPTIMIZERS: dict[str, Callable[[Sequence[Tensor], float | None], Optimizer]] = {
    "LBFGS": lambda parameters, lr: LBFGS(
        parameters,
        lr=1.0 if lr is None else lr,
        history_size=10,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-32,
        tolerance_change=1e-32,
    ),
    "Adam": lambda parameters, lr: Adam(parameters, lr=1e-2 if lr is None else lr),
}


def fit(
    model: KAN,
    dataset: Dataset,
    opt: str = "LBFGS",
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
    grid_update_num: int = 10,
    start_grid_update_step: int = -1,
    stop_grid_update_step: int = 50,
    loss_fn: Loss | None = None,
    lr: float | None = None,
    batch: int = -1,
    metrics: Metric | Sequence[Metric] | None = None,
    display_metrics: str | Sequence[str] | None = None,
    val: Dataset | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> History:
    """Train the network in place; the options are those of pykan's `fit`.

    The objective is `loss + lamb * sum_l (lamb_l1 |Phi_l| + lamb_entropy S(Phi_l))`, the sparsity terms of
    arXiv 2404.19756, Eq. 2.17-2.20; further options add to what `lamb` multiplies or take pykan's metrics instead (see
    `kan_fast.sparsity.regularization`).

    Data are cast to the dtype and device of the network. Grids are updated at the beginning of training, from all
    inputs in memory or from the present batch of a DataLoader. That changes the meaning of `spline_weight`, so Adam
    forgets its averages for these parameters and LBFGS its whole history. A layer whose `spline_weight` is frozen
    (`requires_grad` False) keeps its grid. Under torch.distributed an update waits for all processes: call `fit` in all
    of them, or with `update_grid=False`.

    Training stops early, with the parameters of the last step that was good, when the objective, its gradient or the
    samples of a grid update are NaN or infinite (a RuntimeWarning says so) and on Ctrl-C. Either way the history so far
    is returned.

    Args:
        model: the network; `model.fit(dataset, ...)` gives it.
        dataset: a dict with train_input and test_input `(samples, in)`, train_label and test_label; or a pair `(x, y)`;
            or a DataLoader that yields such pairs, one per step, over and over. Labels have the shape
            `(samples, out)` of the output; with a `loss_fn` and out > 1, integer labels are left to it as they are.
        opt: "LBFGS" (strong Wolfe line search, up to 20 iterations a step) or "Adam".
        steps: number of steps. With batches, a step is one batch.
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
        grid_update_num: sets how often grids are updated, by pykan's rule: in steps, counted from 0, that are multiples
            of `max(1, stop_grid_update_step // grid_update_num)`. That is about this number of updates, more if it
            doesn't divide `stop_grid_update_step`.
        start_grid_update_step: no update before this step.
        stop_grid_update_step: no update from this step on.
        loss_fn: `loss_fn(output, label)` gives a scalar; None for the mean squared error.
        lr: learning rate, greater than 0; None for 1 with LBFGS and 0.01 with Adam.
        batch: samples per step, at most all; they walk through random permutations of the data, end to end. -1 for
            all. Test data as well.
        metrics: a function, or several, without arguments that returns a number, called after every step; each has a
            list in the history under its `__name__`.
        display_metrics: names of lists of the history that the progress bar shows; None for the losses and reg.
        val: test data `(x, y)` or a DataLoader, when the dataset is not a dict.
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
    if opt not in OPTIMIZERS:
        raise ValueError(f"unknown optimiser {opt!r}; allowed: {', '.join(OPTIMIZERS)}")
    steps, log = integer("steps", steps, 0), integer("log", log, 1)
    stop = integer("stop_grid_update_step", stop_grid_update_step)
    updates = range(max(0, integer("start_grid_update_step", start_grid_update_step)), stop if update_grid else 0)
    every = max(1, stop // integer("grid_update_num", grid_update_num, 1))
    lr = None if lr is None else real("lr", lr, positive=True)
    lamb = real("lamb", lamb)
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
    if any(t.is_meta for t in [*model.parameters(), *model.buffers()]):
        raise ValueError(
            "the network is on the meta device, which holds no numbers; call to_empty(device=...), then "
            "reset_parameters() of every layer or load_state_dict"
        )
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the network has no trainable parameters; set requires_grad_(True) on some")

    generator = None if seed is None else torch.Generator().manual_seed(seed)
    check = Check(model.width_in[0], model.width_in[-1], parameters[0], classes=loss_fn is not None)
    train, test = sources(dataset, val, batch, generator, check)
    model.last_inputs = flow.Samples(train.samples())
    measures = _named([metrics] if callable(metrics) else metrics or ())
    history: History = {name: [] for name in ("train_loss", "test_loss", "reg", *measures)}
    shown = ("train_loss", "test_loss", "reg") if display_metrics is None else display_metrics
    shown = [shown] if isinstance(shown, str) else shown
    unknown = [name for name in shown if name not in history]
    if unknown:
        raise ValueError(f"unknown display_metrics {', '.join(unknown)}; allowed: {', '.join(history)}")
    if not update_grid:
        _warn_if_outside(model, train.samples())

    optimizer = OPTIMIZERS[opt](parameters, lr)
    objective = _Objective(model, loss_fn or F.mse_loss, optimizer, lamb, penalty)
    movable = [layer for layer in model.layers if layer.spline_weight.requires_grad]
    with tqdm(total=steps, disable=not progress) as bar:
        try:
            for step in range(steps):
                if movable and step in updates and step % every == 0:
                    model.update_grid(train.samples(), layers=movable)
                    _forget_splines(optimizer, model)
                entry = dict(zip(("train_loss", "reg"), objective.step(train.batch()), strict=True))
                entry["test_loss"] = objective.test(test.batch()) if test is not None else float("nan")
                entry |= {name: _number(name, metric()) for name, metric in measures.items()}
                for name, value in entry.items():
                    history[name].append(value)
                bar.update()
                if step % log == 0 or step == steps - 1:
                    bar.set_description(" | ".join(f"{name}: {entry[name]:.2e}" for name in shown), refresh=False)
        except (_Diverged, flow.NotFinite):
            objective.restore()
            warnings.warn(
                f"training stopped in step {step}: the objective, its gradient or an activation is NaN or infinite. "
                "The parameters of the last good step are restored; a smaller lr, other data scaling or a smooth "
                "loss_fn may help",
                RuntimeWarning,
                stacklevel=2,
            )
        except KeyboardInterrupt:
            objective.restore()
            bar.set_description("interrupted")
        finally:
            optimizer.zero_grad()
    return history


class _Diverged(Exception):
    pass


class _Objective:
    """The function that a step makes smaller, and the state to go back to when that fails."""

    def __init__(
        self, model: KAN, loss_fn: Loss, optimizer: Optimizer, lamb: float, penalty: Callable[..., Tensor]
    ) -> None:
        self.model, self.loss_fn, self.optimizer = model, loss_fn, optimizer
        self.lamb, self.penalty = lamb, penalty
        self._good = [t.detach().clone() for t in self._state()]

    def step(self, pair: Pair) -> tuple[float, float]:
        """One step of the optimiser on a batch; returns the root of the loss and the regularisation.

        Raises:
            _Diverged: the objective or its gradient is not finite.
        """
        losses: tuple[Tensor, Tensor] | None = None

        def closure() -> Tensor:
            nonlocal losses
            self.optimizer.zero_grad()
            loss, reg = self._losses(pair)
            total = loss + self.lamb * reg if self.lamb else loss
            total.backward()
            if losses is None:  # at the parameters that the step before arrived at
                trained = (p for group in self.optimizer.param_groups for p in group["params"])
                gradients = [p.grad for p in trained if p.grad is not None]
                self._keep_if_finite(total + torch.nn.utils.get_total_norm(gradients))
                losses = loss, reg
            return total

        self.optimizer.step(closure)  # type: ignore[arg-type]  # torch calls it a function to float
        if isinstance(self.optimizer, LBFGS):  # its last evaluation need not be at the parameters that it chose
            with torch.no_grad():
                losses = self._losses(pair)
            self._keep_if_finite(losses[0])
        assert losses is not None
        return _root(losses[0]), losses[1].item()

    @torch.no_grad()
    def test(self, pair: Pair) -> float:
        """Root of the loss on a batch."""
        output = self.model(pair[0])
        return _root(_scalar(self.loss_fn(output, pair[1])))

    @torch.no_grad()
    def restore(self) -> None:
        """Put back the parameters and grids that were last known to be good."""
        for t, good in zip(self._state(), self._good, strict=True):
            t.copy_(good)

    def _losses(self, pair: Pair) -> tuple[Tensor, Tensor]:
        x, label = pair
        if not self.lamb:
            loss = _scalar(self.loss_fn(self.model(x), label))
            return loss, loss.new_zeros(())
        output, inputs = flow.record(self.model, self.model.layers, x)
        loss = _scalar(self.loss_fn(output, label))
        return loss, self.penalty(self.model, inputs)

    @torch.no_grad()
    def _keep_if_finite(self, value: Tensor) -> None:
        if not value.isfinite():
            raise _Diverged
        for t, good in zip(self._state(), self._good, strict=True):
            good.copy_(t)

    def _state(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.model.buffers()]


def _scalar(loss: Tensor) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"loss_fn must return a scalar tensor, got {got}; take the mean, for example")
    return loss.reshape(())


def _root(loss: Tensor) -> float:
    return loss.sqrt().item()


def _number(name: str, value: Any) -> float:
    try:
        return float(value.item() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"the metric {name} must return a number, got {value!r:.80}") from None


def _named(metrics: Iterable[Metric]) -> dict[str, Metric]:
    named: dict[str, Metric] = {}
    for metric in metrics:
        name = getattr(metric, "__name__", None)
        if not callable(metric) or name is None:
            raise TypeError(f"metrics must be functions without arguments that have a __name__, got {metric!r}")
        if name in named or name in ("train_loss", "test_loss", "reg"):
            raise ValueError(f"two lists of the history would have the name {name!r}; rename a metric")
        named[name] = metric
    return named


def _forget_splines(optimizer: Optimizer, model: KAN) -> None:
    """Drop what the optimiser remembers of parameters that a grid update has refitted."""
    if isinstance(optimizer, LBFGS):
        optimizer.state.clear()  # its history mixes all parameters
        return
    for layer in model.layers:
        optimizer.state.pop(layer.spline_weight, None)


def _warn_if_outside(model: KAN, x: Tensor) -> None:
    layer = model.layers[0]
    knots, k = layer.grid, layer.spline_order
    start, end = knots[:, k], knots[:, -1 - k]
    outside = ((x < start) | (x > end)).any(1).float().mean().item()
    if outside:
        warnings.warn(
            f"{outside:.1%} of the training samples lie outside of the grid, where splines hardly learn. Use "
            "update_grid=True, scale the inputs, or give the network a grid_range that covers them: "
            f"the data reach from {x.min().item():.4g} to {x.max().item():.4g}",
            UserWarning,
            stacklevel=3,
        )
