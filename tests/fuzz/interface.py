"""Random calls of the public Python interface: kan_linear, KANLinear, KAN and the functions of grids."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import torch
from torch import Tensor

from kan_fast import KAN, KANLinear, functional
from kan_fast.nn import grids
from tests.fuzz import values


def maybe(choose: random.Random, right: Any, *wrong: Any, share: float = 0.06) -> Any:
    """The right value, now and then a wrong one."""
    return choose.choice(wrong) if choose.random() < share else right


def functional_call(choose: random.Random) -> str:
    batch, features, outs, size, degree = values.sizes(choose)
    dtype = choose.choice(values.DTYPES)
    knots = values.knots(choose, features, size, degree, functional.grid_dtype(dtype))
    given: dict[str, Any] = {
        "x": values.inputs(choose, batch, knots, dtype),
        "spline_weight": values.numbers(choose, (outs, features, size + degree), dtype),
        "base_weight": choose.choice((None, values.numbers(choose, (outs, features), dtype))),
        "grid": knots,
        "bias": choose.choice((None, values.numbers(choose, (outs,), dtype))),
    }
    for name in list(given):
        if choose.random() < 0.1 and given[name] is not None:
            given[name] = values.wrong_tensor(choose, given[name])
    options = {
        "spline_order": maybe(choose, degree, -1, 6, 2.0, "3", True, 2**70),
        "base": maybe(choose, choose.choice(("silu", "identity", "zero", torch.tanh)), "relu", None, 3),
        "extrapolation": maybe(choose, choose.choice(("zero", "linear", "clamp")), "none", None, 3),
        "backend": maybe(choose, choose.choice((None, "cpu", "reference")), "cuda", "triton", "x", 3),
    }
    if choose.random() < 0.3:
        del given["bias"]
        return _finish(functional.edge_magnitude(**given, **options))
    tensors = [t for name, t in given.items() if name != "grid" and isinstance(t, Tensor) and t.is_floating_point()]
    tensors = [t.requires_grad_() for t in tensors if t.is_leaf]
    if given["grid"] is knots and choose.random() < 0.03:
        knots.requires_grad_()
    y = functional.kan_linear(**given, **options)
    if y.requires_grad and choose.random() < 0.7:
        first = torch.autograd.grad(y.sum(), tensors, create_graph=True, allow_unused=True)
        total = sum(g.square().sum() for g in first if g is not None and g.requires_grad)
        if isinstance(total, Tensor) and total.requires_grad:
            torch.autograd.grad(total, tensors, allow_unused=True)
    return _finish(y)


def _finish(y: Tensor) -> str:
    return f"{tuple(y.shape)}" and "result"


def _range(choose: random.Random, features: int) -> Any:
    scale = 10.0 ** choose.choice((0, 0, 1, -1, 30, -30, 37, -37, 40, -46, 150, -150, 307, 308, -308))
    pair = (-scale, choose.choice((scale, scale * 1.5, 2 * scale)))
    wrong = ((1, 0), (0, 0), (math.nan, 1), (0, math.inf), (0,), 3, "ab", None, ((0, 1), (1, 2)), (1e20, 1e20 + 1))
    return maybe(choose, choose.choice((pair, (-1, 1), [pair] * features)), *wrong)


def layer_calls(choose: random.Random) -> str:
    batch, features, outs, size, degree = values.sizes(choose)
    dtype = choose.choice((torch.float32, torch.float64, torch.float16, torch.bfloat16))
    layer = KANLinear(
        maybe(choose, features, -1, 2.5, "3", None),
        maybe(choose, outs, -1, True),
        grid_size=maybe(choose, size, 0, -1, 1.5, None),
        spline_order=maybe(choose, degree, -1, 6, 2.0),
        grid_range=_range(choose, features),
        base=choose.choice(("silu", "identity", "zero", torch.tanh)),
        extrapolation=choose.choice(("zero", "linear", "clamp")),
        grid_eps=maybe(choose, choose.random(), -1, 2, math.nan, "x"),
        backend=choose.choice((None, "cpu", "reference")),
        dtype=maybe(choose, dtype, torch.int32, torch.complex64),
    )
    for p in layer.parameters():
        assert p.isfinite().all() or dtype == torch.float16, "parameters begin as finite numbers"
    for _ in range(choose.randrange(1, 4)):
        _layer_step(choose, layer, batch)
    return "result"


def _layer_step(choose: random.Random, layer: KANLinear, batch: int) -> None:
    x = values.inputs(choose, batch, layer.grid, layer.spline_weight.dtype)
    if choose.random() < 0.1:
        x = values.wrong_tensor(choose, x)  # type: ignore[assignment]
    if choose.random() < 0.1 and isinstance(x, Tensor) and x.dim() > 1:
        x = x.unflatten(0, (1, -1)) if len(x) else x
    edge = choose.randrange(-1, layer.out_features + 1), choose.randrange(-1, layer.in_features + 1)
    step = choose.randrange(11)
    if step < 2:
        y = layer(x)
        y.sum().backward() if y.requires_grad and y.device.type == "cpu" else None
    elif step == 2:
        layer.edge_magnitude(x).sum()
    elif step == 3:
        layer.update_grid(
            x,
            eps=maybe(choose, choose.random(), -1, 2, "x", math.nan, None),
            margin=maybe(choose, choose.random(), -1, math.inf, None),
            trim=maybe(choose, choose.choice((0, 0, 0.2)), 0.5, 0.7, -1),
        )
        assert layer.grid.isfinite().all()
        assert (layer.grid.diff(dim=1) > 0).all()
    elif step == 4:
        layer.refine_(maybe(choose, choose.choice((1, 2, 5, 7, 20, 2 * layer.grid_size)), 0, -1, 2.5, None, "x"))
    elif step == 5:
        layer.coverage(x)
    elif step == 6:
        some = [choose.randrange(-1, layer.out_features + 1) for _ in range(choose.randrange(3))]
        others = [choose.randrange(-1, layer.in_features + 1) for _ in range(choose.randrange(3))]
        layer.subset(maybe(choose, some, [1.5], "x", None), others)(torch.zeros(2, len(others), dtype=x.dtype))
    elif step == 7:
        layer.fix(
            *edge, maybe(choose, "sin", "nonsense", 3, None), maybe(choose, (1, 0, 1, 0), (1,), "x", (math.nan,) * 4)
        )
    elif step == 8:
        layer.unfix(*edge)
    elif step == 9:
        other = copy.deepcopy(layer)
        other.load_state_dict(layer.state_dict())
    else:
        layer.to(choose.choice(values.DTYPES))


def grid_call(choose: random.Random) -> str:
    batch, features, _, size, degree = values.sizes(choose)
    dtype = choose.choice((torch.float32, torch.float64))
    knots = values.knots(choose, features, size, degree, dtype)
    step = choose.randrange(4)
    if step == 0:
        x = values.inputs(choose, max(batch, 1), knots, dtype).nan_to_num(0, 0, 0)
        x = x * 10.0 ** choose.choice((0, 0, 5, -5))
        new = grids.grid_from_samples(
            x,
            knots,
            degree,
            eps=maybe(choose, choose.random(), -1, 2, math.nan),
            margin=choose.random(),
            trim=choose.choice((0, 0.1, 0.4)),
        )
        grids.check_knots(new)
    elif step == 1:
        new, matrix = grids.refine(knots, degree, choose.choice((1, 2, 3, size, 2 * size, 3 * size + 1)))
        assert matrix.isfinite().all()
    elif step == 2:
        new, _ = grids.refine(knots, degree, choose.choice((1, 4)))
        matrix = grids.transfer(knots, new, degree, choose.choice(("zero", "linear", "clamp")))
        assert matrix.isfinite().all()
    else:
        pair = grids.checked_range(_range(choose, features), features)
        grids.check_distinct(pair, size, degree, dtype)
        grids.check_knots(grids.uniform_grid(features, size, degree, pair).to(dtype))
    return "result"


def network_calls(choose: random.Random) -> str:
    width: list[Any] = [choose.choice((1, 2, 3)) for _ in range(choose.choice((2, 3)))]
    width = maybe(choose, width, [], [2], [2, -1], [2, 1.5], "ab", None, [2, [1, 1], 1])
    model = KAN(
        width,
        grid=maybe(choose, choose.choice((1, 3, 5)), 0, 1.5),
        k=maybe(choose, choose.randrange(6), -1, 9),
        seed=0,
        extrapolation=choose.choice(("zero", "linear", "clamp")),
        dtype=choose.choice((torch.float32, torch.float64)),
    )
    first = model.layers[0]
    for _ in range(choose.randrange(1, 4)):
        x = values.inputs(choose, choose.choice((1, 5, 64, 300)), first.grid, first.grid.dtype)
        if choose.random() < 0.1:
            x = values.wrong_tensor(choose, x)  # type: ignore[assignment]
        step = choose.randrange(9)
        l, i, j = (choose.randrange(-1, 4) for _ in range(3))  # noqa: E741  # pykan's names
        if step < 2:
            model(x)
        elif step == 2:
            model.update_grid(x)
        elif step == 3:
            model = model.refine(maybe(choose, choose.choice((1, 2, 5, 10)), 0, 2.5))
        elif step == 4:
            model.coverage(x)
        elif step == 5:
            model.prune(x=x)
        elif step == 6:
            model.attribute(x)
        elif step == 7:
            model.remove_edge(l, i, j)
        else:
            model.activations(x)
    return "result"
