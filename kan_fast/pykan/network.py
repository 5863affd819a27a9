"""`kan_fast.KAN` with the spellings and options of pykan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from kan_fast import model
from kan_fast._support.files import PathLike
from kan_fast.functional import Base
from kan_fast.nn import recording
from kan_fast.pykan.options import tolerant
from kan_fast.training.data import Dataset


class KAN(model.KAN):
    """`kan_fast.KAN` for scripts that were written for pykan.

    Args:
        width, grid, k: see `kan_fast.KAN`.
        base_fun: the same as `base`, which it overrides; None leaves `base` as it is.
        sp_trainable: False freezes the biases, so that training moves curves only where there are data. (In pykan it
            freezes scales of the splines, which layers do not have here.)
        sb_trainable: False freezes the base weights.
        options: further options of `kan_fast.KAN`. `extrapolation` is "zero" unless given, as in pykan.

    Raises:
        TypeError, ValueError: as `kan_fast.KAN`; or an option of pykan asks for something that is not supported here;
            the message says what to do instead.
    """

    @tolerant
    def __init__(
        self,
        width: Sequence[int | Sequence[int]],
        grid: int = 5,
        k: int = 3,
        *,
        base_fun: Base | None = None,
        sp_trainable: bool = True,
        sb_trainable: bool = True,
        **options: Any,
    ) -> None:
        chosen = {"extrapolation": "zero", **options} | ({} if base_fun is None else {"base": base_fun})
        super().__init__(width, grid, k, **chosen)
        for layer in self.layers:
            for p, trainable in ((layer.bias, sp_trainable), (layer.base_weight, sb_trainable)):
                if p is not None:
                    p.requires_grad_(trainable)

    def forward(self, x: Tensor, *, singularity_avoiding: bool = False, y_th: float = 10.0) -> Tensor:
        """`(..., width_in[0])` to `(..., width_in[-1])`; a floating point x is cast to the dtype of the parameters.

        `singularity_avoiding` and `y_th` concern poles of symbolic edges, and splines have none.

        Raises:
            TypeError, ValueError: as `kan_fast.KAN`; or singularities of symbolic edges are to be avoided.
        """
        if singularity_avoiding and any(layer.symbolic is not None for layer in self.layers):
            raise TypeError(
                "forward has no singularity_avoiding for symbolic edges, which are what the formula says, also near "
                "poles: leave it out; formula_report counts samples without a value. See docs/pykan.md"
            )
        return super().forward(x)

    fit = tolerant(model.KAN.fit)
    attribute = tolerant(model.KAN.attribute)
    plot = tolerant(model.KAN.plot)
    prune_node = tolerant(model.KAN.prune_node)
    prune_input = tolerant(model.KAN.prune_input)
    remove_edge = tolerant(model.KAN.remove_edge)
    remove_node = tolerant(model.KAN.remove_node)
    suggest_symbolic = tolerant(model.KAN.suggest_symbolic)
    fix_symbolic = tolerant(model.KAN.fix_symbolic)
    unfix_symbolic = tolerant(model.KAN.unfix_symbolic)
    unfix_symbolic_all = tolerant(model.KAN.unfix_symbolic_all)
    auto_symbolic = tolerant(model.KAN.auto_symbolic)
    saveckpt = model.KAN.save

    @classmethod
    def loadckpt(cls, path: PathLike, device: torch.device | str | None = None) -> Self:
        """The network that `saveckpt` wrote: `load(path, device)`."""
        return cls.load(path, device)

    @tolerant
    def prune_edge(self, threshold: float = 3e-2, *, x: Tensor | None = None) -> Self:
        """Remove edges whose score is not above a threshold, as `kan_fast.KAN.prune_edge` does, but in place.

        Returns:
            This network. Optimisers that were made before know other parameters; make them anew.
        """
        self.__dict__ = super().prune_edge(threshold, x=x).__dict__
        return self

    def train(self, mode: bool | Dataset = True, *args: Any, **options: Any) -> Any:
        """`train(True)` and `train(False)` set the mode, as in nn.Module; `train(dataset, ...)` is `fit(dataset, ...)`.

        The latter is the spelling of pykan's first version.
        """
        if isinstance(mode, bool):
            return super().train(mode, *args, **options)
        return self.fit(mode, *args, **options)

    def get_act(self, x: Tensor | Mapping[str, Tensor]) -> None:
        """Set `last_inputs`, as `fit` does, for training loops of your own.

        Args:
            x: samples `(..., width_in[0])`, at least two; or a dataset, whose "train_input" is used.

        Raises:
            ValueError: fewer than two samples, or another number of columns.
        """
        given = x["train_input"] if isinstance(x, Mapping) else x
        self.last_inputs = recording.Samples(self.samples(given, "get_act"))

    def update_grid_from_samples(self, x: Tensor) -> None:
        """Call `update_grid(x)`, then `get_act(x)`."""
        self.update_grid(x)
        self.get_act(x)
