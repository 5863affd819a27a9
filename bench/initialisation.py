"""Initialisations and base functions: `python -m bench.initialisation [--seeds N] [--results FILE]`, in half an hour.

Each scheme of `kan_fast.nn.initial` and each base function learns functions (Adam, hidden layers of 8), Poisson's
equation (Levenberg-Marquardt) and handwritten digits (Adam, hidden layers of 32), with 2, 4 and 8 layers.
"""

from __future__ import annotations

import argparse
import math
import statistics
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from bench.timing import machine
from kan_fast import KAN, KANLinear
from kan_fast.nn.initial import SCHEMES
from kan_fast.optim import LevenbergMarquardt

DEPTHS, BASES = (2, 4, 8), ("silu", "identity")
FUNCTIONS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "exp(sin(pi x) + y^2)": (2, lambda x: torch.exp(torch.sin(math.pi * x[:, :1]) + x[:, 1:] ** 2)),
    "sin(3 pi x) cos(2 pi y)": (2, lambda x: torch.sin(3 * math.pi * x[:, :1]) * torch.cos(2 * math.pi * x[:, 1:])),
    "four inputs": (4, lambda x: torch.exp(torch.sin(math.pi * x.square().view(-1, 2, 2).sum(2)).mean(1, True))),
    "u v + x y z": (5, lambda x: x[:, :1] * x[:, 1:2] + x[:, 2:].prod(1, keepdim=True)),
    "|x - y| + tanh 5z": (3, lambda x: (x[:, :1] - x[:, 1:2]).abs() + torch.tanh(5 * x[:, 2:])),
}


def layers(width: list[int], base: str, init: str) -> nn.Sequential:
    """A network in a plain loop."""
    return nn.Sequential(*(KANLinear(a, b, base=base, init=init) for a, b in pairwise(width)))


def train(model: nn.Module, x: Tensor, y: Tensor, loss_fn: nn.Module, steps: int, rate: float, batch: int) -> None:
    """AdamW with a cosine schedule."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.arange(0)
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(x))
        rows, order = order[:batch], order[batch:]
        optimizer.zero_grad()
        loss_fn(model(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()


def function(depth: int, base: str, init: str, seed: int) -> float:
    """Test RMSE in units of the deviation, geometric mean over the functions."""
    errors = []
    for inputs, target in FUNCTIONS.values():
        generator = torch.Generator().manual_seed(seed)
        x, test = (torch.rand(1000, inputs, generator=generator) * 2 - 1 for _ in range(2))
        y, label = target(x), target(test)
        y, label = (y - y.mean()) / y.std(), (label - y.mean()) / y.std()
        torch.manual_seed(seed)
        model = layers([inputs, *[8] * (depth - 1), 1], base, init)
        train(model, x, y, nn.MSELoss(), 600, 5e-3, len(x))
        with torch.no_grad():
            errors.append((model(test) - label).square().mean().sqrt().item())
    return statistics.geometric_mean(errors)


def poisson(depth: int, base: str, init: str, seed: int) -> float:
    """RMSE of the equation of docs/differential_equations.md, hidden layers of 5."""
    model = KAN([2, *[5] * (depth - 1), 1], grid=5, seed=seed, base=base, init=init, dtype=torch.float64)
    axis = torch.linspace(-1, 1, 21, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis).requires_grad_()
    edge = x.detach()[(x.abs() == 1).any(1)]
    exact = torch.sin(math.pi * x.detach()).prod(1, keepdim=True)

    def residuals() -> tuple[Tensor, Tensor]:
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        laplacian = sum(torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, [i]] for i in (0, 1))
        return laplacian + 2 * math.pi**2 * exact, 10 * model(edge)

    optimizer = LevenbergMarquardt(model)
    for _ in range(20):
        optimizer.step(residuals)
    with torch.no_grad():
        return (model(x) - exact).square().mean().sqrt().item()


def digits(depth: int, base: str, init: str, seed: int) -> float:
    """Share of wrong answers on a fifth of 1,797 pictures, in per cent."""
    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x / 8 - 1, y, test_size=0.2, stratify=y, random_state=seed)
    train_x, test_x = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
    train_y, test_y = (torch.tensor(part) for part in parts[2:])
    torch.manual_seed(seed)
    model = layers([64, *[32] * (depth - 1), 10], base, init)
    train(model, train_x, train_y, nn.CrossEntropyLoss(), 400, 5e-3, 64)
    with torch.no_grad():
        return 100 * (model(test_x).argmax(1) != test_y).double().mean().item()


TASKS = {"functions, test RMSE": function, "Poisson, RMSE": poisson, "digits, % wrong": digits}


def table(seeds: int) -> str:
    """Run everything and print the lines; returns them as Markdown."""
    on = machine()
    lines = [
        f"{on['processor']}, torch {on['torch']}, Python {on['python']}; {seeds} seeds: median (worst).",
        "",
        "| layers | base | init | " + " | ".join(TASKS) + " |",
        "|---|---|---|" + "---|" * len(TASKS),
    ]
    print("\n".join(lines), flush=True)
    for depth in DEPTHS:
        for base in BASES:
            for init in SCHEMES:
                cells = []
                for task in TASKS.values():
                    values = [task(depth, base, init, seed) for seed in range(seeds)]
                    cells.append(f"{statistics.median(values):.2g} ({max(values):.2g})")
                lines.append(f"| {depth} | {base} | {init} | " + " | ".join(cells) + " |")
                print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.initialisation", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="0 .. N-1 (default 3)")
    parser.add_argument("--results", type=Path, help="file for the table (default: printed only)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    text = table(options.seeds)
    if options.results:
        options.results.write_text(text)


if __name__ == "__main__":
    main()
