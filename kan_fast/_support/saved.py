"""Values that come from a file, each checked before it is used; errors say where the value stands."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Saved:
    """A value from a file, and its place in the data of the file.

    Each method checks that the value is of one kind, and returns it.

    Raises:
        ValueError: the value is of another kind; the message says where it stands, what is allowed and what is there.
    """

    def __init__(self, value: Any, place: str) -> None:
        self.value, self.place = value, place

    def wrong(self, allowed: str) -> ValueError:
        """The error that says that the value is not what is allowed."""
        return ValueError(f"{self.place} must be {allowed}, got {_brief(self.value)}")

    def __getitem__(self, name: str) -> Saved:
        """An entry of a dict; its absence is an error."""
        entries = self.record()
        if name not in entries:
            raise ValueError(f"{self.place} lacks the entry {name!r}")
        return entries[name]

    def get(self, name: str) -> Saved | None:
        """An entry of a dict; None if it is not there, or None."""
        entry = self.record().get(name)
        return None if entry is None or entry.value is None else entry

    def record(self) -> dict[str, Saved]:
        """A dict from texts to anything."""
        if not isinstance(self.value, dict) or not all(isinstance(name, str) for name in self.value):
            raise self.wrong("a dict whose keys are texts")
        return {name: Saved(value, f"{self.place}.{name}") for name, value in self.value.items()}

    def items(self, count: int | None = None) -> list[Saved]:
        """A list or tuple of anything, of `count` items if that is given."""
        if not isinstance(self.value, list | tuple) or count not in (None, len(self.value)):
            raise self.wrong("a list" if count is None else f"a list of {count} items")
        return [Saved(value, f"{self.place}[{number}]") for number, value in enumerate(self.value)]

    def integer(self, least: int = 0) -> int:
        """An int."""
        if type(self.value) is not int or self.value < least:
            raise self.wrong(f"an int, at least {least}")
        return self.value

    def real(self, *, finite: bool = True) -> float:
        """A float or an int."""
        if type(self.value) is int and abs(self.value) < 2**63:
            return float(self.value)
        if type(self.value) is not float or (finite and not math.isfinite(self.value)):
            raise self.wrong("a finite number" if finite else "a number")
        return self.value

    def truth(self) -> bool:
        """A bool."""
        if type(self.value) is not bool:
            raise self.wrong("True or False")
        return self.value

    def text(self) -> str:
        """Text that can be written as UTF-8."""
        if type(self.value) is not str or any("\ud800" <= letter <= "\udfff" for letter in self.value):
            raise self.wrong("text")
        return self.value

    def one_of(self, allowed: Sequence[str]) -> str:
        """One of several texts."""
        if type(self.value) is not str or self.value not in allowed:
            raise self.wrong(f"one of {', '.join(allowed)}")
        return self.value

    def tensor(self, dtype: torch.dtype, shape: Sequence[int | None]) -> Tensor:
        """A tensor of this dtype and shape, all of whose numbers are in the file; None in the shape allows any size."""
        allowed = f"a dense {dtype} tensor of the shape ({', '.join('*' if n is None else str(n) for n in shape)})"
        tensor = self.any_tensor()
        fits = tensor.dim() == len(shape) and all(n in (None, m) for n, m in zip(shape, tensor.shape, strict=True))
        if tensor.dtype != dtype or not fits:
            raise self.wrong(allowed)
        return tensor

    def finite(self, dtype: torch.dtype, shape: Sequence[int | None]) -> Tensor:
        """A tensor without NaN and infinity."""
        tensor = self.tensor(dtype, shape)
        if not tensor.isfinite().all():
            raise ValueError(f"{self.place} has numbers that are NaN or infinite")
        return tensor

    def any_tensor(self) -> Tensor:
        """A tensor of any dtype and shape, all of whose numbers are in the file."""
        tensor = self.value
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided or tensor.is_quantized:
            raise self.wrong("a dense tensor")
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise self.wrong("a contiguous tensor of numbers that the file holds")
        return tensor.detach()


def check_held(tensors: Sequence[Tensor], place: str) -> None:
    """Refuse tensors that share their numbers: copies of them could take any amount of memory."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    if sum(tensor.nbytes for tensor in tensors) > sum(storages.values()):
        raise ValueError(f"{place} has tensors that share memory; each needs its own")


def _brief(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of the shape {tuple(value.shape)}"
    return reprlib.repr(value)
