"""Makes network_<version>.pt: a file of `KAN.save` of this version with inputs and outputs beside it."""

from __future__ import annotations

from pathlib import Path

import torch

from kan_fast import KAN, __version__

if __name__ == "__main__":
    model = KAN([2, [2, 1], 1], grid=4, k=2, seed=0, extrapolation="linear", base="identity", dtype=torch.float64)
    model.layers[0].fix_many([(0, 0), (1, 1)], ["sin", "x^3"], torch.tensor([[2.0, 0.5, 1, 0], [1, 0, -1, 2]]))
    model.layers[1].mask = torch.tensor([[True, False, True]])
    x = torch.linspace(-2, 2, 20, dtype=torch.float64).view(10, 2)
    release = ".".join(__version__.split(".")[:2])
    model.save(Path(__file__).with_name(f"network_{release}.pt"))
    with torch.no_grad():
        torch.save({"x": x, "y": model(x)}, Path(__file__).with_name(f"network_{release}_values.pt"))
