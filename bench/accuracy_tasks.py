"""The tasks of `bench.accuracy`: what is trained, and the figures that are taken of it for a seed."""

from __future__ import annotations

import contextlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.timing import interleaved
from kan_fast import KAN
from kan_fast.nn.functions import bessel_j0
from kan_fast.nn.grids import uniform_grid
from kan_fast.ops.reference import bspline
from kan_fast.optim import LBFGS, LevenbergMarquardt

Function = Callable[[Tensor], Tensor]
Figures = dict[str, float]


def exp_sin(x: Tensor) -> Tensor:
    return torch.exp(torch.sin(math.pi * x[:, :1]) + x[:, 1:] ** 2)


def product(x: Tensor) -> Tensor:
    return x[:, :1] * x[:, 1:]


def mean_of_squares(x: Tensor) -> Tensor:
    return torch.exp((torch.sin(math.pi * x / 2) ** 2).mean(1, keepdim=True))


def four_dimensional(x: Tensor) -> Tensor:
    inner = [torch.sin(math.pi * (x[:, i] ** 2 + x[:, i + 1] ** 2)) for i in (0, 2)]
    return torch.exp((inner[0] + inner[1]) / 2)[:, None]


def bessel(x: Tensor) -> Tensor:
    return bessel_j0(20 * x)


