"""Tools for training loops of one's own: the grids of all layers in any module."""

from kan_fast.loops.grids import Coverage, GridUpdates, coverage, refine_grids, update_grids

__all__ = ["Coverage", "GridUpdates", "coverage", "refine_grids", "update_grids"]
