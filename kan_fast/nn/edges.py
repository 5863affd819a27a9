"""Edges of networks by their places."""

from __future__ import annotations

from typing import NamedTuple


class Edge(NamedTuple):
    """An edge of a network, in pykan's order (l, i, j).

    Attributes:
        layer: number of the layer, from 0.
        input: node that the edge starts from.
        output: subnode that it leads to.
    """

    layer: int
    input: int
    output: int

    @property
    def place(self) -> tuple[int, int]:
        """`(output, input)`, the place of the edge in the weights of its layer, which have the shape (out, in, ...)."""
        return self.output, self.input

    def __str__(self) -> str:
        return f"({self.layer}, {self.input}, {self.output})"