def dataset(
    f: Function, dimensions: int, samples: int, seed: int, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Uniform on [-1, 1], as pykan's `create_dataset`; 1,000 test samples."""
    make = torch.Generator().manual_seed(seed)
    x, test = (torch.rand(n, dimensions, generator=make, dtype=torch.float64) * 2 - 1 for n in (samples, 1000))
    pairs = {"train_input": x, "train_label": f(x), "test_input": test, "test_label": f(test)}
    return {name: t.to(dtype) for name, t in pairs.items()}


def extended(
    f: Function, width: Sequence[int], samples: int, seed: int, grids: Sequence[int], **options: Any
) -> tuple[dict[int, float], float]:
    """Test RMSE after the steps on each grid, and seconds; `starts` initialisations are tried on the first grid."""
    dtype = options.pop("dtype", torch.float64)
    degree = options.pop("degree", 3)
    model = KAN(width, grids[0], degree, seed=seed, grid_eps=1.0, dtype=dtype)
    steps, starts, decay = options.pop("steps"), options.pop("starts", 1), options.pop("weight_decay", 0.0)
    data = dataset(f, width[0], samples, seed, dtype)
    begin = time.perf_counter()
    if starts > 1:
        model.multistart(data, starts, "LM", steps, seed=seed, progress=False, **options)
    optimizer = LevenbergMarquardt(model, weight_decay=decay)
    history = model.fit(data, optimizer, steps, grids=grids, progress=False, **options)
    seconds = time.perf_counter() - begin
    ends = history["test_loss"][steps - 1 :: steps]
    return dict(zip(grids, ends, strict=False)), seconds


def grid_extension(seed: int) -> Figures:
    grids = (3, 5, 10, 20, 50, 100)
    rmse, seconds = extended(exp_sin, [2, 1, 1], 3000, seed, grids, steps=40, update_grid_every=5, stop_update_at=20)
    fitted = [g for g in grids if g >= 5]
    slope = np.polyfit(np.log(fitted), np.log([rmse[g] for g in fitted]), 1)[0]
    return {f"G={g}": rmse[g] for g in (20, 50, 100)} | {"slope": -slope, "seconds": seconds}


def j0(seed: int) -> Figures:
    figures = {}
    for size in (100, 200):
        rmse, _ = extended(bessel, [1, 1], 1000, seed, (size,), steps=25, update_grid=False)
        figures[f"G={size}"] = rmse[size]
        figures[f"G={size} / best"] = rmse[size] / best_approximation(bessel, size)
    return figures


def best_approximation(f: Function, size: int, degree: int = 3) -> float:
    """Root mean square error of the L2 projection of f on the cubic splines with `size` equal spans on [-1, 1]."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(10))
    left = torch.linspace(-1, 1, size + 1, dtype=torch.float64)[:-1, None]
    x = (left + (nodes + 1) / size).reshape(-1, 1)
    weight = (weights / (2 * size)).repeat(size)[:, None].sqrt()  # of the mean over [-1, 1]
    rows = bspline(x, uniform_grid(1, size, degree, (-1, 1)), degree)[:, 0]
    solution = torch.linalg.lstsq(weight * rows, weight * f(x), driver="gelsd").solution
    return (weight * (rows @ solution - f(x))).norm().item()


def xy(seed: int) -> Figures:
    rmse, seconds = extended(product, [2, 2, 1], 1000, seed, (3, 5), steps=200, update_grid_every=5, stop_update_at=25)
    return {"RMSE": rmse[5], "seconds": seconds}


def hundred(
    samples: int, grids: Sequence[int], degree: int = 3, dtype: torch.dtype = torch.float64
) -> Callable[[int], Figures]:
    def measure(seed: int) -> Figures:
        options = {"starts": 5, "steps": 20, "update_grid_every": 5, "stop_update_at": 10}
        options |= {"degree": degree, "dtype": dtype}
        rmse, seconds = extended(mean_of_squares, [100, 1, 1], samples, seed, grids, **options)
        return {"RMSE": rmse[grids[-1]], "seconds": seconds}

    return measure


def four(samples: int, grids: Sequence[int]) -> Callable[[int], Figures]:
    def measure(seed: int) -> Figures:
        options = {"starts": 12, "steps": 80, "update_grid_every": 5, "stop_update_at": 30, "weight_decay": 1e-14}
        rmse, seconds = extended(four_dimensional, [4, 4, 2, 1], samples, seed, grids, **options)
        return {"RMSE": min(rmse.values()), "seconds": seconds}

    return measure


def pruned(seed: int) -> Figures:
    """Test RMSE after fit with the sparsity penalty, after prune in units of it, and that with prune(refit=10)."""
    model = KAN([2, 5, 1], grid=5, seed=seed, dtype=torch.float64)
    data = dataset(exp_sin, 2, 1000, seed)
    model.fit(data, steps=50, lamb=1e-3, progress=False)

    def error(network: nn.Module) -> float:
        with torch.no_grad():
            return F.mse_loss(network(data["test_input"]), data["test_label"]).sqrt().item()

    before = error(model)
    after, refitted = (error(model.prune(refit=steps)) / before for steps in (0, 10))
    return {"RMSE": before, "prune() / before": after, "prune(refit=10) / before": refitted}


def poisson(seed: int) -> Figures:
    """`u_xx + u_yy = f` on [-1, 1]^2 for u = sin(pi x) sin(pi y^2): residuals inside and on the boundary."""
    make = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=make, dtype=torch.float64) * 2 - 1

    inside, edge = uniform(10000, 2), uniform(4, 200)
    one = torch.ones_like(edge[0])
    sides = [(edge[0], one), (edge[1], -one), (one, edge[2]), (-one, edge[3])]
    boundary = torch.cat([torch.stack(side, 1) for side in sides])

    def solution(x: Tensor) -> Tensor:
        return (torch.sin(math.pi * x[:, 0]) * torch.sin(math.pi * x[:, 1] ** 2))[:, None]

    def laplacian(f: Function, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        slope = torch.autograd.grad(f(x).sum(), x, create_graph=True)[0]
        second = [torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i : i + 1] for i in range(2)]
        return second[0] + second[1]

    right, given = laplacian(solution, inside).detach(), solution(boundary)
    model = KAN([2, 10, 1], grid=3, seed=seed, grid_eps=1.0, dtype=torch.float64)
    begin = time.perf_counter()
    for size in (3, 5, 10):
        model = model.refine(size)
        optimizer = LevenbergMarquardt(model)
        for step in range(25):
            if step in (0, 4, 8, 12):
                model.update_grid(inside, margin=0.25 / size)
            optimizer.step(lambda model=model: (0.1 * (laplacian(model, inside) - right), model(boundary) - given))
    seconds = time.perf_counter() - begin
    line = torch.linspace(-1, 1, 101, dtype=torch.float64)
    x = torch.cartesian_prod(line, line).requires_grad_()
    error = model(x) - solution(x)
    slope = torch.autograd.grad(error.sum(), x)[0]
    squares = error.square().mean().item()
    return {"L2^2": squares, "H1^2": squares + slope.square().sum(1).mean().item(), "seconds": seconds}


def five_peaks(seed: int) -> Figures:
    x = torch.linspace(-1, 1, 500, dtype=torch.float64)[:, None]
    centres = torch.linspace(-0.8, 0.8, 5, dtype=torch.float64)
    y = torch.exp(-300 * (x - centres) ** 2).sum(1, keepdim=True)
    model = KAN([1, 1], grid=200, seed=seed, dtype=torch.float64)
    begin = time.perf_counter()
    for phase in range(5):
        part = slice(100 * phase, 100 * (phase + 1))
        model.fit((x[part], y[part]), continual=True, progress=False)
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        return {"RMSE": F.mse_loss(model(x), y).sqrt().item(), "seconds": seconds}


def against_pykan(seed: int) -> Figures:
    """The whole grid extension on 1,000 points, next to pykan's with 50 LBFGS steps per grid if it is installed."""
    grids = (3, 5, 10, 20, 50, 100)
    ours, seconds = extended(exp_sin, [2, 1, 1], 1000, seed, grids, steps=20, update_grid_every=5, stop_update_at=10)
    figures = {"RMSE": min(ours.values()), "seconds": seconds}
    try:
        import kan
    except ImportError:
        return figures
    torch.set_default_dtype(torch.float64)
    data = dataset(exp_sin, 2, 1000, seed)
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        begin = time.perf_counter()
        model = kan.KAN(width=[2, 1, 1], grid=grids[0], k=3, seed=seed, ckpt_path=folder)
        for size in grids:
            model = model if size == grids[0] else model.refine(size)
            theirs.append(float(model.fit(data, opt="LBFGS", steps=50)["test_loss"][-1]))
        taken = time.perf_counter() - begin
    torch.set_default_dtype(torch.float32)
    return figures | {"pykan RMSE": min(theirs), "pykan seconds": taken, "speedup": taken / seconds}


def mlp(inputs: int, parameters: int) -> nn.Module:
    """Two hidden layers, with at most this number of parameters."""
    width = int((-(inputs + 3) + math.sqrt((inputs + 3) ** 2 + 4 * (parameters - 1))) / 2)
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))


