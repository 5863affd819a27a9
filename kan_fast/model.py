"""KAN: a network together with the tools that train it, look into it and make formulas of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from kan_fast import plots
from kan_fast._support.checks import integer
from kan_fast._support.files import PathLike
from kan_fast.analysis import attribution, pruning
from kan_fast.nn import storage
from kan_fast.nn.functions import Function
from kan_fast.nn.network import Network
from kan_fast.symbolic import discovery, formula, report, suggest
from kan_fast.training import fit as fitting
from kan_fast.training.multistart import multistart


class KAN(Network):
    """A Kolmogorov-Arnold network (arXiv 2404.19756), built and trained as in pykan.

    It takes the arguments and has the attributes of `kan_fast.nn.Network`, and these methods:

    * training: `fit`, `multistart`; `save` and `load` keep networks in files;
    * grids: `update_grid`, `refine`, `coverage`;
    * analysis: `attribute`, `activations`, and smaller networks by `prune`, `prune_node`, `prune_edge`, `prune_input`;
      `remove_edge` and `remove_node` work in place;
    * formulas: `discover` does everything; or, step by step, `suggest_symbolic`, `fix_symbolic`, `unfix_symbolic`,
      `auto_symbolic`, `symbolic_formula`, `formula_report`;
    * pictures: `plot`, `plot_edge`.
    """

    fit = fitting.interruptible(fitting.fit)
    multistart = fitting.interruptible(multistart)
    save = storage.save

    @classmethod
    def load(cls, path: PathLike, device: torch.device | str | None = None) -> Self:
        """The network that `save` wrote.

        Functions that were added to the library have to be added again before (`kan_fast.nn.functions.add_symbolic`).

        Args:
            path: of the file.
            device: device of the parameters; None for torch's default device.

        Raises:
            ValueError: the file is not one of `KAN.save`, damaged, or of a later version of this package.
            OSError: the file can't be opened.
        """
        return storage.load(cls, path, device)

    attribute = attribution.attribute
    prune_node = pruning.prune_node
    prune_edge = pruning.prune_edge
    prune_input = pruning.prune_input
    remove_edge = pruning.remove_edge
    remove_node = pruning.remove_node

    suggest_symbolic = suggest.suggest_symbolic
    fix_symbolic = suggest.fix_symbolic
    unfix_symbolic = suggest.unfix_symbolic
    unfix_symbolic_all = suggest.unfix_symbolic_all
    auto_symbolic = suggest.auto_symbolic
    symbolic_formula = formula.symbolic_formula
    formula_report = report.formula_report

    @classmethod
    def discover(
        cls,
        dataset: Mapping[str, Any] | tuple[Any, Any],
        *,
        seed: int = 0,
        lib: Iterable[str | Function] | None = None,
        progress: bool = True,
    ) -> Self:
        """A network whose edges are functions of the library, from data alone; see `kan_fast.symbolic.discover`."""
        return discovery.discover(cls, dataset, seed=seed, lib=lib, progress=progress)

    plot = plots.plot
    plot_edge = plots.plot_edge

    def prune(self, node_th: float = 1e-2, edge_th: float = 3e-2, *, x: Tensor | None = None, refit: int = 0) -> Self:
        """A smaller network without the nodes and edges that explain little; see `kan_fast.analysis.prune`.

        Args:
            node_th: hidden nodes with a score up to this, at least 0, are removed; see `prune_node`.
            edge_th: edges with a score up to this, at least 0, are removed; see `prune_edge`.
            x: samples `(..., width_in[0])`; None for the inputs that `fit` trained on last.
            refit: number of LBFGS steps, at least 0, in which the result learns the outputs of this network on the
                samples: the edges that stay make up for those that were removed. Needs no labels.

        Raises:
            TypeError, ValueError: as `kan_fast.analysis.prune`, or `refit` is not an int of at least 0.
        """
        steps = integer("refit", refit, 0)
        result = pruning.prune(self, node_th, edge_th, x=x)
        if steps:
            samples = self.samples(x, "prune")
            fitting.fit(result, (samples, self(samples)), steps=steps, update_grid=False, progress=False)
        return result
