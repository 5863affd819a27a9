"""Training of networks by `KAN.fit`: options, loop, objective, grids and checkpoints."""

from kan_fast.training.grid_schedule import forget_splines
from kan_fast.training.options import FitOptions
from kan_fast.training.stopping import EarlyStopping

__all__ = ["EarlyStopping", "FitOptions", "forget_splines"]
