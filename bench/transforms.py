"""Derivatives and transforms side by side: a PDE residual against pykan, an ensemble under vmap against a loop.

`python -m bench.transforms [--rounds N]` checks that both sides compute the same, then times them in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from bench import timing
from kan_fast import KAN

Calls = dict[str, Callable[[], Any]]


def residual(model: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Mean square of u_xx + u_yy + source, as a physics-informed network minimises it."""
    x = points.clone().requires_grad_()
    (first,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    second = [torch.autograd.grad(first[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2)]
    source = 2 * torch.pi**2 * torch.sin(torch.pi * points).prod(1)
    return (sum(second) + source).square().mean()


def poisson() -> Calls:
    """Forward, Laplacian, loss and backward of a [2, 10, 1] KAN on 21 x 21 points in float64."""
    try:
        from kan import KAN as Pykan
    except ImportError:
        sys.exit("the comparison needs pykan: pip install pykan==0.2.8")
    from kan_fast.convert import from_pykan

    torch.set_default_dtype(torch.float64)
    theirs = Pykan([2, 10, 1], grid=5, k=3, auto_save=False, seed=0).speed()
    ours = from_pykan(theirs)
    torch.set_default_dtype(torch.float32)
    axis = torch.linspace(-1, 1, 21, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    # at the points themselves splines are smooth enough: a cubic has a continuous second derivative
    torch.testing.assert_close(residual(ours, points), residual(theirs, points), rtol=1e-9, atol=0)

    def step(model: nn.Module) -> Callable[[], None]:
        return lambda: residual(model, points).backward()

    return {"kan_fast": step(ours), "pykan": step(theirs)}


def ensemble(members: int = 32) -> Calls:
    """Forward and backward of 32 [2, 5, 1] KANs on the same 100 points: one vmap against a loop."""
    models = [KAN([2, 5, 1], seed=i) for i in range(members)]
    parameters, buffers = stack_module_state(models)
    x = torch.rand(100, 2) * 2 - 1

    def together() -> Tensor:
        return vmap(lambda p, b: functional_call(models[0], (p, b), (x,)))(parameters, buffers)

    def one_by_one() -> Tensor:
        return torch.stack([model(x) for model in models])

    torch.testing.assert_close(together(), one_by_one())

    def step(forward: Callable[[], Tensor], trained: Iterable[Tensor]) -> Callable[[], None]:
        trained = list(trained)
        return lambda: torch.autograd.grad(forward().square().mean(), trained)

    apart = [p for model in models for p in model.parameters()]
    return {"vmap": step(together, parameters.values()), "loop": step(one_by_one, apart)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("cases", nargs="*", default=["poisson", "ensemble"])
    options = parser.parse_args()
    for name in options.cases:
        first, other = timing.interleaved({"poisson": poisson, "ensemble": ensemble}[name](), options.rounds).items()
        ratios = [b / a for a, b in zip(first[1], other[1], strict=True)]
        milliseconds = [f"{label} {1e3 * statistics.median(times):.2f} ms" for label, times in (first, other)]
        print(f"{name}: {', '.join(milliseconds)}, {first[0]} is {statistics.median(ratios):.1f}x as fast")


if __name__ == "__main__":
    main()
