"""pykan's example: finer grids, one after the other, and how the error falls with them."""

import torch

from kan_fast.pykan import KAN
from kan_fast.pykan.utils import create_dataset

torch.set_default_dtype(torch.float64)

f = lambda x: torch.exp(torch.sin(torch.pi * x[:, [0]]) + x[:, [1]] ** 2)  # noqa: E731
dataset = create_dataset(f, n_var=2)

grids = [3, 5, 10, 20]
model = KAN(width=[2, 5, 1], grid=grids[0], k=3, seed=1)
test_losses = []
for grid in grids:
    model = model.refine(grid)
    results = model.fit(dataset, opt="LBFGS", steps=50, stop_grid_update_step=30)
    test_losses.append(results["test_loss"][-1])
print(dict(zip(grids, test_losses, strict=True)))