def step_times(width: Sequence[int], samples: int, line_search: bool) -> Callable[[int], Figures]:
    """Milliseconds of a training step next to those of an MLP with as many parameters."""

    def measure(seed: int) -> Figures:
        x = torch.rand(samples, width[0], generator=torch.Generator().manual_seed(seed)) * 2 - 1
        y = x.square().sum(1, keepdim=True).sin()
        network = KAN(width, grid=5 if samples == 1000 else 3, seed=seed)
        rival = mlp(width[0], sum(p.numel() for p in network.parameters()))

        def step(model: nn.Module, optimizer: Any) -> Callable[[], Any]:
            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                loss.backward()
                return loss

            return lambda: optimizer.step(closure)

        if line_search:
            torch_options = {"line_search_fn": "strong_wolfe", "tolerance_grad": 0, "tolerance_change": 0}
            theirs: Any = torch.optim.LBFGS(rival.parameters(), history_size=10, **torch_options)
            ours: Any = LBFGS(network.parameters())
        else:
            theirs = torch.optim.Adam(rival.parameters(), fused=True)
            ours = torch.optim.Adam(network.parameters(), fused=True)
        seconds = interleaved({"KAN": step(network, ours), "MLP": step(rival, theirs)}, 15)
        medians = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
        return {f"{name} ms": value for name, value in medians.items()} | {"KAN / MLP": medians["KAN"] / medians["MLP"]}

    return measure
