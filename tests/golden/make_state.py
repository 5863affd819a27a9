"""Makes state_<version>.pt: state dicts of this version with inputs and outputs, for later versions to load."""

from __future__ import annotations

from pathlib import Path

import torch

from kan_fast import KAN, KANLinear, __version__

CASES = {
    "network": (KAN, {"width": [2, 3, 1], "grid": 4, "k": 3}),
    "layer": (
        KANLinear,
        {
            "in_features": 2,
            "out_features": 3,
            "bias": False,
            "grid_size": 6,
            "spline_order": 2,
            "base": "identity",
            "extrapolation": "linear",
            "dtype": torch.float64,
        },
    ),
    "splines": (KANLinear, {"in_features": 2, "out_features": 1, "base": "zero", "extrapolation": "clamp"}),
}

if __name__ == "__main__":
    torch.manual_seed(0)
    recorded = {}
    for name, (kind, options) in CASES.items():
        model = kind(**options, backend="reference")
        x = torch.randn(40, 2, dtype=next(model.parameters()).dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
            model.update_grid(x[:20])
            y = model(x)
        recorded[name] = {"kind": kind.__name__, "options": options, "state": model.state_dict(), "x": x, "y": y}
    release = ".".join(__version__.split(".")[:2])
    torch.save(recorded, Path(__file__).with_name(f"state_{release}.pt"))
