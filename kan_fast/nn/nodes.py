"""Sum and multiplication nodes: how the outputs of a layer become the nodes of the next level (arXiv 2408.10205)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import groupby
from operator import mul
from typing import Any

import torch
from torch import Tensor

from kan_fast._support.checks import integer, is_number
from kan_fast.nn.state import StatedOptions

Level = tuple[int, tuple[int, ...]]  # number of sums; number of factors of each product


class Nodes(StatedOptions):
    """The nodes of a level of a network, `(..., subnodes)` to `(..., width)`; no parameters.

    The outputs of a layer are subnodes. The first `sums` of them are nodes as they are; the others are the factors of
    products, one product after the other (KAN 2.0, arXiv 2408.10205, section 2; the order is pykan's).

    Args:
        sums: number of nodes that are sums of edges, at least 0.
        arities: number of factors, at least 2, of each multiplication node.

    Attributes:
        width: number of nodes.
        owner: the node that each subnode belongs to, a list of `sums + sum(arities)` ints.

    Raises:
        TypeError, ValueError: a number is out of range, or the input has another number of columns than subnodes.
    """

    def __init__(self, sums: int, arities: Sequence[int] = ()) -> None:
        super().__init__()
        self.sums = integer("sums", sums, 0)
        self.arities = tuple(integer("a number of factors", n, 2) for n in arities)
        self.width = self.sums + len(self.arities)
        self.owner = [*range(self.sums), *(self.sums + p for p, n in enumerate(self.arities) for _ in range(n))]

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the factors of each product; a level without products returns x itself."""
        if not self.arities:
            return x
        if x.shape[-1] != len(self.owner):
            raise ValueError(
                f"expected last dimension {len(self.owner)}, {self.extra_repr()}, got {x.shape[-1]} "
                f"(input shape {tuple(x.shape)})"
            )
        parts, start = [x[..., : self.sums]], self.sums
        for arity, run in groupby(self.arities):
            count = len(list(run))
            factors = x[..., start : start + count * arity].unflatten(-1, (count, arity))
            parts.append(reduce(mul, factors.unbind(-1)))
            start += count * arity
        return torch.cat(parts, -1)

    def subset(self, kept: Sequence[int]) -> Nodes:
        """A level that has the nodes `kept` alone, given by their numbers in ascending order."""
        sums = sum(node < self.sums for node in kept)
        return Nodes(sums, [self.arities[node - self.sums] for node in kept[sums:]])

    def extra_repr(self) -> str:
        """The sizes in words."""
        return f"{self.sums} sums" + (f" and products of {', '.join(map(str, self.arities))}" if self.arities else "")

    def _stated(self) -> dict[str, Any]:
        return {"sums": self.sums, "arities": list(self.arities)}

    def _refusal(self, saved: dict[str, Any]) -> str:
        return (
            f"the state is of a level of {Nodes(**saved).extra_repr()}, this one has {self.extra_repr()}; build the "
            "network with the saved width and mult_arity, then load"
        )


def levels(width: Sequence[Any], mult_arity: int | Sequence[Any] = 2) -> list[Level]:
    """Number of sums and factors of products in every level, inputs first, from `width` and `mult_arity` of `KAN`.

    Raises:
        TypeError, ValueError: an entry has a wrong type or value; the message says what is allowed.
    """
    expected = (
        "width must list the number of nodes of at least two layers, such as [2, 5, 1], or pairs [sums, products] of "
        "them, such as [2, [5, 2], 1]"
    )
    try:
        counts = [_pair(n) for n in width]
    except TypeError:
        raise TypeError(f"{expected}; got {width!r}") from None
    if len(counts) < 2 or min(min(pair) for pair in counts) < 0 or min(sum(pair) for pair in counts) < 1:
        raise ValueError(f"{expected}, each of them at least 1; got {width!r}")
    if counts[0][1]:
        raise ValueError(f"the inputs can't be products, got width {width!r}; the first entry is their number")
    if not isinstance(mult_arity, int) and not is_number(mult_arity):
        entries = list(mult_arity)
        if len(entries) != len(counts):
            raise ValueError(
                f"mult_arity must be an int or have an entry for each of the {len(counts)} levels of width, inputs "
                f"included; got {mult_arity!r}"
            )
    else:
        entries = [mult_arity] * len(counts)
    return [
        (sums, _arities(entry, products, level))
        for level, ((sums, products), entry) in enumerate(zip(counts, entries, strict=True))
    ]


def _pair(entry: Any) -> tuple[int, int]:
    if not is_number(entry) and not isinstance(entry, str):
        if len(entry) != 2:
            raise TypeError
        return integer("sums", entry[0]), integer("products", entry[1])
    return integer("a width", entry), 0


def _arities(entry: Any, products: int, level: int) -> tuple[int, ...]:
    if is_number(entry):
        arity = integer("mult_arity", entry, 2)
        return (arity,) * products
    if len(entry) != products:
        raise ValueError(
            f"mult_arity has {list(entry)} for level {level}: it must be one number, or one for each of its {products} "
            "products"
        )
    return tuple(integer("mult_arity", n, 2) for n in entry)
