"""KANLinear: a drop-in for nn.Linear with a learnable function on every edge."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kan_fast import functional
from kan_fast._support import collectives
from kan_fast._support.checks import distinct, integer, numbers, real
from kan_fast.functional import Base
from kan_fast.nn import grids, initial
from kan_fast.nn.edge_layer import EdgeLayer
from kan_fast.nn.functions import Function
from kan_fast.nn.no_weight import NoWeight
from kan_fast.nn.regrid import GridLayer
from kan_fast.nn.symbolic_edges import SymbolicEdges
from kan_fast.ops import dispatch

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class KANLinear(GridLayer, EdgeLayer):
    """A Kolmogorov-Arnold layer, `y_o = bias_o + sum_i phi_oi(x_i)` (arXiv 2404.19756, Eq. 2.10-2.12).

    Every edge has a function `phi(x) = base_weight * base(x) + sum_r spline_weight_r * B_r(x)` with B-splines `B_r` of
    degree k = `spline_order` on a grid of G = `grid_size` spans.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: whether to add a learnable bias.
        grid_size: number of spans G >= 1 of the grid.
        spline_order: degree k of the splines, 0 to 5.
        grid_range: interval `(start, end)` that the grid covers at first (and after `reset_parameters`), or such a pair
            for every input.
        base: "silu", "identity", "zero", or a callable that acts on each element (evaluated unfused).
        extrapolation: "zero", "linear" or "clamp"; see `kan_fast.functional.kan_linear`.
        grid_eps: share of the uniform grid in `update_grid`, 0 to 1; the rest follows the quantiles of the samples. It
            is raised for an input where a span would be shorter than a fiftieth of the mean one.
        init: scheme of the initial parameters, by name. "variance" keeps the mean square of the activations from layer
            to layer by the base functions (Glorot and Bengio 2010), splines start as noise of a hundredth of it;
            "xavier" is the KAN paper's, "lecun", "glorot" and "power" are those of arXiv 2509.03417. See
            docs/training.md for what they are good at.
        backend: force a backend; None chooses. See `kan_fast.backends` and `kan_fast.explain`.
        device: device of the parameters.
        dtype: dtype of the parameters; the grid of 16-bit layers stays float32.

    Attributes:
        spline_weight: Parameter `(out, in, G + k)`.
        base_weight: Parameter `(out, in)`; None for base "zero".
        bias: Parameter `(out,)` or None.
        grid: buffer of knots `(in, G + 2k + 1)`.
        mask: None, or a buffer `(out, in)` of bools: a spline where it is False counts as 0 and is not trained.
        symbolic: None, or the edges that `fix` gave a function of the library in place of their splines.
        weight: no matrix, but what makes nn.TransformerEncoderLayer call the layer.
    """

    weight = NoWeight()

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: grids.Range = (-1, 1),
        base: Base = "silu",
        extrapolation: str = "linear",
        grid_eps: float = 0.02,
        init: str = "variance",
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        spline_order = integer("spline_order", spline_order, 0)
        functional.check_options(spline_order, base, extrapolation)
        if dtype is not None and dtype not in DTYPES:
            raise TypeError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
        self.in_features = integer("in_features", in_features, 0)
        self.out_features = integer("out_features", out_features, 0)
        self.grid_size, self.spline_order = integer("grid_size", grid_size, 1), spline_order
        _check_options(grid_eps, backend)
        initial.check_scheme(init)
        self.grid_range = grids.checked_range(grid_range, self.in_features)
        self.base, self.extrapolation = base, extrapolation
        self.grid_eps, self.init, self.backend = float(grid_eps), init, backend

        empty = partial(torch.empty, device=device, dtype=dtype)
        edges = (self.out_features, self.in_features)
        self.spline_weight = nn.Parameter(empty(*edges, self.grid_size + spline_order))
        self.base_weight = nn.Parameter(empty(edges)) if base != "zero" else None
        self.bias = nn.Parameter(empty(self.out_features)) if bias else None
        knots = empty(self.in_features, self.grid_size + 2 * spline_order + 1)
        self.register_buffer("grid", knots.to(functional.grid_dtype(knots.dtype)))
        self.register_buffer("mask", None)
        self.symbolic: SymbolicEdges | None = None
        grids.check_distinct(self.grid_range, self.grid_size, spline_order, self.grid.dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters on the initial grid, as the constructor does.

        Base weights are uniform, spline weights normal, with the deviations of the scheme `init`; the bias is 0.
        """
        with torch.no_grad():
            self.grid.copy_(grids.uniform_grid(self.in_features, self.grid_size, self.spline_order, self.grid_range))
            bound, deviation = initial.scales(
                self.init, self.grid_range, self.base, self.spline_order, self.spline_weight, self.grid
            )
            if self.base_weight is not None:
                nn.init.uniform_(self.base_weight, -bound, bound)
            nn.init.normal_(self.spline_weight, std=deviation)
            if self.bias is not None:
                nn.init.zeros_(self.bias)
        self._drawn = initial.remembered(self.parameters())

    def as_drawn(self) -> bool:
        """Whether this is a layer of few parameters, and they are those that `reset_parameters` drew."""
        return initial.unchanged(self.parameters(), self._drawn)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        splines = self.has_splines()
        spline_weight, base_weight = self.edge_weights() if splines else (self.spline_weight, self.base_weight)
        return functional.kan_linear(
            x,
            spline_weight,
            base_weight,
            self.grid,
            self.bias,
            spline_order=self.spline_order,  # not **self._options: the dict takes 1 % of the time of small layers
            base=self.base,
            extrapolation=self.extrapolation,
            backend=self.backend,
            symbolic=self.symbolic,
            splines=splines,
        )

    def edge_weights(self) -> tuple[Tensor, Tensor | None]:
        """`spline_weight` and `base_weight` as the layer applies them: 0 on masked and on symbolic edges."""
        if self.only_splines():
            return self.spline_weight, self.base_weight
        mask = self._spline_edges()
        base_weight = None if self.base_weight is None else torch.where(mask, self.base_weight, 0)
        return torch.where(mask[..., None], self.spline_weight, 0), base_weight

    def unused_parameters(self) -> list[nn.Parameter]:
        """Parameters that no output depends on: those of the splines, in a layer without splines."""
        parameters = (self.spline_weight, self.base_weight)
        return [] if self.has_splines() else [p for p in parameters if isinstance(p, nn.Parameter)]

    def fix(
        self,
        output: int,
        input: int,
        function: str | Function,
        affine: Sequence[float] | Tensor = (1.0, 0.0, 1.0, 0.0),
    ) -> None:
        """Make an edge the function `phi(x) = c f(a x + b) + d`. Make optimisers afterwards: the parameter is new.

        Args:
            output: output that the edge leads to.
            input: input that the edge starts from.
            function: f, a name in the library (see `kan_fast.nn.functions`).
            affine: (a, b, c, d), trained with the other parameters.

        Raises:
            TypeError, ValueError: there is no such edge or function, or `affine` is not four finite numbers.
        """
        self.fix_many([(output, input)], [function], numbers("affine", affine)[None])

    @torch.no_grad()
    def fix_many(
        self, edges: Sequence[tuple[int, int]], functions: Sequence[str | Function], affine: Tensor | None = None
    ) -> None:
        """`fix` for several edges (output, input) at once, with `affine` `(n, 4)`; None for a = c = 1 and b = d = 0."""
        self._check_unsharded("fix")
        new, like = [(integer("output", o, 0), integer("input", i, 0)) for o, i in edges], self.spline_weight
        plain = [(1.0, 0.0, 1.0, 0.0)] * len(new)
        values = numbers("affine", plain if affine is None else affine).to(like)
        if not values.isfinite().all():
            raise ValueError(f"affine parameters must be finite, got {values.tolist()}")
        added = SymbolicEdges((self.out_features, self.in_features), new, functions, values)
        self._set_symbolic(added if self.symbolic is None else self.symbolic.without(new).joined(added))

    def unfix(self, output: int, input: int) -> None:
        """Turn a symbolic edge back into the spline that it was.

        Raises:
            ValueError: the edge is not symbolic.
        """
        self.unfix_many([(output, input)])

    @torch.no_grad()
    def unfix_many(self, edges: Sequence[tuple[int, int]]) -> None:
        """`unfix` for several edges (output, input) at once."""
        self._check_unsharded("unfix")
        places = [] if self.symbolic is None else self.symbolic.places
        for output, input in set(edges).difference(places):
            raise ValueError(f"the edge to output {output} from input {input} is not symbolic; these are: {places}")
        if self.symbolic is not None:
            self._set_symbolic(self.symbolic.without(edges))

    def edge_magnitude(self, x: Tensor) -> Tensor:
        """Mean absolute activation of every edge `(out, in)` over the samples x `(..., in)`; differentiable once."""
        magnitude = self.spline_magnitude(x)
        if self.symbolic is None:
            return magnitude
        terms = self.symbolic.terms(x.to(magnitude.dtype).reshape(-1, self.in_features))
        mean = terms.abs().sum(1) / max(terms.shape[1], 1)
        return magnitude + self.symbolic.matrix(mean).to(magnitude.dtype)

    def spline_magnitude(self, x: Tensor) -> Tensor:
        """`edge_magnitude`, but 0 for symbolic edges."""
        if not self.has_splines():
            return self.spline_weight.new_zeros(self.spline_weight.shape[:2])
        return functional.edge_magnitude(x, *self.edge_weights(), self.grid, backend=self.backend, **self._options)

    @torch.no_grad()
    def subset(
        self, outputs: Sequence[int] | Tensor, inputs: Sequence[int] | Tensor, edges: Tensor | None = None
    ) -> KANLinear:
        """A new layer that has these outputs and inputs alone, with copies of their parameters and all options.

        Args:
            outputs: their numbers, each at most once.
            inputs: their numbers, each at most once.
            edges: which of the edges between them to keep, bool `(len(outputs), len(inputs))`; None for all.

        Raises:
            TypeError, ValueError: a number is out of range or occurs twice; or parameters are parametrised or sharded
                over processes, so that they can't be cut.
        """
        self.check_plain("subset")
        layer = copy.deepcopy(self)
        device = self.grid.device
        kept = distinct("outputs", outputs, self.out_features), distinct("inputs", inputs, self.in_features)
        rows, columns = (torch.tensor(ids, dtype=torch.long, device=device) for ids in kept)
        for name, tensor in (*self.named_parameters(recurse=False), *self.named_buffers(recurse=False)):
            cut = tensor[columns] if name == "grid" else tensor[rows]
            cut = cut[:, columns] if name in ("spline_weight", "base_weight", "mask") else cut
            setattr(layer, name, nn.Parameter(cut, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cut)
        layer.out_features, layer.in_features = len(rows), len(columns)
        if edges is not None:
            mask = edges if layer.mask is None else layer.mask & edges
            layer.mask = None if mask.all() else mask
        if self.symbolic is not None:
            layer._set_symbolic(self.symbolic.cut(rows.tolist(), columns.tolist(), edges))
        if isinstance(self.grid_range[0], (tuple, list)):  # a range for each input
            layer.grid_range = tuple(self.grid_range[i] for i in columns.tolist())
        return layer

    def check_plain(self, what: str) -> None:
        """Raise ValueError if parameters are parametrised (weight norm, torch's pruning) or sharded over processes."""
        names = [name for name in ("spline_weight", "base_weight", "bias") if getattr(self, name) is not None]
        computed = [name for name in names if name not in self._parameters]
        sharded = [name for name, p in self.named_parameters(recurse=False) if collectives.is_sharded(p)]
        if computed or sharded:
            raise ValueError(
                f"{what} needs parameters that are plain tensors: {', '.join(computed or sharded)} "
                + (
                    "is computed from others (weight norm, torch's pruning, parametrisation)"
                    if computed
                    else "is sharded over processes; load the full state into a network that is not"
                )
            )

    def extra_repr(self) -> str:
        """The constructor's arguments, as nn.Linear prints them."""
        text = (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"grid_size={self.grid_size}, spline_order={self.spline_order}, grid_range={_outer(self.grid_range)}, "
            f"base={self._base_name}, extrapolation={self.extrapolation}"
        )
        if self.mask is not None:
            text += ", masked"
        return text if self.backend is None else f"{text}, backend={self.backend}"

    @property
    def _options(self) -> dict[str, Any]:
        return {"spline_order": self.spline_order, "base": self.base, "extrapolation": self.extrapolation}

    def _check_unsharded(self, what: str) -> None:
        if collectives.is_sharded(self.spline_weight):
            raise ValueError(f"{what} can't change the edges of sharded layers; {what} first, then shard")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KANLinear:
        knots = self.grid
        super()._apply(fn, recurse)
        if self.grid.dtype != functional.grid_dtype(self.grid.dtype):  # .half() and .bfloat16() would move the knots
            self.grid = knots.to(self.grid.device, functional.grid_dtype(self.grid.dtype))
        self.has_splines()
        return self


def _check_options(grid_eps: float, backend: str | None) -> None:
    if real("grid_eps", grid_eps) > 1:
        raise ValueError(f"grid_eps must be between 0 (quantiles) and 1 (uniform), got {grid_eps}")
    if backend is not None and backend not in dispatch.NAMES:
        raise ValueError(f"unknown backend {backend!r}; allowed: {', '.join(dispatch.NAMES)}, or None to choose")


def explain(layer: KANLinear, x: Tensor) -> dispatch.Choice:
    """Which backend serves `layer(x)`, and why not the others; print it to read it."""
    if not isinstance(layer, KANLinear):
        raise TypeError(f"explain expected a KANLinear, got {type(layer).__name__}; pass one of its layers")
    if not isinstance(x, Tensor):
        raise TypeError(f"explain expected a tensor as input, got {type(x).__name__}; use torch.as_tensor")
    if layer.spline_weight.device != x.device:
        raise ValueError(f"the layer is on {layer.spline_weight.device}, x on {x.device}; move them together")
    return dispatch.choose(x.device.type, layer.spline_weight.dtype, layer.backend)


def _outer(ranges: grids.Range) -> str:
    """From the least start to the greatest end, as text; dynamo traces it where torch prints a module."""
    pairs: Any = [ranges] if isinstance(ranges[0], (int, float)) else ranges
    return f"({min(start for start, _ in pairs)}, {max(end for _, end in pairs)})"
