"""Networks in files: `KAN.saveckpt` and `KAN.loadckpt`. A file holds tensors and plain values, and runs no code."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from kan_fast.checkpoint import Path, write

if TYPE_CHECKING:
    from kan_fast.network import KAN

FORMAT = 1


def describe(model: KAN) -> dict[str, Any]:
    """A network as plain values and tensors, from which `rebuild` makes it anew.

    Raises:
        TypeError: its base function is a callable, which has no such form.
    """
    first = model.layers[0]
    if callable(first.base):
        raise TypeError(
            f"can't save the callable base function {first.base!r}; save model.state_dict() and build the network with "
            "it before loading"
        )
    return {
        "format": FORMAT,
        "width": model.width,
        "mult_arity": model.mult_arity,
        "grid": first.grid_size,
        "k": first.spline_order,
        "base": first.base,
        "extrapolation": first.extrapolation,
        "grid_eps": first.grid_eps,
        "dtype": str(first.spline_weight.dtype).removeprefix("torch."),
        "input_id": list(model.input_id),
        "state": model.state_dict(),
    }


def rebuild(cls: type[KAN], saved: dict[str, Any], device: torch.device | str | None = None) -> KAN:
    """The network that `describe` described."""
    model = cls(
        saved["width"],
        saved["grid"],
        saved["k"],
        mult_arity=saved["mult_arity"],
        base=saved["base"],
        extrapolation=saved["extrapolation"],
        grid_eps=saved["grid_eps"],
        device=device,
        dtype=getattr(torch, saved["dtype"]),
        seed=0,  # leaves the global generator alone
    )
    for number, layer in enumerate(model.layers):
        if f"layers.{number}.bias" not in saved["state"]:
            layer.bias = None
    model.load_state_dict(saved["state"])
    model.input_id = list(saved["input_id"])
    return model


def save(model: KAN, path: Path) -> None:
    """Write the network to a file: sizes, options, parameters, grids, masks and symbolic edges, by their names.

    A crash while writing leaves the file as it was. (pykan writes several files that begin with the path.)

    Args:
        model: the network; `model.saveckpt(path)` writes it.
        path: of the file.

    Raises:
        TypeError: the base function is a callable.
    """
    write(describe(model), path)


def load(cls: type[KAN], path: Path, device: torch.device | str | None = None) -> KAN:
    """The network that `saveckpt` wrote: `KAN.loadckpt(path)`.

    Functions of one's own have to be added to the library before (`kan_fast.functions.add_symbolic`).

    Args:
        cls: the class; `KAN.loadckpt(path)` gives it.
        path: of the file.
        device: device of the parameters; None for the default.

    Raises:
        ValueError: the file is not one of `saveckpt`, or of a later version of this package.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        version = saved["format"]
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{os.fspath(path)} is not a file of saveckpt ({error}); give another path") from error
    if version != FORMAT:
        raise ValueError(f"{os.fspath(path)} has the format {version}, this version of kan_fast reads {FORMAT}")
    return rebuild(cls, saved, device)
