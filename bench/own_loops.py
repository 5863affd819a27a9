"""Grids in a plain training loop: test errors without moves, with moves, and with an optimiser that is told of them.

`python -m bench.own_loops` writes the table of docs/own_loops.md: medians of eight seeds, in some ten minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from kan_fast import KANLinear, update_grids
from kan_fast.nn import grids

SEEDS, BATCH = 8, 128
Data = tuple[Tensor, Tensor, Tensor, Tensor]  # x, y, and those for tests


class Task(NamedTuple):
    """Data, sizes of two layers, and steps of the loop; the learning rate falls to a tenth for the last 30 %."""

    data: Callable[[int], Data]
    width: tuple[int, int, int]
    loss: Callable[[Tensor, Tensor], Tensor]
    grid: int
    rate: float
    every: int
    stop: int
    steps: int


def normal(scale: float) -> Callable[[int], Data]:
    """A smooth function of four normal numbers, which the network gets multiplied by `scale`."""

    def make(seed: int) -> Data:
        generator = torch.Generator().manual_seed(seed + 100)
        z, test = (torch.randn(n, 4, generator=generator) for n in (4000, 2000))
        y, y_test = (torch.sin(2 * t[:, :1]) * t[:, 1:2] + (t[:, 2:3] ** 2 - t[:, 3:4]).tanh() for t in (z, test))
        return scale * z, y, scale * test, y_test

    return make


def digits(seed: int) -> Data:
    """Pictures of 8x8 pixels from 0 to 1; the labels are class numbers."""
    x, y = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
    x = (x / 16).float()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed + 100))
    return x[order[:1300]], y[order[:1300]], x[order[1300:]], y[order[1300:]]


def rmse(output: Tensor, label: Tensor) -> Tensor:
    return nn.functional.mse_loss(output, label).sqrt()


TASKS = {
    "N(0, 1), lr 0.03": Task(normal(1), (4, 8, 1), rmse, 5, 0.03, 20, 200, 1500),
    "N(0, 3^2), lr 0.03": Task(normal(3), (4, 8, 1), rmse, 5, 0.03, 20, 200, 1500),
    "N(0, 1), lr 0.01": Task(normal(1), (4, 8, 1), rmse, 5, 0.01, 20, 200, 1500),
    "N(0, 3^2), lr 0.01": Task(normal(3), (4, 8, 1), rmse, 5, 0.01, 20, 200, 1500),
    "N(0, 1), lr 0.01, G = 10, 20 moves in 1000 steps": Task(normal(1), (4, 8, 1), rmse, 10, 0.01, 50, 1000, 1500),
    "digits, lr 0.002, 4 moves": Task(digits, (64, 32, 10), nn.functional.cross_entropy, 5, 0.002, 50, 200, 600),
    "digits, lr 0.005, 10 moves": Task(digits, (64, 32, 10), nn.functional.cross_entropy, 5, 0.005, 20, 200, 600),
}


def carry(model: nn.Module, x: Tensor, optimizer: Optimizer) -> None:
    """Move the grids, and carry Adam's averages as the coefficients; those of squares by means of their neighbours."""
    layers = [layer for layer in model.modules() if isinstance(layer, KANLinear)]
    before = [layer.grid.clone() for layer in layers]
    update_grids(model, x)
    for layer, old in zip(layers, before, strict=True):
        matrix = grids.transfer(old, layer.grid, layer.spline_order, layer.extrapolation)
        means = matrix.abs() / matrix.abs().sum(-1, keepdim=True)
        memory = optimizer.state.get(layer.spline_weight, {})
        for name, rows in (("exp_avg", matrix), ("exp_avg_sq", means)):
            if name in memory:
                memory[name].copy_(torch.einsum("irs,ois->oir", rows, memory[name].to(rows.dtype)))


WAYS: dict[str, Callable[[nn.Module, Tensor, Optimizer], object]] = {
    "never moved": lambda model, x, optimizer: None,
    "moved": lambda model, x, optimizer: update_grids(model, x),
    "moved, averages carried": carry,
    "moved, averages forgotten": update_grids,
}


def error(task: Task, way: str, seed: int) -> float:
    """The test error after a training."""
    x, y, x_test, y_test = task.data(seed)
    torch.manual_seed(seed)
    inputs, hidden, outputs = task.width
    model = nn.Sequential(
        KANLinear(inputs, hidden, grid_size=task.grid), KANLinear(hidden, outputs, grid_size=task.grid)
    )
    optimizer = Adam(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    for step in range(task.steps):
        if step < task.stop and step % task.every == 0:
            WAYS[way](model, x, optimizer)
        optimizer.param_groups[0]["lr"] = task.rate * (1 if step < 0.7 * task.steps else 0.1)
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        loss = task.loss(model(x[rows]), y[rows])
        optimizer.zero_grad()
        (loss.square() if task.loss is rmse else loss).backward()
        optimizer.step()
    with torch.no_grad():
        return task.loss(model(x_test), y_test).item()


def main() -> None:
    print("|", " | ".join(["inputs", *WAYS]), "|\n|", "|".join(["---"] * (len(WAYS) + 1)), "|", sep="")
    for name, task in TASKS.items():
        medians = [torch.tensor([error(task, way, seed) for seed in range(SEEDS)]).median() for way in WAYS]
        print("|", " | ".join([name, *(f"{median:.3f}" for median in medians)]), "|", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
