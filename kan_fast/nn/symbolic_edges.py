"""The symbolic edges of a layer: functions of the library with trainable affine parameters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kan_fast._support import torch_internals
from kan_fast.nn.functions import Function, find
from kan_fast.ops.per_sample import spread


class SymbolicEdges(nn.Module):
    """Edges `phi(x) = c f(a x + b) + d`; the module sums them into the outputs of a layer.

    Edges with the same function are evaluated together. The module keeps its edges in the order of the names of their
    functions, then of (output, input).

    Args:
        shape: sizes `(out, in)` of the layer.
        edges: places `(output, input)`, each at most once.
        functions: the function of each edge, a name in the library.
        affine: the parameters (a, b, c, d), `(n, 4)`.

    Attributes:
        affine: Parameter `(n, 4)`.
        edges: buffer `(n, 2)` of places (output, input).
        where: which edges of the layer these are, bool `(out, in)`.
        names: names of the n functions.

    Raises:
        ValueError: a function is not in the library, an edge not in the layer or there twice, or sizes differ.
    """

    edges: Tensor
    where: Tensor

    def __init__(
        self,
        shape: tuple[int, int],
        edges: Sequence[tuple[int, int]],
        functions: Sequence[str | Function],
        affine: Tensor,
    ) -> None:
        super().__init__()
        names = [_name(function) for function in functions]
        if not len(edges) == len(names) == len(affine) or affine.shape[1:] != (4,):
            raise ValueError(
                f"each edge has a function and 4 affine parameters, got {len(edges)} edges, {len(names)} functions "
                f"and affine parameters {tuple(affine.shape)}"
            )
        if len(set(edges)) < len(edges):
            twice = next(edge for edge in edges if list(edges).count(edge) > 1)
            raise ValueError(f"each edge has one function, got the edge (output, input) = {tuple(twice)} twice")
        for edge in edges:
            if not (0 <= edge[0] < shape[0] and 0 <= edge[1] < shape[1]):
                raise ValueError(f"(output, input) must be below {shape}, the sizes of the layer, got {edge}")
        order = sorted(range(len(edges)), key=lambda n: (names[n], edges[n]))
        self.shape = shape
        self.names = [names[n] for n in order]
        self.affine = nn.Parameter(affine.detach()[order].clone())
        places = torch.tensor([edges[n] for n in order], dtype=torch.long, device=affine.device)
        self.register_buffer("edges", places.reshape(-1, 2))
        self.register_buffer("where", self.matrix(torch.ones_like(self.edges[:, 0])) > 0, persistent=False)
        # For `leaves_some`: mask, its version, answer.
        self._seen: tuple[Tensor | None, int | None, bool] = (None, 0, True)
        self._group()

    @staticmethod
    def blank(shape: tuple[int, int], edges: Tensor, names: Tensor, like: Tensor) -> SymbolicEdges:
        """Edges that a state with these `edges` and extra state can be loaded into, with the dtype of `like`."""
        if edges.dtype != torch.long or edges.shape[1:] != (2,) or len(edges) > shape[0] * shape[1]:
            raise ValueError(f"edges must be an int64 tensor (n, 2), got {edges.dtype} {tuple(edges.shape)}")
        places = [(output, input_) for output, input_ in edges.tolist()]
        device = edges.device if like.is_meta else like.device  # `where` isn't in the state: it must be numbers
        return SymbolicEdges(shape, places, saved_names(names), like.new_zeros(len(places), 4, device=device))

    def are(self, edges: Tensor, names: Tensor) -> bool:
        """Whether a state with these `edges` and extra state has the same edges and functions as this module."""
        here = not self.where.is_meta and edges.shape == self.edges.shape and edges.tolist() == self.edges.tolist()
        return here and saved_names(names) == self.names

    def leaves_some(self, mask: Tensor | None) -> bool:
        """Whether some edge of the layer is neither symbolic nor masked by `mask` `(out, in)`; None masks none.

        The answer is True where it can't be known: in traces and transforms, for a mask that was not seen before.
        """
        if mask is None:
            return len(self.names) < self.shape[0] * self.shape[1]
        seen, version, known = self._seen
        if torch.compiler.is_compiling() or mask.is_meta or torch_internals.transforms_active():
            return known or mask is not seen
        now = None if mask.is_inference() else mask._version  # inference tensors don't count their changes
        if mask is not seen or now is None or version != now:
            known = bool((mask & ~self.where).any())
            self._seen = mask, now, known
        return known

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, in)` to `(batch, out)`; 16-bit numbers are computed in float32."""
        terms = self.terms(x)
        total = terms.new_zeros(self.shape[0], x.shape[0])
        return total.index_add(0, self.edges[:, 0], terms).T.to(x.dtype)

    def terms(self, x: Tensor) -> Tensor:
        """The value of every edge, `(n, batch)` for x `(batch, in)`."""
        x = x.T.contiguous().index_select(0, self.edges[:, 1])  # rows are copied faster than columns
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        a, b, c, d = spread(self.affine.to(x.dtype), x.shape[1]).unbind(1)
        parts = torch.addcmul(b, a, x).split(self._counts)
        return torch.addcmul(
            d, c, torch.cat([f.evaluate(part) for f, part in zip(self._functions, parts, strict=True)])
        )

    def matrix(self, values: Tensor) -> Tensor:
        """Numbers of the edges `(n,)` as a matrix `(out, in)` that is 0 elsewhere."""
        matrix = values.new_zeros(self.shape[0] * self.shape[1])
        return matrix.index_add(0, self.edges[:, 0] * self.shape[1] + self.edges[:, 1], values).view(self.shape)

    @property
    def places(self) -> list[tuple[int, int]]:
        """The edges as a list of places (output, input)."""
        return [(output, input_) for output, input_ in self.edges.tolist()]

    def items(self) -> list[tuple[tuple[int, int], Function, list[float]]]:
        """The edges, each as (output, input), its function and [a, b, c, d]."""
        functions = [f for f, count in zip(self._functions, self._counts, strict=True) for _ in range(count)]
        return list(zip(self.places, functions, self.affine.detach().tolist(), strict=True))

    def without(self, edges: Sequence[tuple[int, int]]) -> SymbolicEdges:
        """The edges that are not among `edges`, pairs (output, input)."""
        gone = set(edges)
        return self._take(self.shape, [(n, edge) for n, edge in enumerate(self.places) if edge not in gone])

    def joined(self, other: SymbolicEdges) -> SymbolicEdges:
        """The edges of this module and of another one for the same layer."""
        places, names = [*self.places, *other.places], [*self.names, *other.names]
        return self._like(SymbolicEdges(self.shape, places, names, torch.cat([self.affine, other.affine])))

    def cut(self, outputs: Sequence[int], inputs: Sequence[int], edges: Tensor | None = None) -> SymbolicEdges:
        """The edges between these outputs and inputs, for a layer that has these alone; `edges`, bool, selects some."""
        output, input_ = ({old: new for new, old in enumerate(ids)} for ids in (outputs, inputs))
        kept = [(n, (output[o], input_[i])) for n, (o, i) in enumerate(self.places) if o in output and i in input_]
        kept = [(n, edge) for n, edge in kept if edges is None or edges[edge]]
        return self._take((len(outputs), len(inputs)), kept)

    def _take(self, shape: tuple[int, int], kept: Sequence[tuple[int, tuple[int, int]]]) -> SymbolicEdges:
        """The edges `kept`, each by its number here and its place in a layer of sizes `shape`."""
        numbers, places = [n for n, _ in kept], [edge for _, edge in kept]
        return self._like(SymbolicEdges(shape, places, [self.names[n] for n in numbers], self.affine[numbers]))

    def _like(self, other: SymbolicEdges) -> SymbolicEdges:
        other.affine.requires_grad_(self.affine.requires_grad)
        return other

    def extra_repr(self) -> str:
        """Number of edges of each function."""
        return ", ".join(f"{f.name} x {n}" for f, n in zip(self._functions, self._counts, strict=True))

    def get_extra_state(self) -> Tensor:
        """Names and some values of the functions as bytes, since formats such as safetensors hold tensors alone."""
        text = json.dumps({"names": self.names, "values": {f.name: _values(f) for f in self._functions}})
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Check that a state has the functions of this module; `KANLinear` makes the edges of a state beforehand."""
        if saved_names(state) != self.names:
            raise ValueError(f"the state is of edges with the functions {saved_names(state)}, these have {self.names}")

    def _group(self) -> None:
        groups = [(find(name), len(list(run))) for name, run in groupby(self.names)]
        self._functions, self._counts = [f for f, _ in groups], [count for _, count in groups]

    def __getstate__(self) -> dict[str, Any]:
        """Functions of the library are saved by name: many have no pickle."""
        state = {key: value for key, value in self.__dict__.items() if key not in ("_functions", "_counts")}
        return state | {"saved": self.get_extra_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved_names(state.pop("saved"))
        super().__setstate__(state)
        self._group()


def saved_names(state: Tensor) -> list[str]:
    """The names of functions in a saved state.

    Raises:
        ValueError: the library has no function of such a name, or one with other values.
    """
    if state.dtype != torch.uint8 or state.dim() != 1 or not state.is_contiguous():
        raise ValueError(f"the names of functions must be bytes (n,), got {state.dtype} {tuple(state.shape)}")
    try:
        saved = json.loads(bytes(state.tolist()))
        names, values = list(saved["names"]), dict(saved["values"])
        known = {name: _values(find(name)) for name in {*names, *values}}
        other = [name for name in values if not np.allclose(known[name], values[name], 1e-5, 1e-8, equal_nan=True)]
    except (ArithmeticError, AttributeError, LookupError, RecursionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"the names of functions in the state can't be read: {error}") from error
    if other:
        raise ValueError(
            f"the function {other[0]!r} of the library is not the one that was saved; add that one with add_symbolic"
        )
    return names


def _values(function: Function) -> list[float]:
    """Values at three points, by which a function is recognised whatever its name."""
    with torch.no_grad():
        return function.evaluate(torch.tensor([-0.7, 0.4, 1.3], dtype=torch.float64)).tolist()


def _name(function: str | Function) -> str:
    known = find(function.name if isinstance(function, Function) else function)
    if known is not function and isinstance(function, Function):
        raise ValueError(f"{function.name!r} is another function in the library; add this one with add_symbolic")
    return known.name
