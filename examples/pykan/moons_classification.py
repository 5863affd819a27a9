"""pykan's example: two moons as a classification."""

import numpy as np
import torch
from sklearn.datasets import make_moons

from kan_fast.pykan import KAN


def moons(seed):
    x, y = make_moons(n_samples=1000, shuffle=True, noise=0.1, random_state=seed)
    return torch.from_numpy(x), torch.from_numpy(y)


torch.set_default_dtype(torch.float64)
seed = globals().get("SEED", 0)
dataset = {}
dataset["train_input"], dataset["train_label"] = moons(2 * seed)
dataset["test_input"], dataset["test_label"] = moons(2 * seed + 1)

model = KAN(width=[2, 2], grid=3, k=3, seed=seed)


def train_acc():
    return torch.mean((torch.argmax(model(dataset["train_input"]), dim=1) == dataset["train_label"]).double())


def test_acc():
    return torch.mean((torch.argmax(model(dataset["test_input"]), dim=1) == dataset["test_label"]).double())


results = model.fit(dataset, opt="LBFGS", steps=20, metrics=(train_acc, test_acc), loss_fn=torch.nn.CrossEntropyLoss())
print(results["train_acc"][-1], results["test_acc"][-1])

lib = ["x", "x^2", "x^3", "x^4", "exp", "log", "sqrt", "tanh", "sin", "abs"]
model.auto_symbolic(lib=lib)
formula1, formula2 = model.symbolic_formula()[0]
print(formula1)
print(formula2)


def acc(formula1, formula2, x, y):
    batch = x.shape[0]
    correct = 0
    for i in range(batch):
        logit1 = np.array(formula1.subs("x_1", x[i, 0]).subs("x_2", x[i, 1])).astype(np.float64)
        logit2 = np.array(formula2.subs("x_1", x[i, 0]).subs("x_2", x[i, 1])).astype(np.float64)
        correct += (logit2 > logit1) == y[i]
    return correct / batch


accuracy = acc(formula1, formula2, dataset["test_input"].numpy(), dataset["test_label"].numpy())
print("accuracy of the formulas:", accuracy)
