"""When training stops early, and the parameters that it goes back to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kan_fast._support.checks import integer
from kan_fast.nn.network import Network


class EarlyStopping:
    """Stops a training when a number has not become smaller for `patience` steps, and keeps the best parameters.

    Args:
        patience: number of steps, at least 1; None never stops.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = None if patience is None else integer("patience", patience, 1)
        self.best, self.waited = math.inf, 0
        self.state: dict[str, Tensor] = {}

    def stops(self, model: Network, value: float) -> bool:
        """Whether to stop after a step that ended with this value; the parameters of the least value are kept."""
        if self.patience is None:
            return False
        if value < self.best:
            self.best, self.waited = value, 0
            self.state = {name: t.clone() for name, t in model.state_dict().items()}
        else:
            self.waited += 1
        return self.waited >= self.patience

    @torch.no_grad()
    def end_stage(self, model: Network) -> None:
        """Put the best parameters back, and forget them: the next grid starts without a best value."""
        if self.state:
            model.load_state_dict(self.state)
        self.best, self.waited, self.state = math.inf, 0, {}
