"""The objective of `fit`: loss and regularisation, steps on batches, and a state to go back to when a step fails."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from kan_fast import optim
from kan_fast._support import collectives, torch_internals
from kan_fast.nn import recording
from kan_fast.nn.network import Network
from kan_fast.training.data import Pair

Loss = Callable[[Tensor, Tensor], Tensor]
Penalty = Callable[[Network, list[Tensor]], Tensor]


class Diverged(Exception):
    """The objective or its gradient is NaN or infinite."""


def _root(loss: Tensor) -> Tensor:
    """The square root of a loss; of a negative one that of its size, negative: a smaller loss has a smaller root."""
    return loss.sign() * loss.abs().sqrt()


class Objective:
    """`loss + lamb * regularisation` of a network on batches.

    Args:
        model: the network.
        optimizer: of its parameters.
        loss_fn: gives a scalar from output and label; None for the mean squared error.
        lamb: weight of the regularisation.
        penalty: gives the regularisation, a scalar, from the network and the inputs of its layers.
        clip: largest norm of the gradient; longer ones are scaled down to it. None for no limit.
    """

    def __init__(
        self,
        model: Network,
        optimizer: Optimizer,
        loss_fn: Loss | None,
        lamb: float,
        penalty: Penalty,
        clip: float | None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.loss_fn, self.lamb, self.penalty, self.clip = loss_fn or F.mse_loss, lamb, penalty, clip
        self.keep()

    def step(self, pair: Pair) -> tuple[float, float]:
        """One step of the optimiser on a batch; returns the root of the loss and the regularisation.

        Both are those before the step; those after the step if the optimiser evaluates the objective more than once.

        Raises:
            Diverged: the objective or its gradient is not finite.
        """
        if isinstance(self.optimizer, optim.LevenbergMarquardt):
            x, label = pair
            if not self.optimizer.step(lambda: self.model(x) - label).isfinite():
                raise Diverged
            return self.evaluate(pair)
        found: list[float] | None = None
        evaluations = 0

        def closure() -> Tensor:
            nonlocal found, evaluations
            evaluations += 1
            for p in self._params:
                p.grad = None
            loss, reg = self._losses(pair)
            total = loss if reg is None else loss + self.lamb * reg
            total.backward()
            if found is None:  # the first evaluation, at the parameters before the step
                found = self._checked(total, loss, reg)
            return total

        self.optimizer.step(closure)  # type: ignore[arg-type]  # torch calls it a function to float
        if evaluations > 1:  # the last evaluation need not be at the parameters that the optimiser chose
            return self.evaluate(pair)
        assert found is not None, "an optimiser's step calls its closure"
        return found[0], found[1]

    @torch.no_grad()
    def test(self, pair: Pair) -> float:
        """Root of the loss on a batch."""
        return _root(self._loss(self.model(pair[0]), pair[1])).item()

    @torch.no_grad()
    def keep(self) -> None:
        """Remember the present parameters and grids as good. Call it again after their shapes have changed."""
        self._params = [p for group in self.optimizer.param_groups for p in group["params"]]
        state = [collectives.local(t.detach()) for t in (*self.model.parameters(), *self.model.buffers())]
        self._good = [t.clone() for t in state], state  # at once: Ctrl-C comes between

    @torch.no_grad()
    def restore(self) -> None:
        """Put back the parameters and grids that were remembered last."""
        good, state = self._good
        torch_internals.copy_all(state, good)

    def _checked(self, total: Tensor, loss: Tensor, reg: Tensor | None) -> list[float]:
        """Root of the loss and regularisation as numbers; clips the gradient and remembers the parameters."""
        gradients = [p.grad for p in self._params if p.grad is not None]
        norm = collectives.whole(torch.nn.utils.get_total_norm(gradients))
        with torch.no_grad():
            values = torch.stack([total + norm, _root(loss), torch.zeros_like(loss) if reg is None else reg.to(loss)])
            finite, *found = values.tolist()
            if not finite - finite == 0:
                raise Diverged
            torch_internals.copy_all(*self._good)
            if self.clip is not None:
                torch.nn.utils.clip_grads_with_norm_(self._params, self.clip, norm)
        return found

    @torch.no_grad()
    def evaluate(self, pair: Pair) -> tuple[float, float]:
        """Root of the loss and regularisation on a batch, without a step; remembers the parameters as good.

        Raises:
            Diverged: the loss is not finite.
        """
        loss, reg = self._losses(pair)
        value = loss.item()
        if not value - value == 0:
            raise Diverged
        torch_internals.copy_all(*self._good)
        return _root(loss).item(), 0.0 if reg is None else reg.item()

    def _losses(self, pair: Pair) -> tuple[Tensor, Tensor | None]:
        x, label = pair
        if not self.lamb:
            return self._loss(self.model(x), label), None
        output, inputs = recording.record(self.model, self.model.layers, x)
        loss = self._loss(output, label)
        return loss, self.penalty(self.model, inputs)

    def _loss(self, output: Tensor, label: Tensor) -> Tensor:
        """The loss, a scalar. Errors of torch about labels don't mention them, so they are raised again with both."""
        try:
            loss = self.loss_fn(output, label)
        except (RuntimeError, IndexError) as error:
            if (output.shape, output.dtype) == (label.shape, label.dtype):
                raise
            got = f"outputs {tuple(output.shape)} {output.dtype} and labels {tuple(label.shape)} {label.dtype}"
            raise ValueError(
                f"loss_fn fails on {got}: {error}. Labels of the shape of the outputs are numbers, in their dtype; "
                "others are integers, or numbers, as they were given. Class numbers for a cross-entropy are integers "
                "of the shape (samples,)"
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss_fn must return a scalar tensor, got {got}; take the mean, for example")
        if output.requires_grad and not loss.requires_grad:
            raise ValueError(
                f"loss_fn must compute its loss, here {loss.item():.4g} of dtype {loss.dtype}, from the output by "
                "functions of torch that have derivatives: no .item(), .detach() or numpy, no comparison or argmax"
            )
        return loss.reshape(())
