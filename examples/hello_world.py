"""Fit exp(sin(pi x1) + x2^2), the first example of the KAN paper, from 1,000 samples."""

import torch

from kan_fast import KAN


def f(x):
    return torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2)


def main(steps=20):
    torch.manual_seed(0)
    x, x_test = (2 * torch.rand(1000, 2, dtype=torch.float64) - 1 for _ in range(2))
    dataset = {"train_input": x, "train_label": f(x), "test_input": x_test, "test_label": f(x_test)}

    model = KAN(width=[2, 5, 1], grid=5, k=3, seed=0, dtype=torch.float64)
    history = model.fit(dataset, opt="LBFGS", steps=steps)
    print(f"root mean squared error: {history['train_loss'][-1]:.2e} train, {history['test_loss'][-1]:.2e} test")

    # A little regularisation makes most edges vanish; the largest ones are the structure of the formula.
    model.fit(dataset, opt="LBFGS", steps=steps, lamb=0.002)
    for layer, inputs in zip(model.layers, model.activations(x), strict=False):
        print("mean absolute activation of the edges (out, in):")
        print(layer.edge_magnitude(inputs).detach().numpy().round(3))


if __name__ == "__main__":
    main()
