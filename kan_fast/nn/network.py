"""Network: layers, nodes and grids. It knows no tool for training or analysis; `kan_fast.KAN` has these as methods."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kan_fast._support import collectives
from kan_fast._support.checks import integer, is_number, listed, real, tensor
from kan_fast.functional import Base
from kan_fast.nn import recording, regrid
from kan_fast.nn.linear import KANLinear
from kan_fast.nn.nodes import Nodes, levels

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Self


class Network(nn.Module):
    """A Kolmogorov-Arnold network (arXiv 2404.19756): layers of edges, one after the other, and the nodes between them.

    Args:
        width: number of nodes in every level, inputs first: `[2, 5, 1]`; a pair counts sums and products (KAN 2.0,
            arXiv 2408.10205): `[2, [5, 2], 1]` has 5 sum nodes and 2 multiplication nodes.
        grid: number of spans G of every grid.
        k: degree of the splines, 0 to 5.
        mult_arity: number of factors, at least 2, of every product; or a list with an entry for every level, inputs
            included: such a number, or a list with one for each product of the level.
        seed: makes the initial parameters reproducible and leaves the global random generator as it was. They are
            drawn on the CPU, so every device gets the same. None draws from the global generator, as nn.Linear does.
        bias: whether every layer has a learnable bias.
        base: base function of every edge: "silu", "identity", "zero" or a callable that acts on each element.
        extrapolation: splines outside of the grid: "zero", "linear" or "clamp"; see `kan_fast.functional.kan_linear`.
        grid_range: interval `(start, end)` that the grids cover at first. Or such a pair for every input of the
            network; the grids of the other layers then cover [-1, 1].
        grid_eps: share of the uniform grid in `update_grid`, 0 to 1.
        init: scheme of the initial parameters, by name; see `KANLinear`.
        noise_scale: pykan's initial splines: weights are uniform within half of `noise_scale / grid` around 0. None for
            those of `KANLinear.reset_parameters`.
        backend: force a backend; None chooses.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Attributes:
        layers: nn.ModuleList of KANLinear. The outputs of a layer are subnodes: sums, and factors of products.
        nodes: nn.ModuleList of `kan_fast.nn.Nodes`, which make nodes of the outputs of each layer.
        input_id: for each input of the network its column in the original data; `prune_input` removes some.
        last_inputs: the inputs that `fit` trained on last, by reference; `attribute`, `prune` and others use them.

    Raises:
        TypeError, ValueError: a width or option has a wrong type or value; the message says what is allowed.
    """

    layers: Sequence[KANLinear]
    nodes: Sequence[Nodes]

    def __init__(
        self,
        width: Sequence[int | Sequence[int]],
        grid: int = 5,
        k: int = 3,
        *,
        mult_arity: int | Sequence[int | Sequence[int]] = 2,
        seed: int | None = None,
        bias: bool = True,
        base: Base = "silu",
        extrapolation: str = "linear",
        grid_range: Sequence[float] | Sequence[Sequence[float]] = (-1, 1),
        grid_eps: float = 0.02,
        init: str = "variance",
        noise_scale: float | None = None,
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        (inputs, _), *rest = levels(width, mult_arity)
        self.input_id = list(range(inputs))
        self.last_inputs = recording.Samples()
        self.nodes = nn.ModuleList(Nodes(*level) for level in rest)  # type: ignore[assignment]  # as for layers below
        grid, self.k = integer("grid", grid, 1), integer("k", k, 0)
        seed = None if seed is None else integer("seed", seed)
        ranges: list[Any] = [tuple(listed("grid_range", grid_range))] * (len(self.nodes) + 1)
        if ranges[0] and not is_number(ranges[0][0]):
            ranges[1:] = [(-1, 1)] * len(ranges[1:])
        final = torch.get_default_device() if device is None else torch.device(device)
        start = "cpu" if seed is not None and final.type != "meta" else final
        with torch.random.fork_rng(devices=[]) if seed is not None else nullcontext():
            if seed is not None:
                torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed other devices as well
            self.layers = nn.ModuleList(  # type: ignore[assignment]  # it has no type for its items
                KANLinear(
                    n_in,
                    n_out,
                    bias,
                    grid_size=grid,
                    spline_order=self.k,
                    grid_range=range_,
                    base=base,
                    extrapolation=extrapolation,
                    grid_eps=grid_eps,
                    init=init,
                    backend=backend,
                    device=start,
                    dtype=dtype,
                )
                for n_in, n_out, range_ in zip(
                    [inputs, *(nodes.width for nodes in self.nodes[:-1])],
                    [len(nodes.owner) for nodes in self.nodes],
                    ranges[:-1],
                    strict=True,
                )
            )
            if noise_scale is not None:
                bound = real("noise_scale", noise_scale) / (2 * grid)
                for layer in self.layers:
                    nn.init.uniform_(layer.spline_weight, -bound, bound)
        self.to(final)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., width_in[0])` to `(..., width_in[-1])`; a floating point x is cast to the dtype of the parameters.

        Raises:
            TypeError: x is not a tensor, or not floating point.
            ValueError: x has another number of columns than the network has inputs.
        """
        x = self._cast(x)
        for layer, nodes in zip(self.layers, self.nodes, strict=True):
            x = nodes(layer(x))
        return x

    @property
    def grid(self) -> int:
        """Number of spans of the grids, that of the first layer; pykan's name."""
        return self.layers[0].grid_size

    @property
    def width(self) -> list[int | list[int]]:
        """Number of nodes in every level as the constructor takes it: n, or [sums, products] where there are any."""
        return [self.layers[0].in_features, *([n.sums, len(n.arities)] if n.arities else n.sums for n in self.nodes)]

    @property
    def width_in(self) -> list[int]:
        """Number of nodes in every level, inputs first; pykan's name."""
        return [self.layers[0].in_features, *(nodes.width for nodes in self.nodes)]

    @property
    def width_out(self) -> list[int]:
        """Number of subnodes in every level, inputs first; pykan's name. A product has `mult_arity` of them."""
        return [self.layers[0].in_features, *(len(nodes.owner) for nodes in self.nodes)]

    @property
    def mult_arity(self) -> list[list[int]]:
        """Number of factors of every product in every level, inputs first."""
        return [[], *(list(nodes.arities) for nodes in self.nodes)]

    def activations(self, x: Tensor) -> list[Tensor]:
        """The input of every layer, `(..., width_in[l])`, and last the output of the network."""
        output, inputs = recording.record(self, self.layers, x)
        return [*inputs, output]

    @torch.no_grad()
    def samples(self, x: Tensor | None, what: str) -> Tensor:
        """Samples `(n, width_in[0])` for a method: x, or if that is None the inputs that `fit` trained on last.

        Args:
            x: samples `(..., width_in[0])`, at least two; or None.
            what: name of the method, for messages.

        Raises:
            ValueError: there are no samples, fewer than two, or they have another number of columns.
        """
        x = self.last_inputs.x if x is None else x
        if x is None:
            raise ValueError(f"{what} needs samples: pass x=..., or train with fit first, whose inputs it then uses")
        like = self.layers[0].spline_weight
        x = tensor("x", x).to(like.device, like.dtype)
        if x.dim() < 2 or x.shape[-1] != self.width_in[0]:
            raise ValueError(f"{what} expected samples (n, {self.width_in[0]}), got x of shape {tuple(x.shape)}")
        x = x.reshape(-1, x.shape[-1])
        if len(x) < 2:
            raise ValueError(f"{what} compares deviations over the samples: give at least 2, got {len(x)}")
        return x

    @torch.no_grad()
    def reached(self, x: Tensor | None, what: str) -> list[Tensor]:
        """The input of every layer, `(n, width_in[l])`, for `samples(x, what)`.

        Raises:
            ValueError: as `samples`.
            NotFinite: a ValueError: the input of some layer is NaN or infinite.
        """
        inputs = recording.record(self, self.layers, self.samples(x, what))[1]
        recording.check_finite(dict(enumerate(inputs)), what)
        return inputs

    @torch.no_grad()
    def update_grid(
        self,
        x: Tensor,
        *,
        eps: float | None = None,
        margin: float | None = 0.0,
        trim: float = 0.0,
        group: ProcessGroup | None = None,
        layers: Collection[KANLinear] | None = None,
    ) -> None:
        """Move the knots of every layer to where its samples are; the function on their range is preserved.

        The samples of a layer are its inputs before any layer was changed. After an error all layers are as they were.

        Args:
            x: input samples `(..., width_in[0])`, finite.
            eps: share of the uniform grid, 0 to 1; None takes `grid_eps`.
            margin: added on either side of the samples' range, in units of its length; None takes a quarter of a span.
            trim: share of the samples at either end that the range leaves out; see `KANLinear.update_grid`.
            group: processes whose samples count together; see `KANLinear.update_grid`.
            layers: those of the network's layers to change; None for all.

        Raises:
            kan_fast.nn.NotFinite: a ValueError: the samples, or the inputs of some layer, are NaN or infinite.
            ValueError: see `KANLinear.update_grid`.
        """
        chosen = list(self.layers) if layers is None else list(layers)
        reached = dict(zip(self.layers, recording.record(self, self.layers, self._tensor(x))[1], strict=True))
        collectives.reshard(self)
        everyone = collectives.data_group(self.layers[0].grid, group)
        recording.check_finite(dict(enumerate(reached.values())), "update_grid", everyone)
        samples: dict[regrid.GridLayer, Tensor] = {layer: reached[layer] for layer in chosen}
        regrid.update_all(samples, eps=eps, margin=margin, trim=trim, group=group)

    def refine(self, new_grid: int) -> Self:
        """A new network on grids of `new_grid` spans with the same function; it shares no memory with this one.

        See `KANLinear.refine`; pykan's name and meaning.
        """
        new = copy.deepcopy(self)
        new.refine_(new_grid)
        return new

    def refine_(self, new_grid: int) -> None:
        """`refine` in place, as `fit(grids=...)` does it. After an error all layers are as they were.

        Optimisers need to be told, see `KANLinear.refine_`.
        """
        regrid.refine_all(self.layers, new_grid)

    def coverage(self, x: Tensor) -> list[Tensor]:
        """For every layer the fraction of samples outside of its grid range, for each feature `(width[l],)`.

        Args:
            x: input samples `(..., width[0])`.
        """
        with torch.no_grad():
            inputs = recording.record(self, self.layers, self._tensor(x))[1]
        return [layer.coverage(samples) for layer, samples in zip(self.layers, inputs, strict=True)]

    def extra_repr(self) -> str:
        """The sizes, as the constructor takes them."""
        return f"width={self.width}, grid={self.grid}, k={self.k}"

    def _tensor(self, x: Any) -> Tensor:
        """Samples as layers take them: tensors as they are, arrays and tables like the parameters."""
        return x if isinstance(x, Tensor) else tensor("x", x).to(self.layers[0].spline_weight)

    def _cast(self, x: Tensor) -> Tensor:
        floating = isinstance(x, Tensor) and x.is_floating_point()  # the first layer refuses anything else
        return x.to(self.layers[0].spline_weight.dtype) if floating else x
