"""Curves of edges, from the layer alone: an oracle for scores and penalties."""

import torch


def edges(layer, x):
    """The activation of every edge (n, out, in), one input at a time through the layer itself."""
    everything = range(layer.out_features)
    single = [layer.subset(everything, [i])(x[:, i : i + 1]) for i in range(layer.in_features)]
    return torch.stack(single, 2) - (0 if layer.bias is None else layer.bias[:, None])
