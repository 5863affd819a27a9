"""The pictures of the documentation: from data to a formula, and the summary of a large network (scikit-learn)."""

import sys
from pathlib import Path

import sympy
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from kan_fast import KAN
from kan_fast.pykan.utils import create_dataset, ex_round


def from_data_to_formula(path, steps, samples):
    torch.set_default_dtype(torch.float64)
    dataset = create_dataset(
        lambda x: torch.exp(torch.sin(torch.pi * x[:, [0]]) + x[:, [1]] ** 2), n_var=2, train_num=samples
    )
    figure = Figure(figsize=(11, 3.6))
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.02)
    trained, pruned, fixed = figure.subplots(1, 3, width_ratios=(10, 4, 4))

    model = KAN(width=[2, 5, 1], grid=3, k=3, seed=1)
    model.fit(dataset, opt="LBFGS", steps=steps, lamb=0.01)
    model.plot(title="trained", ax=trained)
    model = model.prune()
    model.fit(dataset, opt="LBFGS", steps=steps)
    model.plot(title="pruned", ax=pruned)
    model = model.refine(10)
    model.fit(dataset, opt="LBFGS", steps=steps)
    model.auto_symbolic(lib=["x", "x^2", "x^3", "x^4", "exp", "log", "sqrt", "tanh", "sin", "abs"])
    model.fit(dataset, opt="LBFGS", steps=steps)
    formula = ex_round(model.symbolic_formula()[0][0], 4)
    model.plot(title=f"$y = {sympy.latex(formula)}$", ax=fixed)
    figure.savefig(path, dpi=110)


def large_network(path, steps):
    torch.set_default_dtype(torch.float32)
    images, digits = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    images = images.float() / 8 - 1
    model = KAN(width=[64, 16, 10], grid=3, seed=0)
    model.fit((images, digits), opt="Adam", steps=steps, batch=256, loss_fn=torch.nn.CrossEntropyLoss(), seed=0)
    pixels = [f"({row}, {column})" for row in range(8) for column in range(8)]
    model.plot(in_vars=pixels, out_vars=[str(digit) for digit in range(10)]).save(path, dpi=80)


def main(folder, steps=50, samples=1000):
    from_data_to_formula(Path(folder) / "hello_world.png", steps, samples)
    large_network(Path(folder) / "digits.png", 5 * steps)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".")
