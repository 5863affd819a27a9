"""The loop of `fit`: stages of grids, steps, and the tasks after each step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from kan_fast.nn.network import Network
from kan_fast.training import checkpoint
from kan_fast.training.data import Source
from kan_fast.training.grid_schedule import GridSchedule
from kan_fast.training.objective import Objective
from kan_fast.training.options import Callback, FitOptions, Metric
from kan_fast.training.stopping import EarlyStopping

Entry = dict[str, float]
History = dict[str, list[float]]


def steps_of(history: History) -> int:
    """The number of steps that have ended, while a training is at work on the history."""
    return len(history["train_loss"])


def never_empty(history: History) -> None:
    """Enter NaN where no step has ended, so that the last entry is there whatever happened."""
    for values in history.values():
        if not values:
            values.append(math.nan)


class Visitor(Protocol):
    """What looks at the training before each step; see `training.starts.Starts`."""

    def visit(self, loop: Loop, stage: int, step: int) -> None:
        """Look, and change the network where that is due."""


@dataclass
class Loop:
    """Training of a network, one step at a time."""

    model: Network
    objective: Objective
    schedule: GridSchedule
    stopping: EarlyStopping
    scheduler: LRScheduler | None
    train: Source
    test: Source | None
    metrics: dict[str, Metric]
    options: FitOptions
    history: History
    starts: Visitor | None = None
    start: int = 0  # number of the initialisation, where the history has a list of them

    def resume(self) -> tuple[int, int]:
        """Continue from the checkpoint; returns the stage and the number of its steps that are done."""
        assert self.options.checkpoint is not None
        position = checkpoint.load(self.options.checkpoint, self._state())
        for _ in range(steps_of(self.history)):  # draws the batches that were seen already
            self.train.batch()
            if self.test is not None:
                self.test.batch()
        self.objective.keep()
        return position

    def run(self, position: tuple[int, int] = (0, 0)) -> Iterator[Entry]:
        """Train, and yield the new entry of the history after each step."""
        first, begin = position
        callbacks = cast(Sequence[Callback], self.options.callbacks)
        optimizer = self.objective.optimizer
        stages = len(self.schedule.sizes)
        for stage in range(first, stages):
            if self.schedule.refine(self.model, optimizer, stage):
                self.objective.keep()
            for step in range(begin, self.options.steps):
                if self.starts is not None:
                    self.starts.visit(self, stage, step)
                self.schedule.update(self.model, optimizer, step, self.train.samples)
                entry = self._enter(*self.objective.step(self.train.batch()))
                yield entry
                done = steps_of(self.history)
                watched = entry["train_loss"] if self.test is None else entry["test_loss"]
                self._adjust_rate(watched)
                answers = [callback(done - 1, entry) for callback in callbacks]
                leave = any(answer is True for answer in answers)
                stopped = self.stopping.stops(self.model, watched)
                over = leave or stopped or step == self.options.steps - 1
                if over:
                    self.stopping.end_stage(self.model)
                position = (stages, 0) if leave else (stage + 1, 0) if stopped else (stage, step + 1)
                if self.options.checkpoint is not None and (
                    leave or done % self.options.save_every == 0 or (over and stage == stages - 1)
                ):
                    checkpoint.save(self.options.checkpoint, self._state(), position)
                if leave:
                    return
                if over:
                    break
            begin = 0
        if not self.options.steps and not steps_of(self.history):
            self._enter(*self.objective.evaluate(self.train.batch()))

    def _state(self) -> checkpoint.RunState:
        return checkpoint.RunState(self.model, self.objective.optimizer, self.scheduler, self.stopping, self.history)

    def _enter(self, loss: float, reg: float) -> Entry:
        """Enter a training loss, its regularisation, and all that is measured beside them."""
        test = float("nan") if self.test is None else self.objective.test(self.test.batch())
        entry = {"train_loss": loss, "test_loss": test, "reg": reg}
        for name, metric in self.metrics.items():
            entry[name] = _number(name, metric())
        if "start" in self.history:
            entry["start"] = float(self.start)
        for name, value in entry.items():
            self.history[name].append(value)
        return entry

    def _adjust_rate(self, watched: float) -> None:
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(watched)
        elif self.scheduler is not None:
            self.scheduler.step()


def _number(name: str, value: Any) -> float:
    try:
        return float(value.item() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"the metric {name} must return a number, got {value!r:.80}") from None
