"""Layers and networks of which some edges are functions."""

from __future__ import annotations

import torch

from kan_fast import KAN, KANLinear

EDGES = [(2, 0), (0, 1), (1, 0), (2, 1), (0, 0)]

NAMES = ["sin", "x^2", "sin", "log", "exp"]

AFFINE = torch.tensor(
    [[2.0, 0.3, -1.0, 0.1], [1, 0.5, 2, -1], [0.5, 1, 3, 0], [0.4, 2, 1, 0.2], [-1, 0, 0.5, 0]], dtype=torch.float64
)


def mixed(**options):
    """5 symbolic edges of 6; (1, 1) is a spline."""
    layer = KANLinear(2, 3, **options)
    layer.fix_many(EDGES, NAMES, AFFINE)
    return layer


def network():
    """Every edge symbolic, a product among the nodes, and one edge pruned."""
    model = KAN([2, [1, 1], 1], seed=0)
    model.layers[0].mask = torch.tensor([[True, True], [True, True], [False, True]])
    model.layers[0].fix_many(EDGES[1:], NAMES[1:], AFFINE[1:])
    model.layers[0].fix(1, 1, "tanh")
    model.layers[1].fix_many([(0, 0), (0, 1)], ["x^3", "gaussian"], AFFINE[:2] / 3)
    return model


def samples(n=200):
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
