"""Makes pykan.pt: networks of pykan 0.2.8, as tensors, with inputs and the outputs that pykan gives for them.

Run it where pykan and its dependencies are installed; the tests need neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from kan import KAN


def build(width: list, dtype: torch.dtype = torch.float32, **options: Any) -> KAN:
    torch.set_default_dtype(dtype)
    return KAN(width, seed=0, auto_save=False, **options)


def plain() -> KAN:
    return build([2, 5, 1], grid=5, k=3, noise_scale=1.0)


def adaptive() -> KAN:
    model = build([3, 4, 2], grid=6, k=2, noise_scale=1.0)
    model.update_grid(torch.randn(500, 3))
    return model


def masked() -> KAN:
    model = build([3, 4, 2], grid=3, k=3, noise_scale=1.0, sparse_init=True)
    model.remove_edge(1, 2, 0, log_history=False)
    model.act_fun[1].mask.data[0, 1] = 0.5
    return model


def affine() -> KAN:
    model = build([2, 3, 2], grid=4, k=3, noise_scale=1.0, affine_trainable=True, base_fun="identity")
    for parameters in (model.node_bias, model.node_scale, model.subnode_bias, model.subnode_scale):
        for parameter in parameters:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def double() -> KAN:
    return build([2, 3, 1], torch.float64, grid=10, k=5, noise_scale=1.0, base_fun="zero")


def constants() -> KAN:
    """Some symbolic edges, all of them constant."""
    model = build([2, 3, 1], grid=5, k=3, noise_scale=1.0)
    for level, i, o in ((0, 1, 2), (1, 0, 0)):
        model.fix_symbolic(level, i, o, "0", fit_params_bool=False, log_history=False)
        model.symbolic_fun[level].affine.data[o, i, 3] = 0.7 + i
        model.node_scale[level].data.fill_(1.5)
    return model


def functions() -> KAN:
    """Splines and symbolic edges beside each other, sums and a product, with affine factors."""
    model = build([2, [2, 1], 1], torch.float64, grid=5, k=3, noise_scale=1.0, affine_trainable=True)
    edges = [(0, 0, 0, "sin"), (0, 1, 0, "x^3"), (0, 0, 2, "gaussian"), (0, 1, 3, "exp"), (1, 0, 0, "arctan")]
    for level, i, o, name in [*edges, (1, 2, 0, "x^0.5"), (0, 1, 1, "0")]:
        model.fix_symbolic(level, i, o, name, fit_params_bool=False, log_history=False)
        model.symbolic_fun[level].affine.data[o, i] += 0.3 * torch.rand(4)
    model.symbolic_fun[1].affine.data[0, 2, 1] += 100  # keeps the root real
    for parameters in (model.node_scale, model.subnode_bias, model.subnode_scale):
        for parameter in parameters:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def fewer_inputs() -> KAN:
    """Reads columns 2 and 0 of its data, in this order."""
    model = build([3, 4, 1], grid=5, k=3, noise_scale=1.0)
    model.act_fun[0].grid.data += torch.tensor([[0.0], [0.1], [0.2]])
    return model.prune_input(active_inputs=[2, 0], log_history=False)


def products() -> KAN:
    """Products of two and of three factors, hidden and at the output, with affine factors but no bias of a product."""
    arities = [[], [2, 3], [2]]
    model = build([2, [2, 2], [1, 1]], grid=4, k=3, noise_scale=1.0, mult_arity=arities, affine_trainable=True)
    for parameters in (model.node_scale, model.subnode_bias, model.subnode_scale):
        for parameter in parameters:
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.remove_edge(0, 1, 3, log_history=False)
    return model


def record(model: KAN) -> dict[str, Any]:
    x = 3 * torch.rand(64, int(model.input_id.max()) + 1) - 1.5  # inside the grid of [-1, 1] and outside of it
    model.save_act = False
    with torch.no_grad():
        y = model(x)
    layer_names = ("grid", "coef", "mask", "scale_base", "scale_sp")
    return {
        "x": x,
        "y": y,
        "width": model.width,
        "mult_arity": model.mult_arity,
        "input_id": model.input_id,
        "symbolic_enabled": model.symbolic_enabled,
        "base_fun_name": model.base_fun_name if isinstance(model.base_fun_name, str) else "silu",
        "affine": [
            [list(getattr(model, name))[level].data for level in range(model.depth)]
            for name in ("node_scale", "node_bias", "subnode_scale", "subnode_bias")
        ],
        "layers": [{"k": layer.k, **{n: getattr(layer, n).data for n in layer_names}} for layer in model.act_fun],
        "symbolic": [
            {"mask": layer.mask.data, "affine": layer.affine.data, "funs_name": layer.funs_name}
            for layer in model.symbolic_fun
        ],
    }


if __name__ == "__main__":
    cases = (plain, adaptive, masked, affine, double, constants, functions, fewer_inputs, products)
    torch.save({case.__name__: record(case()) for case in cases}, Path(__file__).with_name("pykan.pt"))
