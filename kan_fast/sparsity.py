"""Regularisation that makes a network sparse: L1 and entropy of the edge magnitudes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kan_fast.linear import KANLinear

_LEAST = 1e-30  # a magnitude below it counts as this in the logarithm and the quotient, which keeps gradients finite


def l1_and_entropy(magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """L1 norm and entropy of one layer (arXiv 2404.19756, Eq. 2.18 and 2.19).

    Args:
        magnitude: mean absolute activation of every edge `(out, in)`, non-negative (Eq. 2.17).

    Returns:
        `|Phi| = sum m` and `S = -sum p log p` with `p = m / |Phi|`, in nats: 0 when a single edge is active, and
        `log(out * in)` when all are equally so. Both are 0, with finite gradients, for a layer whose edges are all 0.
    """
    m = magnitude.to(torch.promote_types(magnitude.dtype, torch.float32))
    total = m.sum()
    p = m / total.clamp_min(_LEAST)
    return total, -(p * p.clamp_min(_LEAST).log()).sum()


def regularization(
    layers: Iterable[KANLinear], inputs: Iterable[Tensor], lamb_l1: float = 1.0, lamb_entropy: float = 2.0
) -> Tensor:
    """`sum_l lamb_l1 |Phi_l| + lamb_entropy S(Phi_l)` over the layers (arXiv 2404.19756, Eq. 2.20).

    Args:
        layers: the layers of a network.
        inputs: what reaches each of them, `(..., in)`; `KAN.activations` gives it.
        lamb_l1: weight of the L1 norm.
        lamb_entropy: weight of the entropy.

    Returns:
        A scalar. Memory is O(out * in) per layer, whatever the batch.
    """
    terms = [l1_and_entropy(layer.edge_magnitude(x)) for layer, x in zip(layers, inputs, strict=True)]
    return torch.stack([lamb_l1 * l1 + lamb_entropy * entropy for l1, entropy in terms]).sum()
