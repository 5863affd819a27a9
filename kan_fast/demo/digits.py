"""Handwritten digits: a network of KANLinear layers as a drop-in for linear layers, on 1,797 real images."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor, nn

from kan_fast.demo import pictures
from kan_fast.demo.compare import Contestant, Pair, equal_mlp, train_in_turns
from kan_fast.nn.linear import KANLinear

TITLE = "Handwritten digits (1,797 images of 8 x 8 pixels, 10 classes, a fifth held out)"
SPLITS = 10
EPOCHS = 20


def run(out: Path, splits: int = SPLITS, epochs: int = EPOCHS) -> dict[str, Any]:
    """Compare over several splits into training and test data; draws `digits.png`."""
    results: dict[str, list[Contestant]] = {"KAN": [], "MLP": []}
    for seed in range(splits):
        torch.manual_seed(seed)
        train, test = _data(seed)
        kan = nn.Sequential(
            KANLinear(64, 32, grid_size=3, base="identity"),
            KANLinear(32, 10, grid_size=3, base="identity", grid_range=(-2, 2)),
        )
        models = {"KAN": kan, "MLP": equal_mlp(kan, 64, 10)}
        contestants = train_in_turns(
            models,
            train,
            test,
            nn.CrossEntropyLoss(),
            _accuracy,
            epochs=epochs,
            batch=64,
            lr=5e-3,
            weight_decay=0.1,
            seed=seed,
        )
        for name, contestant in contestants.items():
            results[name].append(contestant)

    figures: dict[str, Any] = {"epochs": epochs, "batch": 64, "splits": splits}
    for name, runs in results.items():
        accuracies = [run.scores[-1] for run in runs]
        seconds = sorted(s for run in runs for s in run.seconds)[len(runs) * epochs // 2]
        figures[name] = {
            "parameters": runs[0].parameters,
            "test_accuracy": accuracies,
            "mean_test_accuracy": mean(accuracies),
            "seconds_per_epoch": seconds,
        }
        print(
            f"  {name}: {runs[0].parameters:,} parameters, test accuracy {mean(accuracies):.1%} (mean of {splits} "
            f"splits, {min(accuracies):.1%} to {max(accuracies):.1%}), {seconds:.3f} s per epoch"
        )
    if splits > 1:
        gains = [100 * (a.scores[-1] - b.scores[-1]) for a, b in zip(results["KAN"], results["MLP"], strict=True)]
        figures["gain"] = {"points": mean(gains), "standard_error": stdev(gains) / splits**0.5}
        print("  KAN minus MLP: {points:+.2f} +- {standard_error:.2f} points, split by split".format(**figures["gain"]))
    curves = {
        name: [mean(values) for values in zip(*(r.scores for r in runs), strict=True)] for name, runs in results.items()
    }
    pictures.curves(
        curves, "epoch", "test accuracy", f"Handwritten digits, mean of {splits} splits", out / "digits.png"
    )
    return figures


def _data(seed: int) -> tuple[Pair, Pair]:
    """Training and test data; pixels scaled from 0 .. 16 to -1 .. 1, the range of the grid."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x / 8 - 1, y, test_size=0.2, stratify=y, random_state=seed)
    x_train, x_test = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
    y_train, y_test = (torch.tensor(part) for part in parts[2:])
    return (x_train, y_train), (x_test, y_test)


def _accuracy(output: Tensor, label: Tensor) -> float:
    return (output.argmax(1) == label).float().mean().item()
