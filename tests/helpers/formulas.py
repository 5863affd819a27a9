"""Symbolic networks, and their values by sympy."""

from __future__ import annotations

import numpy as np
import sympy
import torch

from kan_fast import KAN

x, y = sympy.symbols("x y")


def samples(n=300, columns=2):
    return torch.rand(n, columns, generator=torch.Generator().manual_seed(1)) * 2 - 1


def network(functions=("sin", "x^2", "exp", "cosh", "x", "tanh"), seed=0):
    """Every edge symbolic with some affine parameters; a product of two sums among the nodes."""
    model = KAN([2, [2, 1], 2], seed=seed)
    make = torch.Generator().manual_seed(seed)
    for layer in model.layers:
        edges = [(o, i) for o in range(layer.out_features) for i in range(layer.in_features)]
        affine = torch.rand(len(edges), 4, generator=make) * 3 - 1.5
        layer.fix_many(edges, [functions[n % len(functions)] for n in range(len(edges))], affine)
        torch.nn.init.uniform_(layer.bias, -1, 1, generator=make)
    return model


def fixed(function, affine, inputs=1):
    """A network of one edge for each input."""
    model = KAN([inputs, 1])
    model.layers[0].fix_many([(0, i) for i in range(inputs)], [function] * inputs, torch.tensor([affine] * inputs))
    return model


def assert_same(result, model, points):
    expected = model(points).detach().numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-10 * np.nanmax(abs(expected)))
