"""The parameters that `fit` trains, and the optimisers that it knows by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from kan_fast import optim
from kan_fast._support import collectives
from kan_fast.nn.network import Network

OPTIMIZERS: dict[str, Callable[[Network, Sequence[Tensor], float | None], Optimizer]] = {
    "LBFGS": lambda model, parameters, lr: optim.LBFGS(parameters, lr=1.0 if lr is None else lr),
    "Adam": lambda model, parameters, lr: Adam(parameters, lr=1e-2 if lr is None else lr, fused=True),
    "LM": lambda model, parameters, lr: optim.LevenbergMarquardt(model),
}
LINE_SEARCHES = (torch.optim.LBFGS, optim.LBFGS, optim.LevenbergMarquardt)


def trainable(model: Network) -> list[Tensor]:
    """The parameters that `fit` trains: those that need gradients and that some output depends on.

    Raises:
        ValueError: there are none, or the network is on the meta device.
    """
    if any(t.is_meta for t in [*model.parameters(), *model.buffers()]):
        raise ValueError(
            "the network is on the meta device, which holds no numbers; call to_empty(device=...), then "
            "reset_parameters() of every layer or load_state_dict"
        )
    unused = {id(p) for layer in model.layers for p in layer.unused_parameters()}
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad and id(p) not in unused]
    if not parameters:
        raise ValueError("the network has no trainable parameters; set requires_grad_(True) on some")
    return parameters


def make_optimizer(
    opt: str | Optimizer | type[Optimizer], model: Network, parameters: Sequence[Tensor], lr: float | None
) -> Optimizer:
    """The optimiser that a name, a class or an instance stands for."""
    if opt is optim.LevenbergMarquardt:
        opt = "LM"
    if isinstance(opt, str) and opt in OPTIMIZERS:
        if opt == "LM" and lr is not None:
            raise ValueError("LM has no learning rate; leave out lr")
        if opt in ("LM", "LBFGS") and any(map(collectives.is_sharded, parameters)):
            raise ValueError(
                f"{opt} can't train parameters that are sharded (DTensor); use Adam, or fit before sharding"
            )
        return OPTIMIZERS[opt](model, parameters, lr)
    if isinstance(opt, Optimizer):
        if lr is not None:
            raise ValueError("lr has no effect on an optimiser that exists already; set it there")
        if {id(p) for group in opt.param_groups for p in group["params"]} - {id(p) for p in model.parameters()}:
            raise ValueError(
                "the optimiser has parameters of another network, or of this one before it was pruned or edges were "
                "fixed; make it anew with model.parameters()"
            )
        return opt
    if isinstance(opt, type) and issubclass(opt, Optimizer):
        return opt(parameters) if lr is None else opt(parameters, lr=lr)  # type: ignore[call-arg]
    raise ValueError(f"unknown optimiser {opt!r}; allowed: {', '.join(OPTIMIZERS)}, a torch.optim.Optimizer or a class")


@contextmanager
def splines_alone(model: Network) -> Iterator[None]:
    """Freeze the parameters that act on the whole line: base weights, biases and symbolic edges."""
    weights = [
        p
        for layer in model.layers
        for p in (layer.base_weight, layer.bias, None if layer.symbolic is None else layer.symbolic.affine)
        if p is not None and p.requires_grad
    ]
    for p in weights:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in weights:
            p.requires_grad_(True)
