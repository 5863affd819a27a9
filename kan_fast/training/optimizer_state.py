"""States of optimisers and schedulers that come from a file, compared with the present ones before they are loaded."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kan_fast import optim
from kan_fast._support.saved import Saved

# States of torch's optimisers that have the shape of their parameter.
_ELEMENTWISE = (
    *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "grad_avg"),
    *("acc_delta", "sum", "prev", "step_size", "ax"),
)
_FLAT = ("prev_flat_grad", "rows")  # states of LBFGS, torch's and ours: all parameters as one vector, `(..., n)`


def fits(optimizer: Optimizer) -> bool:
    """Whether what an optimiser remembers has the shapes of its parameters; it has not after `refine_`.

    States of optimisers that are neither torch's nor ours may have shapes of their own, so they are not checked.
    """
    if not type(optimizer).__module__.startswith(("torch.optim", "kan_fast.optim")):
        return True
    count = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    tensors = [
        (name, state, parameter)
        for parameter, memory in optimizer.state.items()
        for name, state in memory.items()
        if isinstance(state, Tensor)
    ]
    return all(
        state.shape == parameter.shape if name in _ELEMENTWISE else name not in _FLAT or state.shape[-1] == count
        for name, state, parameter in tensors
    )


def restore(
    optimizer: Optimizer, saved: Saved, scheduler: LRScheduler | None, schedule: Saved | None, shapes: Sequence[Any]
) -> None:
    """Load the states of an optimiser and of its scheduler, if there is one; after an error both are as before.

    Args:
        optimizer: gets the state `saved`.
        saved: state of the optimiser in the file.
        scheduler: gets the state `schedule`; None for no scheduler.
        schedule: state of the scheduler in the file.
        shapes: shapes that the parameters have once the file is loaded, in the order of the optimiser.

    Raises:
        ValueError: a state is of another optimiser or scheduler, or damaged.
    """
    present = optimizer.state_dict()
    _check_groups(saved["param_groups"], present["param_groups"])
    _check_memories(saved["state"], optimizer, shapes)
    loaded: list[tuple[Any, Any, Any]] = [(optimizer, copy.deepcopy(present), saved.value)]
    if scheduler is not None and schedule is not None:
        _check_like(schedule, scheduler.state_dict())
        loaded.append((scheduler, copy.deepcopy(scheduler.state_dict()), schedule.value))
    try:
        for part, _, state in loaded:
            part.load_state_dict(state)
    except Exception as error:  # optimisers check little, and fail in many ways
        for part, before, _ in loaded:
            part.load_state_dict(before)
        raise ValueError(f"{saved.place} does not fit ({type(error).__name__}: {error!s:.200})") from error


def _check_groups(saved: Saved, present: Sequence[dict[str, Any]]) -> None:
    for group, like in zip(saved.items(len(present)), present, strict=True):
        for name, option in group.record().items():
            if name not in like:
                raise ValueError(f"{option.place} is no option of this optimiser")
            if name == "params":
                if [number.integer() for number in option.items()] != like[name]:
                    raise option.wrong(str(like[name]))
            elif name in ("foreach", "fused"):  # which versions of torch choose differently
                if not isinstance(option.value, bool | None):
                    raise option.wrong("True, False or None")
            elif isinstance(like[name], int) and name != "lr":  # flags, sizes and counts stay during a run
                if type(option.value) is not type(like[name]) or option.value != like[name]:
                    raise option.wrong(str(like[name]))
            elif name != "param_names":
                _check_like(option, like[name])
                if isinstance(option.value, float) and not (math.isfinite(option.value) or option.value == like[name]):
                    raise option.wrong("finite")
        for name, value in like.items():  # flags that older versions of torch lack get their default
            if value is not None and not isinstance(value, bool):
                group[name]


def _check_like(saved: Saved, present: Any) -> None:
    """Refuse a value of another kind than the present one."""
    value = saved.value
    if isinstance(present, dict) and all(isinstance(name, str) for name in present):
        for name, entry in saved.record().items():
            if name not in present:
                raise ValueError(f"{entry.place} is no part of this optimiser or scheduler")
            _check_like(entry, present[name])
            _check_sign(entry, present[name])
    elif isinstance(present, dict):  # milestones, counted
        kinds = {type(number) for number in [*value, *value.values()]} if type(value) is type(present) else {None}
        if not kinds <= {int, float}:
            raise saved.wrong("a dict of numbers")
    elif isinstance(present, list | tuple):
        items = saved.items(len(present) if isinstance(present, tuple) else None)
        for number, item in enumerate(items if present else ()):
            _check_like(item, present[min(number, len(present) - 1)])
    elif isinstance(present, Tensor):
        saved.tensor(present.dtype, tuple(present.shape))
    elif isinstance(present, bool):
        saved.truth()
    elif isinstance(present, int):
        saved.integer(-(2**62))
    elif isinstance(present, float):
        saved.real(finite=False)
    elif present is not None and type(value) is not type(present):
        raise saved.wrong(f"of the type {type(present).__name__}")


def _check_sign(saved: Saved, present: Any) -> None:
    """Lengths and sizes stay above 0, as some are divided by; the best value so far is any number."""
    number = isinstance(present, int | float) and not isinstance(present, bool) and math.isfinite(present)
    if number and present > 0 and not saved.place.endswith((".best", ".lr")) and not saved.value > 0:
        raise saved.wrong("greater than 0")


def _check_memories(saved: Saved, optimizer: Optimizer, shapes: Sequence[Any]) -> None:
    """Refuse states of parameters with which the optimiser would fail in its next step."""
    if not isinstance(saved.value, dict):
        raise saved.wrong("a dict")
    for number, value in saved.value.items():
        memory = Saved(value, f"{saved.place}[{number!r:.20}]")
        if type(number) is not int or not 0 <= number < len(shapes):
            raise ValueError(f"{memory.place} is of no parameter of this network")
        entries = memory.record()
        for name, entry in entries.items():
            if name in _ELEMENTWISE:
                tensor = entry.any_tensor()
                if tensor.shape != shapes[number] or not tensor.is_floating_point():
                    raise entry.wrong(f"of the shape {tuple(shapes[number])}")
            elif name == "step" and isinstance(entry.value, Tensor):
                entry.finite(entry.value.dtype, ())
            elif name == "step":
                entry.real()
        if isinstance(optimizer, optim.LBFGS) and entries:
            _check_curvature(memory, optimizer.param_groups[0]["history_size"], sum(map(math.prod, shapes)))
        if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW) and entries:
            for name in ("step", "exp_avg", "exp_avg_sq"):
                memory[name]


def _check_curvature(memory: Saved, size: int, parameters: int) -> None:
    """The memory of our LBFGS: see `optim.lbfgs`."""
    rows = memory["rows"].any_tensor()
    if rows.shape != (2 * size + 1, parameters) or not rows.is_floating_point():
        raise memory["rows"].wrong(f"of the shape {(2 * size + 1, parameters)}")
    slots = [slot.integer() for slot in memory["slots"].items()]
    if len(set(slots)) < len(slots) or max(slots, default=0) >= size:
        raise memory["slots"].wrong(f"different numbers below {size}")
    memory["added"].truth()
    for name in ("inverse", "yy"):
        for row in memory[name].items(len(slots)):
            _ = [number.real() for number in row.items(len(slots))]
    _ = [number.real() for number in memory["curvature"].items(len(slots))]
