"""Checkpoints of `fit`: all that training needs to go on as if it had not been interrupted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kan_fast.schedule import EarlyStopping

if TYPE_CHECKING:
    from kan_fast.network import KAN

Path = str | os.PathLike[str]


def save(
    path: Path,
    position: tuple[int, int],
    model: KAN,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    stopping: EarlyStopping,
    history: dict[str, list[float]],
) -> None:
    """Write the state after a step; a crash while writing leaves the file as it was.

    Args:
        path: of the file.
        position: stage, and steps that it has behind it.
        model, optimizer, scheduler, stopping, history: what `load` restores.
    """
    state = {
        "position": position,
        "run": _describe(model, optimizer),
        "grids": [layer.grid_size for layer in model.layers],
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "stopping": (stopping.best, stopping.waited, stopping.state),
        "history": history,
    }
    write(state, path)


def write(state: Any, path: Path) -> None:
    """`torch.save`, but a crash while writing leaves the file as it was."""
    temporary = f"{os.fspath(path)}.part"
    torch.save(state, temporary)
    os.replace(temporary, path)


def load(
    path: Path,
    model: KAN,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    stopping: EarlyStopping,
    history: dict[str, list[float]],
) -> tuple[int, int]:
    """Restore what `save` wrote and return the position.

    Raises:
        ValueError: the file is of another network, optimiser or run.
    """
    device = model.layers[0].grid.device
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        saved = f"{state['run']} and the history {', '.join(state['history'])}"
    except Exception as error:
        raise ValueError(f"{os.fspath(path)} is not a checkpoint of fit ({error}); give another path") from error
    present = f"{_describe(model, optimizer)} and the history {', '.join(history)}"
    if saved != present:
        raise ValueError(
            f"the checkpoint {os.fspath(path)} is of another run, {saved}; this one is {present}. Delete it to start "
            "anew, or give another path"
        )
    for layer, size in zip(model.layers, state["grids"], strict=True):
        layer.refine_(size)
    model.grid = state["grids"][0]
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if scheduler is not None:
        scheduler.load_state_dict(state["scheduler"])
    stopping.best, stopping.waited, stopping.state = state["stopping"]
    for name, values in history.items():
        values[:] = state["history"][name]
    return tuple(state["position"])


def _describe(model: KAN, optimizer: Optimizer) -> str:
    symbolic = [(number, layer.symbolic) for number, layer in enumerate(model.layers) if layer.symbolic is not None]
    edges = [
        (number, edge, name) for number, s in symbolic for edge, name in zip(s.edges.tolist(), s.names, strict=True)
    ]
    described = f"width {model.width} with {type(optimizer).__name__}"
    return f"{described} and symbolic edges {edges}" if edges else described
