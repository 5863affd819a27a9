"""Progression of diabetes: a small, noisy table, where a KAN has to show that it does not overfit."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor, nn

from kan_fast.demo import pictures
from kan_fast.demo.compare import Pair, equal_mlp, evaluate, train_in_turns
from kan_fast.nn.linear import KANLinear

TITLE = "Progression of diabetes (442 patients, 10 measurements; noisy data, most of the variance unexplained)"
SPLITS = 10
EPOCHS = 60


def run(out: Path, splits: int = SPLITS, epochs: int = EPOCHS) -> dict[str, Any]:
    """Compare over several splits into training (60 %), validation and test data; draws `diabetes.png`.

    Validation data choose the epoch of both networks; linear regression, which needs none, learns from them as well.
    """
    results: dict[str, list[float]] = {"KAN": [], "MLP": [], "linear regression": []}
    seconds: dict[str, list[float]] = {"KAN": [], "MLP": []}
    parameters = {"linear regression": 11}
    for seed in range(splits):
        torch.manual_seed(seed)
        train, validation, test = _data(seed)
        kan = KANLinear(10, 1, grid_size=2, grid_range=(-3, 3))
        contestants = train_in_turns(
            {"KAN": kan, "MLP": equal_mlp(kan, 10, 1)},
            train,
            validation,
            nn.MSELoss(),
            _r2,
            epochs=epochs,
            batch=32,
            lr=1e-2,
            weight_decay=1e-2,
            keep_best=True,
            seed=seed,
        )
        for name, contestant in contestants.items():
            parameters[name] = contestant.parameters
            seconds[name].extend(contestant.seconds)
            results[name].append(evaluate(contestant.model, test, _r2))
        results["linear regression"].append(_linear_regression(train, validation, test))

    figures: dict[str, Any] = {"epochs": epochs, "batch": 32, "splits": splits}
    for name, scores in results.items():
        figures[name] = {"parameters": parameters[name], "test_r2": scores, "mean_test_r2": mean(scores)}
        text = f"  {name}: {parameters[name]} parameters, test R2 {mean(scores):.3f}"
        text += f" +- {stdev(scores):.3f} (mean and deviation of {splits} splits)" if splits > 1 else ""
        if name in seconds:
            figures[name]["seconds_per_epoch"] = sorted(seconds[name])[len(seconds[name]) // 2]
            text += f", {figures[name]['seconds_per_epoch']:.4f} s per epoch"
        print(text)
    pictures.spread(results, "test R2", f"Progression of diabetes, {splits} splits", out / "diabetes.png")
    return figures


def _data(seed: int) -> tuple[Pair, Pair, Pair]:
    """Training, validation and test data, standardised by the mean and deviation of the training data."""
    from sklearn.datasets import load_diabetes

    x, y = (torch.tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True))
    y = y[:, None]
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, validation, test = rows.split([265, 88, 89])
    x = (x - x[train].mean(0)) / x[train].std(0)
    y = (y - y[train].mean()) / y[train].std()
    return (x[train], y[train]), (x[validation], y[validation]), (x[test], y[test])


def _linear_regression(train: Pair, validation: Pair, test: Pair) -> float:
    from sklearn.linear_model import LinearRegression

    x, y = (torch.cat(parts) for parts in zip(train, validation, strict=True))
    predicted = LinearRegression().fit(x.numpy(), y.numpy()).predict(test[0].numpy())
    return _r2(torch.from_numpy(predicted), test[1])


def _r2(output: Tensor, label: Tensor) -> float:
    """Share of the variance that is explained."""
    return 1 - ((output - label).square().mean() / label.var(correction=0)).item()
