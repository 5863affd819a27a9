"""Classify two moons with a KAN of two inputs and two outputs, by cross-entropy (needs scikit-learn)."""

import torch
from sklearn.datasets import make_moons

from kan_fast import KAN


def main(steps=20):
    dataset = {}
    for seed, kind in enumerate(("train", "test")):
        x, y = make_moons(n_samples=1000, noise=0.1, random_state=seed)
        dataset[f"{kind}_input"], dataset[f"{kind}_label"] = torch.from_numpy(x), torch.from_numpy(y)

    model = KAN(width=[2, 2], grid=3, k=3, seed=0)

    def train_acc():
        return (model(dataset["train_input"]).argmax(1) == dataset["train_label"]).float().mean()

    def test_acc():
        return (model(dataset["test_input"]).argmax(1) == dataset["test_label"]).float().mean()

    results = model.fit(
        dataset, opt="LBFGS", steps=steps, metrics=(train_acc, test_acc), loss_fn=torch.nn.CrossEntropyLoss()
    )
    print(f"accuracy: {results['train_acc'][-1]:.1%} train, {results['test_acc'][-1]:.1%} test")


if __name__ == "__main__":
    main()
