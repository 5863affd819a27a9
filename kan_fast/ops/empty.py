"""The results of the six functions of a backend, allocated but not computed: each function here is named for its own.

A backend fills them. Fakes of the operators return them as they are, because only shapes matter there. Arguments are
those of the contract in docs/architecture.md, and all tensors may have one leading dimension of groups. A gradient that
is not needed is of shape (0,), or (groups, 0). Sizes are spelled out, `new_empty(*shape)`, because torch takes twice as
long to read a `torch.Size`.
"""

from __future__ import annotations

from torch import Tensor

from kan_fast.ops.contract import Coefficients, Needs, NeedsCoef, Rows


def forward(x: Tensor, v: Tensor | None, c: Coefficients, bias: Tensor | None, rows: Rows) -> Tensor:
    return x.new_empty(*x.shape[:-1], c.edge_shape[0])


def grad_input(x: Tensor, g: Tensor, c: Coefficients, rows: Rows) -> Tensor:
    return x.new_empty(*x.shape)


def grad_coef(x: Tensor, v: Tensor | None, g: Tensor, rows: Rows, needs: NeedsCoef) -> tuple[Tensor, Tensor]:
    (*groups, _, features), outputs = x.shape, g.shape[-1]
    gs = x.new_empty(*groups, outputs, features, rows.splines) if needs[0] else x.new_empty(*groups, 0)
    return gs, x.new_empty(*groups, outputs, features) if needs[1] else x.new_empty(*groups, 0)


def backward(
    x: Tensor, v: Tensor | None, g: Tensor, c: Coefficients, rows: Rows, needs: Needs
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    groups = x.shape[:-2]
    gx = x.new_empty(*x.shape) if needs[0] else x.new_empty(*groups, 0)
    gs, gb = grad_coef(x, v, g, rows, needs[1:3])
    return gx, gs, gb, x.new_empty(*groups, g.shape[-1] if needs[3] else 0)


def edge_magnitude(x: Tensor, c: Coefficients, rows: Rows) -> Tensor:
    return x.new_empty(*x.shape[:-2], *c.edge_shape)


def edge_magnitude_backward(x: Tensor, gm: Tensor, c: Coefficients, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    absent = (*x.shape[:-2], 0)
    gs, gb = (x.new_empty(*(absent if w is None else w.shape)) for w in c)
    return x.new_empty(*x.shape), gs, gb
