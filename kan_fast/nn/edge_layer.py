"""Layers of edges: which edges are splines, symbolic or absent, and how a state dict keeps that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kan_fast._support import collectives
from kan_fast.nn import grids
from kan_fast.nn.state import StatedOptions
from kan_fast.nn.symbolic_edges import SymbolicEdges


class EdgeKinds(NamedTuple):
    """What each edge of a layer is, as bools `(out, in)`; an edge that is neither is absent.

    Attributes:
        spline: whether it is a spline.
        symbolic: whether it is a function of the library.
    """

    spline: Tensor
    symbolic: Tensor

    @property
    def present(self) -> Tensor:
        """Whether it is one of both."""
        return self.spline | self.symbolic


class EdgeLayer(StatedOptions):
    """Edges (output, input), each of which is a spline, a function of the library, or absent.

    Attributes:
        spline_weight: Parameter `(out, in, G + k)`.
        grid: buffer of knots `(in, G + 2k + 1)`.
        mask: None, or a buffer `(out, in)` of bools: a spline where it is False is absent.
        symbolic: None, or the edges that are functions of the library.
    """

    spline_weight: nn.Parameter
    grid: Tensor
    mask: Tensor | None
    symbolic: SymbolicEdges | None
    in_features: int
    out_features: int
    grid_size: int
    spline_order: int
    base: str | Callable[[Tensor], Tensor]
    extrapolation: str

    @property
    def kinds(self) -> EdgeKinds:
        """Which edges are splines and which are symbolic; splines that `mask` leaves out are absent."""
        spline = self._spline_edges()
        return EdgeKinds(spline, torch.zeros_like(spline) if self.symbolic is None else self.symbolic.where)

    def _spline_edges(self) -> Tensor:
        """`kinds.spline` by itself, which is what a forward pass with a mask or symbolic edges needs."""
        mask = self._checked_mask()
        if self.symbolic is not None:
            return ~self.symbolic.where if mask is None else mask & ~self.symbolic.where
        if mask is None:
            return torch.ones(self.spline_weight.shape[:2], dtype=torch.bool, device=self.grid.device)
        return mask

    def only_splines(self) -> bool:
        """Whether the layer has neither a mask nor symbolic edges; its weights then count as they are."""
        return self.symbolic is None and self._buffers["mask"] is None  # self.mask takes ten times as long

    def has_splines(self) -> bool:
        """Whether some edge is a spline; without one, splines are not evaluated."""
        return self.symbolic is None or self.symbolic.leaves_some(self._checked_mask())

    def _checked_mask(self) -> Tensor | None:
        mask = self.mask
        if mask is not None and (mask.dtype != torch.bool or mask.shape != self.spline_weight.shape[:2]):
            raise ValueError(
                f"mask must be bool and of the shape (out, in) = {tuple(self.spline_weight.shape[:2])}, got "
                f"{mask.dtype} and {tuple(mask.shape)}; for one of numbers take mask != 0"
            )
        return mask

    def _set_symbolic(self, edges: SymbolicEdges | None) -> None:
        """Replace the symbolic edges of the layer by `edges`; None for no symbolic edges."""
        if self.symbolic is not None:
            del self.symbolic  # to assign None would keep an empty child
        self.symbolic = edges.train(self.training) if edges is not None and edges.names else None
        self.has_splines()

    @property
    def _base_name(self) -> str:
        return self.base if isinstance(self.base, str) else getattr(self.base, "__name__", type(self.base).__name__)

    def _stated(self) -> dict[str, Any]:
        return {"base": self._base_name, "extrapolation": self.extrapolation}

    def _refusal(self, saved: dict[str, Any]) -> str:
        mine = self._stated()
        others = [name for name in mine if saved[name] != mine[name]]
        theirs, ours = (", ".join(f"{name}={options[name]}" for name in others) for options in (saved, mine))
        return f"the state is of a layer with {theirs}, this one has {ours}; build the layer as it was saved, then load"

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if not self._knots_increase(state_dict, prefix, error_msgs):
            return
        saved_mask = state_dict.get(prefix + "mask")
        if saved_mask is not None and self.mask is None:
            self.mask = torch.ones(self.spline_weight.shape[:2], dtype=torch.bool, device=self.grid.device)
        elif saved_mask is None and prefix + "spline_weight" in state_dict:
            self.mask = None
        self._load_symbolic(state_dict, prefix + "symbolic.", error_msgs)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        self.has_splines()  # compiled code notices a new answer, not a new mask
        weight, grid = state_dict.get(prefix + "spline_weight"), state_dict.get(prefix + "grid")
        if weight is None or grid is None or (weight.shape, grid.shape) == (self.spline_weight.shape, self.grid.shape):
            return
        if (weight.dim(), grid.dim()) != (3, 2):
            return  # torch says so
        order = grid.shape[1] - weight.shape[2] - 1
        error_msgs.append(
            f"{self._called(prefix)}: the state is of a layer with in_features={weight.shape[1]}, "
            f"out_features={weight.shape[0]}, grid_size={weight.shape[2] - order}, spline_order={order}, this one has "
            f"in_features={self.in_features}, out_features={self.out_features}, grid_size={self.grid_size}, "
            f"spline_order={self.spline_order}; build the layer with the saved sizes, then load"
        )

    def _knots_increase(self, state_dict: dict[str, Any], prefix: str, error_msgs: list[str]) -> bool:
        """Whether the knots of a state increase strictly. True for other sizes, which are compared elsewhere."""
        knots = state_dict.get(prefix + "grid")
        if not isinstance(knots, Tensor) or knots.is_meta or knots.shape != self.grid.shape:
            return True
        try:
            grids.check_knots(collectives.local(knots).to(self.grid.dtype))
        except ValueError as error:
            error_msgs.append(f"{self._called(prefix)}: the state can't be loaded: {error}")
            return False
        return True

    def _load_symbolic(self, state_dict: dict[str, Any], prefix: str, error_msgs: list[str]) -> None:
        """Give the layer the symbolic edges of a state, so that the state can be loaded; equal edges stay."""
        edges, names = state_dict.get(prefix + "edges"), state_dict.get(prefix + "_extra_state")
        if edges is None or names is None:
            if prefix.removesuffix("symbolic.") + "spline_weight" in state_dict:
                self._set_symbolic(None)
            return
        try:
            if self.symbolic is None or not self.symbolic.are(edges, names):
                shape = self.out_features, self.in_features
                self._set_symbolic(SymbolicEdges.blank(shape, edges, names, self.spline_weight))
        except ValueError as error:
            error_msgs.append(f"{prefix.rstrip('.')}: the state has edges that can't be made here: {error}")
