"""pykan's example: two moons as a regression, in the calls of its first version."""

import numpy as np
import torch
from sklearn.datasets import make_moons

from kan_fast.pykan import KAN


def moons(seed):
    x, y = make_moons(n_samples=1000, shuffle=True, noise=0.1, random_state=seed)
    return torch.from_numpy(x), torch.from_numpy(y[:, None]).double()


torch.set_default_dtype(torch.float64)
seed = globals().get("SEED", 0)
dataset = {}
dataset["train_input"], dataset["train_label"] = moons(2 * seed)
dataset["test_input"], dataset["test_label"] = moons(2 * seed + 1)

model = KAN(width=[2, 1], grid=3, k=3, seed=seed)


def train_acc():
    return torch.mean((torch.round(model(dataset["train_input"])[:, 0]) == dataset["train_label"][:, 0]).double())


def test_acc():
    return torch.mean((torch.round(model(dataset["test_input"])[:, 0]) == dataset["test_label"][:, 0]).double())


results = model.train(dataset, opt="LBFGS", steps=20, metrics=(train_acc, test_acc))
print(results["train_acc"][-1], results["test_acc"][-1])

lib = ["x", "x^2", "x^3", "x^4", "exp", "log", "sqrt", "tanh", "sin", "tan", "abs"]
model.auto_symbolic(lib=lib)
formula = model.symbolic_formula()[0][0]
print(formula)


def acc(formula, x, y):
    batch = x.shape[0]
    correct = 0
    for i in range(batch):
        value = np.array(formula.subs("x_1", x[i, 0]).subs("x_2", x[i, 1])).astype(np.float64)
        correct += np.round(value) == y[i, 0]
    return correct / batch


accuracy = acc(formula, dataset["test_input"].numpy(), dataset["test_label"].numpy())
print("accuracy of the formula:", accuracy)
