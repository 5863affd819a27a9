"""A KAN next to an MLP with as many parameters: same batches, same optimiser, epochs in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]
Score = Callable[[Tensor, Tensor], float]


@dataclass
class Contestant:
    """A model in training, with its score after every epoch."""

    model: nn.Module
    seconds: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def seconds_per_epoch(self) -> float:
        return median(self.seconds)


def equal_mlp(model: nn.Module, in_features: int, out_features: int) -> nn.Sequential:
    """An MLP with one hidden layer of ReLUs, as wide as it takes to have as many parameters as `model`."""
    parameters = sum(p.numel() for p in model.parameters())
    hidden = max(1, round((parameters - out_features) / (in_features + out_features + 1)))
    return nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, out_features))


def train_in_turns(
    models: Mapping[str, nn.Module],
    train: Pair,
    watch: Pair,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    score: Score,
    *,
    epochs: int,
    batch: int,
    lr: float,
    weight_decay: float = 0.0,
    keep_best: bool = False,
    seed: int = 0,
) -> dict[str, Contestant]:
    """Train every model with AdamW and a cosine schedule; the models take turns epoch by epoch.

    Args:
        models: name to model.
        train: inputs and labels.
        watch: data that `score` is applied to after every epoch.
        loss_fn: the loss to minimise.
        score: the higher the better, from output and label.
        epochs: passes through the training data.
        batch: samples per step.
        lr: learning rate at the start; the schedule ends at 0.
        weight_decay: of AdamW.
        keep_best: whether each model ends as it was after the epoch with its best score (early stopping).
        seed: of the order of the samples, which is the same for every model.

    Returns:
        Name to trained contestant.
    """
    x, y = train
    contestants = {name: Contestant(model) for name, model in models.items()}
    optimizers = {name: torch.optim.AdamW(m.parameters(), lr, weight_decay=weight_decay) for name, m in models.items()}
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, epochs) for o in optimizers.values()]
    best: dict[str, dict[str, Tensor]] = {}
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        parts = torch.randperm(len(x), generator=generator).split(batch)
        for name, contestant in contestants.items():
            start = time.perf_counter()
            for rows in parts:
                optimizers[name].zero_grad()
                loss_fn(contestant.model(x[rows]), y[rows]).backward()
                optimizers[name].step()
            contestant.seconds.append(time.perf_counter() - start)
            contestant.scores.append(evaluate(contestant.model, watch, score))
            if keep_best and contestant.scores[-1] == max(contestant.scores):
                best[name] = deepcopy(contestant.model.state_dict())
        for schedule in schedules:
            schedule.step()
    for name, state in best.items():
        contestants[name].model.load_state_dict(state)
    return contestants


@torch.no_grad()
def evaluate(model: nn.Module, data: Pair, score: Score) -> float:
    """Score of a model on inputs and labels."""
    return score(model(data[0]), data[1])
