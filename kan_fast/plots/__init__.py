"""Pictures of networks, edges, splines and trainings, by matplotlib."""

from kan_fast.plots.canvas import Picture
from kan_fast.plots.curves import plot_basis, plot_edge, plot_training
from kan_fast.plots.network import plot

__all__ = ["Picture", "plot", "plot_basis", "plot_edge", "plot_training"]
