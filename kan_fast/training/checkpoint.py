"""Checkpoints of `fit`: the whole state of a training, from which it goes on as if it had not been interrupted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kan_fast._support import files
from kan_fast._support.files import PathLike
from kan_fast._support.saved import Saved, check_held
from kan_fast.nn.grids import check_knots
from kan_fast.nn.network import Network
from kan_fast.training.optimizer_state import restore
from kan_fast.training.stopping import EarlyStopping


class RunState(NamedTuple):
    """All of a run of `fit` that its steps change."""

    model: Network
    optimizer: Optimizer
    scheduler: LRScheduler | None
    stopping: EarlyStopping
    history: dict[str, list[float]]


class _Checkpoint(NamedTuple):
    """The content of a file that `save` wrote, checked as far as possible without the optimiser."""

    position: tuple[int, int]
    run: str  # as _describe says it
    history: dict[str, list[float]]
    grids: list[int]
    model: dict[str, Tensor]
    optimizer: Saved
    scheduler: Saved | None
    stopping: tuple[float, int, dict[str, Tensor]]


def save(path: PathLike, run: RunState, position: tuple[int, int]) -> None:
    """Write the state after a step; a crash while writing leaves the file as it was.

    Args:
        path: of the file.
        run: what `load` restores.
        position: stage, and steps that it has behind it.

    Raises:
        TypeError: the state of the optimiser or scheduler has values that a file can't keep.
        OSError: the file can't be written.
    """
    stopping = run.stopping
    state = {
        "position": position,
        "run": _describe(run),
        "grids": [layer.grid_size for layer in run.model.layers],
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scheduler": None if run.scheduler is None else run.scheduler.state_dict(),
        "stopping": (stopping.best, stopping.waited, stopping.state),
        "history": run.history,
    }
    files.save(path, state)


def load(path: PathLike, run: RunState) -> tuple[int, int]:
    """Restore a run as `save` wrote it and return the position. After an error everything is as it was.

    After Ctrl-C the network is as it was.

    Raises:
        ValueError: the file is damaged, or of another network, optimiser or run.
        OSError: it can't be opened.
    """
    path = files.named(path)
    model, here = run.model, _describe(run)
    state = files.load(path, "a checkpoint of fit", lambda data: _checked(Saved(data, "the checkpoint"), model, here))
    saved = f"{state.run} and the history {', '.join(state.history)}"
    present = f"{here} and the history {', '.join(run.history)}"
    if saved != present or (state.scheduler is None) != (run.scheduler is None):
        schedulers = ("" if one is None else " with a scheduler" for one in (state.scheduler, run.scheduler))
        saved, present = (text + scheduled for text, scheduled in zip((saved, present), schedulers, strict=True))
        raise ValueError(
            f"the checkpoint {os.fspath(path)} is of another run, {saved}; this one is {present}. Delete it to start "
            "anew, or give another path"
        )
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    shapes = [state.model[names[p]].shape if p in names else p.shape for p in parameters]
    try:
        restore(run.optimizer, state.optimizer, run.scheduler, state.scheduler, shapes)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} can't be continued: {error}") from error
    before = [layer.grid_size for layer in model.layers], {n: t.clone() for n, t in model.state_dict().items()}
    try:
        _set(model, state.grids, state.model)
    except BaseException:  # Ctrl-C
        _set(model, *before)
        raise
    device = model.layers[0].grid.device
    best, waited, kept = state.stopping
    run.stopping.best, run.stopping.waited = best, waited
    run.stopping.state = {name: tensor.to(device) for name, tensor in kept.items()}
    for name, values in run.history.items():
        values[:] = state.history[name]
    return state.position


def _set(model: Network, grids: Sequence[int], state: dict[str, Tensor]) -> None:
    """Give the network grids of these sizes, then the state."""
    for layer, size in zip(model.layers, grids, strict=True):
        layer.refine_(size)
    model.load_state_dict(state)


def _checked(saved: Saved, model: Network, present: str) -> _Checkpoint:
    """The checked content of a file; if it is of the `present` run, the network's tensors have the right shapes."""
    stage, step = (number.integer() for number in saved["position"].items(2))
    history = {
        name: [number.real(finite=False) for number in values.items()]
        for name, values in saved["history"].record().items()
    }
    if len({len(values) for values in history.values()}) > 1:
        raise saved["history"].wrong("lists of one length")
    grids, scheduler = [size.integer(1) for size in saved["grids"].items()], saved.get("scheduler")
    best, waited, kept = saved["stopping"].items(3)
    run = saved["run"].text()
    if run == present:
        saved["grids"].items(len(model.layers))
        for state in (saved["model"], *([kept] if kept.record() else [])):
            _check_state(state, model, grids)
    return _Checkpoint(
        (stage, step),
        run,
        history,
        grids,
        _tensors(saved["model"]),
        saved["optimizer"],
        scheduler,
        (best.real(finite=False), waited.integer(), _tensors(kept)),
    )


def _tensors(saved: Saved) -> dict[str, Tensor]:
    return {name: entry.any_tensor() for name, entry in saved.record().items()}


def _check_state(state: Saved, model: Network, sizes: Sequence[int]) -> None:
    """Refuse a state dict unless it belongs to this network with grids of these sizes, so that loading can't fail."""
    present = model.state_dict()
    shapes: dict[str, list[int | None]] = {name: list(tensor.shape) for name, tensor in present.items()}
    dtypes = {name: tensor.dtype for name, tensor in present.items()}
    for number, (layer, size) in enumerate(zip(model.layers, sizes, strict=True)):
        prefix = f"layers.{number}."
        for name in (f"{prefix}spline_weight", f"{prefix}grid"):
            if name in shapes:  # else the weight is computed from others, and the grid stays
                shapes[name][-1] = present[name].shape[-1] - layer.grid_size + size
        if f"{prefix}mask" in state.record():
            shapes[f"{prefix}mask"] = [layer.out_features, layer.in_features]
            dtypes[f"{prefix}mask"] = torch.bool
        else:
            shapes.pop(f"{prefix}mask", None)
        if layer.symbolic is not None:
            shapes[f"{prefix}symbolic._extra_state"] = [None]
    if state.record().keys() != shapes.keys():
        raise ValueError(f"{state.place} has other entries than this network: {state.record().keys() ^ shapes.keys()}")
    tensors = {name: state[name].tensor(dtypes[name], shape) for name, shape in shapes.items()}
    check_held(list(tensors.values()), state.place)
    for number, layer in enumerate(model.layers):
        check_knots(tensors[f"layers.{number}.grid"])
        edges = (tensors.get(f"layers.{number}.symbolic.{name}") for name in ("edges", "_extra_state"))
        if layer.symbolic is not None and not layer.symbolic.are(*edges):  # type: ignore[arg-type]
            raise ValueError(f"{state.place} has other symbolic edges than this network")


def _describe(run: RunState) -> str:
    layers = run.model.layers
    symbolic = [(number, layer.symbolic) for number, layer in enumerate(layers) if layer.symbolic is not None]
    edges = [
        (number, edge, name) for number, s in symbolic for edge, name in zip(s.edges.tolist(), s.names, strict=True)
    ]
    described = f"width {run.model.width} with {type(run.optimizer).__name__}"
    return f"{described} and symbolic edges {edges}" if edges else described
