"""torch.func, forward-mode derivatives and torch.compile on every backend, against the same in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

from kan_fast import KANLinear, functional
from kan_fast.ops import dispatch, reference
from kan_fast.ops.contract import Coefficients
from tests.helpers.problems import Problem, make_problem

BACKENDS = [name for name, status in dispatch.backends().items() if status.available]
backends = pytest.mark.parametrize("backend", BACKENDS)


def problem(**options: object) -> Problem:
    p = make_problem(6, 3, 4, grid_size=3, dtype=torch.float64, **options)
    p.x += 0.01
    return p


def functions(p: Problem, backend: str) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The layer of the library and the same layer in plain torch, as functions of x, spline_weight, base_weight."""

    def mine(x: Tensor, spline_weight: Tensor, base_weight: Tensor) -> Tensor:
        return functional.kan_linear(
            x, spline_weight, base_weight, p.grid, p.bias, spline_order=p.spec.degree, backend=backend
        )

    def plain(x: Tensor, spline_weight: Tensor, base_weight: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = reference.forward(flat, None, Coefficients(spline_weight, base_weight), p.bias, p.rows())
        return y.reshape(*x.shape[:-1], -1)

    return mine, plain


def scalar(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: f(*args).sin().sum()


def tangents(x: Tensor, s: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    return x.cos(), s.sin(), b.cos()


TRANSFORMS = {
    "grad": lambda f, t: grad(scalar(f), (0, 1, 2))(*t),
    "vjp": lambda f, t: vjp(f, *t)[1](torch.ones(6, 4, dtype=torch.float64)),
    "jvp": lambda f, t: jvp(f, t, tangents(*t)),
    "jvp in x": lambda f, t: jvp(lambda x: f(x, *t[1:]), t[:1], t[:1]),
    "jvp of grad": lambda f, t: jvp(grad(scalar(f), (0, 1, 2)), t, tangents(*t)),
    "jvp of jvp": lambda f, t: jvp(lambda *s: jvp(f, s, tangents(*s))[1], t, tangents(*t)),
    "jacrev": lambda f, t: jacrev(f, (0, 1, 2))(*t),
    "jacfwd": lambda f, t: jacfwd(f, (0, 1, 2))(*t),
    "hessian in x": lambda f, t: hessian(lambda x: scalar(f)(x, *t[1:]))(t[0]),
    "hessian": lambda f, t: hessian(scalar(f), (0, 1, 2))(*t),
    "hessian rev over rev": lambda f, t: jacrev(jacrev(scalar(f), (0, 1, 2)), (0, 1, 2))(*t),
    "hessian fwd over fwd": lambda f, t: jacfwd(jacfwd(scalar(f), 0), (0, 1))(*t),
    "third derivative": lambda f, t: jacrev(jacfwd(jacrev(lambda x: scalar(f)(x, *t[1:]))))(t[0][:1]),
    "vmap over samples": lambda f, t: vmap(f, (0, None, None))(*t),
    "vmap over columns of samples": lambda f, t: vmap(f, (1, None, None))(t[0].expand(2, 6, 3), *t[1:]),
    "per-sample gradients": lambda f, t: vmap(grad(scalar(f), (0, 1, 2)), (0, None, None))(*t),
    "ensemble": lambda f, t: vmap(f, (None, 0, 0))(t[0], *(torch.stack([w, 2 * w, -w]) for w in t[1:])),
    "ensemble, own inputs": lambda f, t: vmap(f, (0, 0, 2))(
        torch.stack([t[0], -t[0]]), torch.stack([t[1], 2 * t[1]]), torch.stack([t[2], -t[2]], 2)
    ),
    "ensemble gradients": lambda f, t: vmap(grad(scalar(f), (0, 1, 2)), (None, 0, None))(
        t[0], torch.stack([t[1], 2 * t[1]]), t[2]
    ),
    "gradient of an ensemble": lambda f, t: grad(lambda w: vmap(f, (None, 0, None))(t[0], w, t[2]).sin().sum())(
        torch.stack([t[1], 2 * t[1]])
    ),
    "vmap of vmap": lambda f, t: vmap(vmap(f, (0, None, None)), (None, 0, None))(
        t[0], torch.stack([t[1], 2 * t[1]]), t[2]
    ),
    "vmap of vmap, ensembles": lambda f, t: vmap(vmap(f, (None, 0, None)), (None, None, 0))(
        t[0], torch.stack([t[1], 2 * t[1]]), torch.stack([t[2], t[2], -t[2]])
    ),
    "per-sample hessian": lambda f, t: vmap(hessian(scalar(f)), (0, None, None))(*t),
}


@backends
@pytest.mark.parametrize("name", TRANSFORMS)
def test_torch_func(backend: str, name: str) -> None:
    p = problem()
    mine, plain = functions(p, backend)
    t = (p.x, p.spline_weight, p.base_weight)
    torch.testing.assert_close(TRANSFORMS[name](mine, t), TRANSFORMS[name](plain, t))


@backends
def test_no_groups(backend: str) -> None:
    p = problem()
    mine, _ = functions(p, backend)
    assert vmap(mine, (0, None, None))(p.x.expand(0, 6, 3), p.spline_weight, p.base_weight).shape == (0, 6, 4)
    assert vmap(mine, (None, 0, None))(p.x, p.spline_weight.expand(0, 4, 3, 6), p.base_weight).shape == (0, 6, 4)


@backends
def test_dual_numbers(backend: str) -> None:
    p = problem()
    mine, plain = functions(p, backend)
    t = (p.x, p.spline_weight, p.base_weight)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(a, b) for a, b in zip(t, tangents(*t), strict=True)]
        tangent = forward_ad.unpack_dual(mine(*duals)).tangent
    torch.testing.assert_close(tangent, jvp(plain, t, tangents(*t))[1])


@backends
def test_ensembles_of_modules_train(backend: str) -> None:
    layers = [KANLinear(3, 2, backend=backend, dtype=torch.float64) for _ in range(4)]
    x = torch.rand(7, 3, dtype=torch.float64)
    parameters, buffers = stack_module_state(layers)
    y = vmap(lambda p, b: functional_call(layers[0], (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(y, torch.stack([layer(x) for layer in layers]))
    y.square().sum().backward()
    for i, layer in enumerate(layers):
        layer(x).square().sum().backward()
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(parameters[name].grad[i], parameter.grad)


def test_a_tensor_that_outlived_its_transform() -> None:
    layer, kept = KANLinear(3, 2), []
    x = torch.rand(4, 3)
    torch.func.grad(lambda t: kept.append(t) or t.sum())(x)
    (leaked,) = kept
    assert torch.equal(layer(leaked), layer(x))
    with torch.no_grad():
        assert torch.equal(layer(leaked), layer(x))
    (got,) = torch.autograd.grad(layer(leaked).sum(), layer.spline_weight)
    (expected,) = torch.autograd.grad(layer(x).sum(), layer.spline_weight)
    assert torch.equal(got, expected)
