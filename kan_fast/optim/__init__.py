"""Optimisers for small and medium networks, where L-BFGS and Gauss-Newton steps reach what first-order ones don't."""

from kan_fast.optim.lbfgs import LBFGS
from kan_fast.optim.levenberg_marquardt import LevenbergMarquardt

__all__ = ["LBFGS", "LevenbergMarquardt"]
