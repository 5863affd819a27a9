"""pykan's first script, with other imports: fit, prune, refine, and the formula behind the data."""

import torch

from kan_fast.pykan import KAN
from kan_fast.pykan.utils import create_dataset, ex_round

torch.set_default_dtype(torch.float64)

model = KAN(width=[2, 5, 1], grid=3, k=3, seed=1)
f = lambda x: torch.exp(torch.sin(torch.pi * x[:, [0]]) + x[:, [1]] ** 2)  # noqa: E731
dataset = create_dataset(f, n_var=2)

model.fit(dataset, opt="LBFGS", steps=50, lamb=0.01)
model = model.prune()
model.fit(dataset, opt="LBFGS", steps=50)
model = model.refine(10)
model.fit(dataset, opt="LBFGS", steps=50)

lib = ["x", "x^2", "x^3", "x^4", "exp", "log", "sqrt", "tanh", "sin", "abs"]
model.suggest_symbolic(0, 0, 0)
model.auto_symbolic(lib=lib)
results = model.fit(dataset, opt="LBFGS", steps=50)
formula = ex_round(model.symbolic_formula()[0][0], 4)
print(formula, results["test_loss"][-1])
