"""KANLinear in the place of nn.Linear: an ordinary training loop on handwritten digits (needs scikit-learn)."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from kan_fast import KANLinear


def main(epochs=10):
    torch.manual_seed(0)
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    images = images.float() / 8 - 1  # pixels from -1 to 1, the range of the grid
    rows = torch.randperm(len(images))
    train, test = rows[:1400], rows[1400:]

    model = nn.Sequential(
        KANLinear(64, 32, grid_size=3),
        KANLinear(32, 10, grid_size=3, grid_range=(-2, 2)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(epochs):
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean()
        print(f"epoch {epoch + 1}: test accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
