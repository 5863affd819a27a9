"""pykan's example: the Poisson equation with a network, from its residuals."""

import torch

from kan_fast.optim import LBFGS
from kan_fast.pykan import KAN

torch.set_default_dtype(torch.float64)

model = KAN(width=[2, 2, 1], grid=5, k=3, seed=2)
axis = torch.linspace(-1, 1, 21)
inside = torch.cartesian_prod(axis, axis)
boundary = inside[(inside.abs() == 1).any(1)]


def solution(x):
    return torch.sin(torch.pi * x[:, [0]]) * torch.sin(torch.pi * x[:, [1]])


def source(x):
    return -2 * torch.pi**2 * solution(x)


def batch_jacobian(func, x):
    """(batch, outputs, inputs)"""
    return torch.autograd.functional.jacobian(lambda x: func(x).sum(dim=0), x, create_graph=True).permute(1, 0, 2)


optimizer = LBFGS(
    model.parameters(),
    lr=1,
    history_size=10,
    line_search_fn="strong_wolfe",
    tolerance_grad=1e-32,
    tolerance_change=1e-32,
    tolerance_ys=1e-32,
)
for step in range(20):

    def closure():
        optimizer.zero_grad()
        gradient = lambda x: batch_jacobian(model, x)[:, 0, :]  # noqa: E731
        laplacian = torch.diagonal(batch_jacobian(gradient, inside), dim1=1, dim2=2).sum(dim=1, keepdim=True)
        pde_loss = torch.mean((laplacian - source(inside)) ** 2)
        bc_loss = torch.mean((model(boundary) - solution(boundary)) ** 2)
        loss = 0.01 * pde_loss + bc_loss
        loss.backward()
        return loss

    if step % 5 == 0:
        model.update_grid_from_samples(inside)
    optimizer.step(closure)
    with torch.no_grad():
        l2 = torch.mean((model(inside) - solution(inside)) ** 2).item()
print("mean squared error of the solution:", l2)
