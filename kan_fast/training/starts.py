"""Other initialisations for small networks: the objective after ten steps tells a poor minimum from a good one."""

from __future__ import annotations

import copy
import math
import zlib
from dataclasses import replace

import torch
from torch import nn

from kan_fast.nn import recording
from kan_fast.nn.initial import SMALL
from kan_fast.nn.network import Network
from kan_fast.training.grid_schedule import GridSchedule
from kan_fast.training.loop import Loop
from kan_fast.training.objective import Diverged, Objective
from kan_fast.training.optimizers import make_optimizer, trainable
from kan_fast.training.options import FitOptions
from kan_fast.training.stopping import EarlyStopping

STEPS = 10  # steps after which starts are compared: poor minima have twice the objective of good ones by then
GOOD = 0.01  # share of the variance of the labels below which a start is good, and no other one is tried
MOST = {"LBFGS": 4, "LM": 20}  # starts by default; a step of LM takes a tenth of the time of one of LBFGS
PER_START = 5  # steps of the whole training for each start, so that starts take at most two thirds of all steps


def wanted(model: Network, options: FitOptions, whole: bool) -> int:
    """The number of starts that a training may try, at least 1.

    By default several for small networks whose parameters are those that their layers drew, where all data are in every
    step, and nothing else (an optimiser of the user's, a scheduler, a checkpoint) would have to be copied too.

    Args:
        model: the network, before its training.
        options: of `fit`.
        whole: whether every step has all data.

    Raises:
        ValueError: several are asked for, and can't be compared.
    """
    drawable = any(map(_is_drawable, model.layers))
    if options.starts is not None:
        if options.starts > 1 and not (options.steps > STEPS and whole and drawable and options.scheduler is None):
            raise ValueError(
                f"several starts are compared after {STEPS} steps with all data: they need more steps, data in memory "
                "without batch, no scheduler and a layer without frozen parameters; got "
                f"starts={options.starts}, steps={options.steps}, batch={options.batch}. multistart takes the others"
            )
        return options.starts
    total = options.steps * len(options.grids or [None])
    possible = (
        options.opt in MOST
        and whole
        and options.loss_fn is None
        and options.scheduler is None
        and options.checkpoint is None
        and not options.continual
        and options.steps > STEPS
        and all(layer.as_drawn() and _is_drawable(layer) for layer in model.layers)
        and sum(p.numel() for p in trainable(model)) <= SMALL
    )
    return min(MOST[str(options.opt)], total // PER_START) if possible else 1


def _is_drawable(layer: nn.Module) -> bool:
    return all(p.requires_grad for p in layer.parameters())


def draw(model: Network, seed: int) -> None:
    """New parameters for every layer that has no frozen ones; the global random generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for layer in filter(_is_drawable, model.layers):
            layer.reset_parameters()


class Starts:
    """Compares the network of a training with other initialisations after `STEPS` steps, and goes on with the best.

    Args:
        model, options, whole: see `wanted`.
    """

    def __init__(self, model: Network, options: FitOptions, whole: bool) -> None:
        self.count = wanted(model, options, whole)
        self.seed = 0
        self.initial: Network | None = None
        if self.count > 1:  # other numbers for every network, and the same ones on every machine
            self.seed = zlib.crc32(model.layers[0].spline_weight.detach().cpu().double().numpy().tobytes())

    def visit(self, loop: Loop, stage: int, step: int) -> None:
        """Before each step of a training: keep the network as it is in the beginning, and compare when it is time."""
        if self.count > 1 and (stage, step) == (0, 0):
            self.initial = copy.deepcopy(loop.model)
        elif self.initial is not None and (stage, step) == (0, STEPS):
            self._choose(loop, self.initial)
            self.initial = None

    def _choose(self, loop: Loop, initial: Network) -> None:
        """Put the best start into the network and the optimiser of the loop; its number is `loop.start` then."""
        best = _objective(loop)
        chosen: Loop | None = None
        for start in range(1, self.count):
            if _is_good(loop, best):
                break
            loop.history.setdefault("start", [0.0] * STEPS)
            model = copy.deepcopy(initial)
            draw(model, self.seed + start)
            trial = _trial(loop, model)
            objective = _run(trial)
            if objective < best:
                best, loop.start, chosen = objective, start, trial
        if chosen is not None:
            loop.model.load_state_dict(chosen.model.state_dict())
            loop.objective.optimizer.load_state_dict(chosen.objective.optimizer.state_dict())
            loop.objective.keep()
            loop.stopping = EarlyStopping(loop.options.patience)


def _trial(loop: Loop, model: Network) -> Loop:
    """The same training of another network, without what acts outside of it."""
    options = replace(loop.options, steps=STEPS, grids=None, starts=1, callbacks=(), metrics=(), patience=None)
    made = make_optimizer(options.opt, model, trainable(model), options.lr)
    objective = loop.objective
    return Loop(
        model=model,
        objective=Objective(model, made, objective.loss_fn, objective.lamb, objective.penalty, objective.clip),
        schedule=GridSchedule(options),
        stopping=EarlyStopping(None),
        scheduler=None,
        train=loop.train,
        test=None,
        metrics={},
        options=options,
        history={name: [] for name in ("train_loss", "test_loss", "reg")},
    )


def _run(trial: Loop) -> float:
    """Train, and return the objective in the end; infinite if it diverged."""
    try:
        for _ in trial.run():
            pass
    except (Diverged, recording.NotFinite):
        return math.inf
    return _objective(trial)


def _objective(loop: Loop) -> float:
    loss, reg = loop.history["train_loss"][-1], loop.history["reg"][-1]
    return loss * abs(loss) + loop.options.lamb * reg


def _is_good(loop: Loop, objective: float) -> bool:
    """Whether another start can't gain much. With a sparsity term, whose least value is not known, no one can tell."""
    if loop.options.lamb or loop.options.loss_fn is not None:
        return False
    labels = loop.train.batch()[1]
    return objective <= GOOD * (labels - labels.mean(0)).square().mean().item()
