"""Training of networks, `KAN.fit`: its options, loop, objective, grids and checkpoints."""

from kan_fast.training.options import FitOptions
from kan_fast.training.stopping import EarlyStopping

__all__ = ["EarlyStopping", "FitOptions"]
