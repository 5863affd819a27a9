"""Regularisation of whole networks: sparsity as in the paper and as in pykan, and penalties on the coefficients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kan_fast.analysis.edges import bending
from kan_fast.analysis.metrics import METRICS
from kan_fast.nn.network import Network

REG_METRICS = ("edge_magnitude", *METRICS)
_LEAST = 1e-30  # least magnitude in the logarithm and the quotient, which keeps gradients finite


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


def pykan_l1_and_entropy(scale: Tensor) -> tuple[Tensor, Tensor]:
    """L1 norm and entropy of one layer as pykan 0.2.8 has them.

    Args:
        scale: `(out, in)`, non-negative.

    Returns:
        `sum s`, and the mean entropy of the rows plus that of the columns, in bits, where a share is
        `p = s / (1 + sum s)` of its row or column and counts as `-p log2(p + 1e-4)`.
    """
    entropy = scale.new_zeros(())
    for dim in (0, 1):
        p = scale / (scale.sum(dim, keepdim=True) + 1)
        entropy = entropy - (p * (p + 1e-4).log2()).sum(dim).mean()
    return scale.sum(), entropy


def regularization(
    model: Network,
    inputs: Sequence[Tensor],
    lamb_l1: float = 1.0,
    lamb_entropy: float = 2.0,
    lamb_coef: float = 0.0,
    lamb_coefdiff: float = 0.0,
    lamb_smooth: float = 0.0,
    reg_metric: str = "edge_magnitude",
) -> Tensor:
    """Sum over the layers of `lamb_l1 |Phi| + lamb_entropy S(Phi)` and of penalties on the spline weights.

    `reg_metric` says of which measure of the edges L1 norm and entropy are taken:

    * "edge_magnitude": the mean absolute activation of every spline, as in the paper (arXiv 2404.19756, Eq. 2.17-2.20).
      Memory is O(out * in) per layer, whatever the batch. Symbolic edges count as 0: a penalty would move their
      constants.
    * "edge_forward_spline_n": the standard deviation of the activation of every spline over that of the input,
      `std(phi) / (std(x) + 0.1)`; "edge_forward_sum": that of all edges; "edge_forward_spline_u": `std(phi)` of all;
      "edge_backward": the scores of `attribute` for 1 / n at each of n outputs; "node_backward": for every level, the
      scores of the inputs from each of its nodes. These are pykan's, with pykan's entropy (see `pykan_l1_and_entropy`),
      and take plain torch and O(batch * in * (G + k)) memory.

    Args:
        model: the network.
        inputs: the input of every layer, `(..., in)`; `KAN.activations` gives them.
        lamb_l1: weight of the L1 norm.
        lamb_entropy: weight of the entropy.
        lamb_coef: weight of the L1 norm of the spline weights, averaged over the outputs, as in pykan.
        lamb_coefdiff: weight of the L1 norm of their differences from one spline to the next, averaged likewise.
        lamb_smooth: weight of the integral of the squared second derivative of all splines; see
            `kan_fast.analysis.bending`.
        reg_metric: one of the names above.

    Returns:
        A scalar.

    Raises:
        ValueError: reg_metric is unknown, or lamb_smooth is given for a degree below 2.
    """
    if reg_metric not in REG_METRICS:
        raise ValueError(f"unknown reg_metric {reg_metric!r}; allowed: {', '.join(REG_METRICS)}")
    terms = []
    if lamb_l1 or lamb_entropy:
        if reg_metric in METRICS:
            norms = [pykan_l1_and_entropy(scale) for scale in METRICS[reg_metric](model, inputs)]
        else:
            norms = [l1_and_entropy(layer.spline_magnitude(x)) for layer, x in zip(model.layers, inputs, strict=True)]
        terms += [lamb_l1 * l1 + lamb_entropy * entropy for l1, entropy in norms]
    for layer in model.layers:
        weight = layer.edge_weights()[0]
        if lamb_coef:
            terms.append(lamb_coef * weight.abs().mean(0).sum())
        if lamb_coefdiff:
            terms.append(lamb_coefdiff * weight.diff(dim=2).abs().mean(0).sum())
        if lamb_smooth:
            terms.append(lamb_smooth * bending(layer).sum())
    return torch.stack(terms).sum() if terms else inputs[0].new_zeros(())
