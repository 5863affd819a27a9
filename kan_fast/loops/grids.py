"""The grids of all layers in any module, for training loops of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from kan_fast._support import collectives
from kan_fast._support.checks import described, integer, listed
from kan_fast._support.text_table import table
from kan_fast.loops.samples import Samples, layers_in, samples_of
from kan_fast.nn import recording, regrid
from kan_fast.nn.linear import KANLinear
from kan_fast.training.grid_schedule import forget_moved, forget_splines, is_movable, update_steps

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Coverage(dict[str, Tensor]):
    """The shares of samples outside of the grids: name of a layer to Tensor `(in,)`; print it to read it."""

    def __repr__(self) -> str:
        rows = [("layer", "outside (mean)", "outside (most)", "in feature")]
        for name, outside in self.items():
            most = int(outside.argmax()) if len(outside) else None
            figures = ("-", "-", "-") if most is None else (f"{outside.mean():.1%}", f"{outside[most]:.1%}", str(most))
            rows.append((name, *figures))
        return "\n".join(table(rows, left=1))


def coverage(module: nn.Module, x: Samples) -> Coverage:
    """For every KANLinear in a module the share of samples outside of its grid range, for each feature `(in,)`.

    The module is called in the mode that it is in (training or evaluation), without gradients. Nothing is changed:
    neither buffers, such as the averages of batch norm, nor torch's random numbers. In several processes, each counts
    its own samples.

    Args:
        module: any module that holds KANLinear layers, also compiled, or wrapped by DistributedDataParallel.
        x: samples: a tensor for the call `module(x)`, a tuple for `module(*x)`, a dict for `module(**x)`; or an
            iterable of such batches, `(x for x, _ in loader)`, read until 4096 samples have reached each layer.

    Returns:
        A dict from the layer's qualified name ("" for the module itself) to shares from 0 to 1, which prints as a
        table. NaN counts as outside. Layers that the module does not call are left out.

    Raises:
        TypeError: x or a batch is something else, or the module does not take so many inputs.
        ValueError: the module holds no KANLinear, or calls none with these samples.
    """
    layers = layers_in(module, "coverage")
    reached = samples_of(module, layers, x, "coverage")
    _check_reached(reached, module, "coverage")
    return Coverage({name: layers[name].coverage(samples) for name, samples in reached.items()})


def update_grids(
    module: nn.Module,
    x: Samples,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    *,
    eps: float | None = None,
    margin: float | None = None,
    trim: float = 0.0,
    group: ProcessGroup | None = None,
) -> list[str]:
    """Move the knots of every KANLinear in a module to where its samples are; functions on their range are preserved.

    All layers take the samples that reach them before any knot moves. Layers keep their knots if their `spline_weight`
    is frozen, if they have no splines, or if the module does not call them. After an error all layers are as they were.
    The module is called as `coverage` does it, which changes nothing else. Call it before a forward pass, not between
    forward and backward.

    Moved knots change the meaning of `spline_weight`. So the optimiser forgets what it remembers of it (averages,
    momentum), but for `kan_fast.optim.LBFGS`, as in `KAN.fit`; docs/own_loops.md compares that with other ways.

    Under torch.distributed all processes of `group` must call this, each with its own samples; see
    `KANLinear.update_grid`.

    Args:
        module: any module that holds KANLinear layers, also compiled, under DistributedDataParallel or `fully_shard`.
        x: samples, finite, in one of the forms that `coverage` takes.
        optimizer: what trains the module, one optimiser or several; None to leave optimisers as they are.
        eps: share of the uniform grid, 0 to 1; None takes each layer's `grid_eps`.
        margin: added on either side of the samples' range, in units of its length; None takes a quarter of a span.
        trim: share of the samples at either end that the range leaves out, 0 to below 0.5.
        group: processes whose samples count together; None for all.

    Returns:
        The names of the layers whose grids moved.

    Raises:
        TypeError: as `coverage`, or `optimizer` is no optimiser.
        kan_fast.nn.NotFinite: a ValueError: NaN or infinity reaches a layer.
        ValueError: as `coverage`; the optimiser lacks parameters of the module; or see `KANLinear.update_grid`.
    """
    what = "update_grids"
    layers = {name: layer for name, layer in layers_in(module, what).items() if is_movable(layer)}
    if not layers:
        return []
    collectives.reshard(module)
    optimizers = _checked_optimizers(optimizer, layers, what)
    reached = samples_of(module, layers, x, what)
    collectives.reshard(module)
    reached = _reached_anywhere(module, layers, reached, group, what)
    moved: dict[regrid.GridLayer, Tensor] = {layers[name]: samples for name, samples in reached.items()}
    regrid.update_all(moved, eps=eps, margin=margin, trim=trim, group=group)
    for one in optimizers:
        forget_moved(one, moved)
    return list(reached)


def refine_grids(
    module: nn.Module, new_size: int, optimizer: Optimizer | Sequence[Optimizer] | None = None
) -> list[str]:
    """Give every KANLinear in a module a grid of `new_size` spans, in place, with the same function.

    See `KANLinear.refine`. After an error all layers are as they were. Parameters stay the same objects with another
    shape, so the optimiser goes on, and forgets what it remembers of `spline_weight`. Compiled code is compiled anew
    for the new shapes.

    Args:
        module: any module that holds KANLinear layers, not yet wrapped by DistributedDataParallel or sharded.
        new_size: number of spans of every grid, at least 1.
        optimizer: what trains the module, one optimiser or several; None to leave optimisers as they are, which fails
            in the next step, or reads outside of its memory with torch's fused ones.

    Returns:
        The names of the layers whose grids changed.

    Raises:
        TypeError, ValueError: the module holds no KANLinear, is wrapped or sharded, the optimiser lacks parameters of
            it, or see `KANLinear.refine`.
    """
    what = "refine_grids"
    size = integer("new_size", new_size, 1)
    layers = {name: layer for name, layer in layers_in(module, what).items() if layer.grid_size != size}
    if any(isinstance(part, DistributedDataParallel) for part in module.modules()):
        raise ValueError(
            "refine_grids can't change the shapes of parameters that DistributedDataParallel has laid out; refine "
            "first, then wrap the module"
        )
    trained = {name: layer for name, layer in layers.items() if layer.spline_weight.requires_grad}
    optimizers = _checked_optimizers(optimizer, trained, what)
    regrid.refine_all(layers.values(), size)
    for one in optimizers if layers else ():
        forget_splines(one, module)
    return list(layers)


class GridUpdates:
    """Grid updates in the first steps of a training loop of one's own, by the rule that `KAN.fit` has.

    Call `step(x)` in every step of the loop, before the forward pass. Grids move in steps, counted from 0, that are
    multiples of `every`, from `start` on and before `stop`.

    Args:
        module: any module that holds KANLinear layers; see `update_grids`.
        optimizer: what trains the module, one optimiser or several; None to leave optimisers as they are.
        every: number of steps between updates, at least 1.
        stop: no update from this step on.
        start: no update before this step.
        eps, margin, trim, group: see `update_grids`.

    Attributes:
        steps: number of calls of `step` so far.

    Raises:
        TypeError, ValueError: a number is no int or out of range, or the module holds no KANLinear.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        *,
        every: int = 20,
        stop: int = 200,
        start: int = 0,
        eps: float | None = None,
        margin: float | None = None,
        trim: float = 0.0,
        group: ProcessGroup | None = None,
    ) -> None:
        layers_in(module, "GridUpdates")
        every, stop, start = integer("every", every, 1), integer("stop", stop, 0), integer("start", start, 0)
        self._due = update_steps(start, stop, every)
        self._module, self._optimizer = module, optimizer
        self._options: dict[str, Any] = {"eps": eps, "margin": margin, "trim": trim, "group": group}
        self.steps = 0

    def step(self, x: Samples) -> bool:
        """Move the grids if it is time to; x is read only then. Returns whether grids moved.

        Args:
            x: samples that represent the data, in one of the forms that `update_grids` takes; some thousand of them,
                since quantiles of one small batch are noisy.

        Raises:
            TypeError, ValueError: see `update_grids`; the step then does not count.
        """
        moved = self.steps in self._due and update_grids(self._module, x, self._optimizer, **self._options)
        self.steps += 1
        return bool(moved)

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps: the number of steps so far."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on after the step at which `state_dict` was called."""
        self.steps = integer("steps", state["steps"], 0)


