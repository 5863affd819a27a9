"""Two moons: the KANs of pykan's tutorial, as a regression and as a classification, trained by LBFGS."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kan_fast.demo import pictures
from kan_fast.model import KAN

TITLE = "Two moons (1,000 points to learn from, 1,000 others to test)"


class Task(NamedTuple):
    """A way to tell two classes apart."""

    width: list[int]
    loss_fn: nn.Module | None
    labels: Callable[[Tensor], Tensor]  # of class numbers
    margin: Callable[[Tensor], Tensor]  # of outputs; positive for class 1


TASKS = {
    "regression": Task([2, 1], None, lambda y: y[:, None], lambda output: output[:, 0] - 0.5),
    "classification": Task([2, 2], nn.CrossEntropyLoss(), lambda y: y, lambda output: output[:, 1] - output[:, 0]),
}


def run(out: Path, steps: int = 20) -> dict[str, Any]:
    """Train both and draw `moons.png` with the decision boundaries."""
    (x, y), (x_test, y_test) = _data(seed=0), _data(seed=1)
    figures: dict[str, Any] = {"steps": steps}
    margins: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, task in TASKS.items():
        model = KAN(task.width, grid=3, k=3, seed=0)
        dataset = {
            "train_input": x,
            "train_label": task.labels(y),
            "test_input": x_test,
            "test_label": task.labels(y_test),
        }
        start = time.perf_counter()
        history = model.fit(dataset, opt="LBFGS", steps=steps, loss_fn=task.loss_fn)
        seconds = time.perf_counter() - start

        def margin(points: Tensor, model: KAN = model, task: Task = task) -> Tensor:
            with torch.no_grad():
                return task.margin(model(points))

        accuracy = _accuracy(margin(x_test), y_test)
        figures[name] = {
            "width": task.width,
            "seconds": seconds,
            "train_accuracy": _accuracy(margin(x), y),
            "test_accuracy": accuracy,
            "history": history,
        }
        print(f"  {name}, KAN({task.width}): test accuracy {accuracy:.1%} after {steps} steps in {seconds:.1f} s")
        margins[f"{name}, KAN({task.width}): test accuracy {accuracy:.1%}"] = margin
    pictures.boundaries(margins, x_test, y_test, out / "moons.png")
    return figures


def _data(seed: int) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import make_moons

    x, y = make_moons(n_samples=1000, noise=0.1, random_state=seed)
    return torch.from_numpy(x), torch.from_numpy(y)


def _accuracy(margin: Tensor, y: Tensor) -> float:
    return ((margin > 0) == y).float().mean().item()
