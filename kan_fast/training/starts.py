"""Other initialisations for small networks: the objective after ten steps tells a poor minimum from a good one."""

from __future__ import annotations

import copy
import math
import zlib
from dataclasses import replace

import torch

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


def wanted(model: Network, options: FitOptions) -> int:
    """The number of starts that a training may try, at least 1.

    By default several for small networks whose parameters are those that their layers drew, where all data are in every
    step, and the objective of a start does not depend on anything else (an optimiser of the user, a checkpoint).

    Raises:
        ValueError: several are asked for, and the training ends before they would be compared.
    """
    if options.starts is not None:
        if options.starts > 1 and options.steps <= STEPS:
            raise ValueError(
                f"several starts are compared after {STEPS} steps, which must be fewer than steps; got "
                f"starts={options.starts}, steps={options.steps}. Give more steps, or use multistart"
            )
        return options.starts
    total = options.steps * len(options.grids or [None])
    possible = (
        options.opt in MOST
        and options.batch == -1
        and options.loss_fn is None
        and options.checkpoint is None
        and not options.continual
        and options.steps > STEPS
        and all(layer.as_drawn() for layer in model.layers)
        and sum(p.numel() for p in trainable(model)) <= SMALL
    )
    return max(1, min(MOST[str(options.opt)], total // PER_START)) if possible else 1


def draw(model: Network, seed: int) -> None:
    """New parameters for all layers without frozen ones; the global random generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for layer in model.layers:
            if all(p.requires_grad for p in layer.parameters()):
                layer.reset_parameters()


class Starts:
    """Compares the network of a training with other initialisations after `STEPS` steps, and goes on with the best.

    Args:
        model: the network, before its training.
        options: of `fit`.
    """

    def __init__(self, model: Network, options: FitOptions) -> None:
        self.count = wanted(model, options)
        self.seed = options.seed
        if self.seed is None and self.count > 1:  # another one for every network, and the same on every machine
            self.seed = zlib.crc32(model.layers[0].spline_weight.detach().cpu().double().numpy().tobytes())

    def due(self, stage: int, step: int) -> bool:
        """Whether it is time to compare, before this step of this stage."""
        return self.count > 1 and (stage, step) == (0, STEPS)

    def choose(self, loop: Loop) -> None:
        """Put the best start into the network and the optimiser of the loop; its number is `loop.start` then."""
        best = _objective(loop)
        chosen: Loop | None = None
        for start in range(1, self.count):
            if _is_good(loop, best):
                break
            loop.history.setdefault("start", [0.0] * STEPS)
            trial = _trial(loop, (self.seed or 0) + start)
            objective = _run(trial)
            if objective < best:
                best, loop.start, chosen = objective, start, trial
        if chosen is not None:
            loop.model.load_state_dict(chosen.model.state_dict())
            loop.objective.optimizer.load_state_dict(chosen.objective.optimizer.state_dict())
            loop.objective.keep()
            loop.stopping = EarlyStopping(loop.options.patience)


def _trial(loop: Loop, seed: int) -> Loop:
    """The same training of a copy of the network, with parameters of its own and nothing that acts outside of it."""
    options = replace(
        loop.options, steps=STEPS, grids=None, starts=1, callbacks=(), metrics=(), scheduler=None, patience=None
    )
    model = copy.deepcopy(loop.model)
    draw(model, seed)
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