def _reached_anywhere(
    module: nn.Module,
    layers: Mapping[str, KANLinear],
    reached: Mapping[str, Tensor],
    group: ProcessGroup | None,
    what: str,
) -> dict[str, Tensor]:
    """Samples of all layers that are reached in some process, which are the same in all of them; checked."""
    knots = [collectives.local(layer.grid) for layer in layers.values()]
    samples = {name: reached.get(name, grid.new_empty(0, len(grid))) for name, grid in zip(layers, knots, strict=True)}
    everyone = collectives.data_group(next(iter(layers.values())).grid, group)
    rows = [collectives.local(t).shape[:-1].numel() for t in samples.values()]
    counts = collectives.total(torch.tensor(rows, device=knots[0].device), everyone).tolist()
    samples = {name: t for (name, t), count in zip(samples.items(), counts, strict=True) if count}
    _check_reached(samples, module, what)
    recording.check_finite(samples, what, everyone)
    return samples


def _check_reached(reached: Mapping[str, Tensor], module: nn.Module, what: str) -> None:
    if not reached:
        raise ValueError(
            f"{what} needs samples: none reach a KANLinear of {type(module).__name__}; pass some that its forward "
            "gives to these layers"
        )


def _checked_optimizers(given: Any, layers: Mapping[str, KANLinear], what: str) -> list[Optimizer]:
    """`given` as a list of optimisers that hold the splines of all the layers, or an empty one for None."""
    if given is None:
        return []
    optimizers = [given] if isinstance(given, Optimizer) else listed("optimizer", given)
    for one in optimizers:
        if not isinstance(one, Optimizer):
            raise TypeError(f"{what} expected a torch.optim.Optimizer, got {described(one)}")
    held = {id(p) for one in optimizers for options in one.param_groups for p in options["params"]}
    splines = {name: layer.spline_weight for name, layer in layers.items()}
    missing = [name for name, p in splines.items() if isinstance(p, nn.Parameter) and id(p) not in held]
    if missing:
        raise ValueError(
            f"the optimiser does not train spline_weight of the layers {missing}: it is of another module, or of this "
            "one before it was pruned or sharded; make it anew with module.parameters(). If several optimisers train "
            "the module, pass a list of them; freeze layers that are not to be trained by requires_grad_(False)"
        )
    return optimizers
