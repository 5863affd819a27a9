"""Symbolic edges: the values of their formulas, gradients, and what else layers do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from kan_fast import KANLinear, functional
from kan_fast.analysis.edges import edge_deviation, edge_values
from kan_fast.nn.functions import find
from kan_fast.optim.jacobian import Jacobian
from kan_fast.training.regularization import regularization
from tests.helpers.symbolic_networks import AFFINE, EDGES, mixed, network, samples

pytestmark = pytest.mark.usefixtures("double")


PHI = [torch.sin, torch.square, torch.sin, torch.log, torch.exp]


def symbolic_sum(x):
    """What these edges add, edge by edge."""
    y = x.new_zeros(*x.shape[:-1], 3)
    for (o, i), phi, (a, b, c, d) in zip(EDGES, PHI, AFFINE.to(x), strict=True):
        y[..., o] += c * phi(a * x[..., i] + b) + d
    return y


@pytest.mark.parametrize("shape", [(2,), (0, 2), (50, 2), (3, 4, 2)])
def test_values(shape):
    layer, x = mixed(), torch.rand(shape) * 2 - 1
    spline = copy.deepcopy(layer)
    for output, input_ in EDGES:
        spline.unfix(output, input_)
    assert spline.symbolic is None and "symbolic" not in repr(spline)
    spline.mask = torch.tensor([[False, False], [False, True], [False, False]])
    torch.testing.assert_close(layer(x), spline(x) + symbolic_sum(x))


@pytest.mark.parametrize("base", ["silu", torch.sin])
def test_no_spline_is_evaluated_where_none_is_left(base, monkeypatch):
    layer, x = mixed(base=base), samples()
    layer.mask = torch.tensor([[True, True], [True, False], [True, True]])
    with monkeypatch.context() as patch:
        patch.setattr(functional.autograd, "forward", None)
        torch.testing.assert_close(layer(x), symbolic_sum(x) + layer.bias)
        assert not layer.has_splines()
    layer.mask[1, 1] = True  # in place
    assert layer.has_splines() and not torch.allclose(layer(x), symbolic_sum(x) + layer.bias)
    layer.mask = None
    assert layer.has_splines()
    layer.fix(1, 1, "0")
    monkeypatch.setattr(functional.autograd, "forward", None)
    torch.testing.assert_close(layer(x), symbolic_sum(x) + layer.bias)


def test_an_edge_that_is_not_finite_spoils_its_own_output_alone():
    layer = mixed()
    layer.fix(2, 1, "log")
    y = layer(torch.tensor([[0.5, -1.0]]))
    assert y.isfinite().tolist() == [[True, True, False]]


def test_fixing_again_replaces_and_unfixing_restores():
    layer, x = KANLinear(2, 3), samples()
    before = layer(x)
    layer.fix(1, 1, "sin", (2, 0, 1, 0))
    layer.fix(1, 1, "x", (1, 0, 2, 0))
    layer.fix(0, 1, "exp")
    assert layer.symbolic.items() == [((0, 1), find("exp"), [1, 0, 1, 0]), ((1, 1), find("x"), [1, 0, 2, 0])]
    layer.unfix(1, 1)
    assert layer.symbolic.places == [(0, 1)]
    layer.unfix(0, 1)
    assert torch.equal(layer(x), before)


def test_curves_are_on_the_device_of_the_layer():
    x, edges = samples(), torch.tensor([(1, 1), (2, 0)])
    assert edge_values(mixed(), x, edges).shape == (len(x), 2)
    assert edge_values(mixed().to("meta"), x.to("meta"), edges.to("meta")).is_meta


def test_unfixing_many():
    layer = mixed()
    with pytest.raises(ValueError, match="from input 1 is not symbolic"):
        layer.unfix_many([(2, 0), (1, 1)])
    assert layer.symbolic.places == mixed().symbolic.places
    layer.unfix_many([(2, 0), (0, 1), (2, 0)])
    assert sorted(layer.symbolic.places) == [(0, 0), (1, 0), (2, 1)]
    layer.unfix_many(layer.symbolic.places)
    assert layer.symbolic is None
    layer.unfix_many([])


def test_parameters_are_taken_in_the_precision_of_the_layer():
    torch.set_default_dtype(torch.float32)
    layer = KANLinear(1, 1, dtype=torch.float64)
    layer.fix(0, 0, "sin", (1.1, 0.1, 1 / 3, 1e300))
    assert layer.symbolic.affine.tolist() == [[1.1, 0.1, 1 / 3, 1e300]]


def test_a_masked_edge_can_be_fixed():
    layer = KANLinear(2, 1)
    layer.mask = torch.tensor([[False, True]])
    assert layer.kinds.present.tolist() == [[False, True]]
    layer.fix(0, 0, "x")
    assert layer.kinds.present.all() and layer.kinds.spline.tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda layer: layer.fix(3, 0, "sin"), r"must be below \(3, 2\), the sizes of the layer, got \(3, 0\)"),
        (lambda layer: layer.fix(-1, 0, "sin"), "output must be at least 0"),
        (lambda layer: layer.fix(0, 0, "sine"), "unknown function 'sine'"),
        (lambda layer: layer.fix(0, 0, "sin", (1, 2)), "4 affine parameters"),
        (lambda layer: layer.fix(0, 0, "sin", (1, 2, float("nan"), 0)), "must be finite"),
        (lambda layer: layer.fix_many([(0, 0), (0, 0)], ["x", "x"]), "twice"),
        (lambda layer: layer.unfix(0, 0), r"not symbolic; these are: \[\]"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(KANLinear(2, 3))


@pytest.mark.parametrize("affine", ["abc", [1.0, "b", 1.0, 0.0], None, torch.ones(4, dtype=torch.complex64)])
def test_affine_parameters_that_are_no_numbers(affine):
    with pytest.raises(TypeError, match="affine must have real numbers, got"):
        KANLinear(2, 1).fix(0, 0, "sin", affine)


@pytest.mark.parametrize("inputs", [1, 2])
def test_masks_of_numbers_are_refused(inputs):
    layer = KANLinear(2, 1)
    layer.fix_many([(0, i) for i in range(inputs)], ["sin"] * inputs)
    layer.mask = torch.ones(1, 2)
    with pytest.raises(ValueError, match=r"mask must be bool .* take mask != 0"):
        layer(torch.zeros(3, 2))


# Derivatives


def test_gradients():
    model, x = network(), samples(4).requires_grad_()
    names, params = zip(*model.named_parameters(), strict=True)

    def function(x, *values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), x)

    assert gradcheck(function, (x, *params))
    assert gradgradcheck(function, (x, *params))


def test_transforms():
    model = network()
    model.layers[0].unfix(0, 1)
    x = samples(6)
    rows = torch.stack([torch.autograd.functional.hessian(lambda row: model(row).sum(), row) for row in x])
    torch.testing.assert_close(torch.func.vmap(torch.func.hessian(lambda row: model(row).sum()))(x), rows)
    tangent = torch.func.jvp(model, (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(tangent, torch.func.vmap(torch.func.jacrev(model))(x).sum(2))


def test_ensembles():
    models = [network() for _ in range(3)]
    with torch.no_grad():
        for number, model in enumerate(models):
            model.layers[0].symbolic.affine *= 1 + 0.1 * number
    params, buffers = torch.func.stack_module_state(models)
    x = samples()
    y = torch.func.vmap(lambda p, b: torch.func.functional_call(models[0], (p, b), (x,)))(params, buffers)
    torch.testing.assert_close(y, torch.stack([model(x) for model in models]))


@pytest.mark.parametrize("layers", [(), (0,), (1,)])
def test_jacobian_with_derivatives_in_x(layers):
    model = network()
    for number in layers:
        model.layers[number].unfix(*model.layers[number].symbolic.places[0])
    x = samples(7).requires_grad_()
    y = model(x)
    residuals = y + torch.autograd.grad(y.sum(), x, create_graph=True)[0]
    params = list(model.parameters())
    blocks = list(Jacobian(list(model.layers), params, residuals).blocks(400))
    assert len(blocks) > 2
    options = dict(retain_graph=True, allow_unused=True, materialize_grads=True)
    rows = [torch.autograd.grad(r, params, **options) for r in residuals.T.reshape(-1)]
    torch.testing.assert_close(torch.cat(blocks), torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]))


# What else layers do


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes(dtype):
    layer, x = mixed().to(dtype), samples().to(dtype)
    y = layer(x)
    assert y.dtype == dtype
    exact = layer.double()(x.double())
    assert (y - exact).abs().max() < 8 * torch.finfo(dtype).eps * exact.abs().max()


def test_autocast():
    layer, x = mixed().float(), samples().float()
    layer.mask = ~torch.tensor([[False, False], [False, True], [False, False]])
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, layer(x).bfloat16())


def test_inputs_are_checked_without_splines():
    model = network()
    with pytest.raises(ValueError, match="expected last dimension 2, got 3"):
        model(torch.zeros(4, 3))
    with pytest.raises(TypeError, match="input has dtype"):
        model.layers[0](torch.zeros(4, 2, dtype=torch.float32))


def test_magnitude_deviation_and_attribution():
    model, x = network(), samples()
    layer = model.layers[0]
    layer.unfix(0, 1)
    values = torch.stack([layer.subset([o], [i])(x[:, [i]])[:, 0] for o in range(3) for i in range(2)])
    values -= layer.bias.repeat_interleave(2)[:, None]
    torch.testing.assert_close(layer.edge_magnitude(x), values.abs().mean(1).view(3, 2))
    torch.testing.assert_close(edge_deviation(layer, x), values.std(1).view(3, 2))
    model.attribute(x=x)
    before = [edge_deviation(layer, x).clone() for layer in network().layers[:1]]
    torch.testing.assert_close(before[0][1:], edge_deviation(layer, x)[1:])


@pytest.mark.parametrize("metric", ["edge_magnitude", "edge_forward_spline_n"])
def test_regularisation_leaves_functions_alone(metric):
    model, x = network(), samples()
    model.layers[0].unfix(0, 1)
    inputs = model.activations(x)[:-1]
    regularization(model, [i.detach() for i in inputs], reg_metric=metric).backward()
    assert model.layers[0].spline_weight.grad[0, 1].any()
    grad = model.layers[0].symbolic.affine.grad
    assert grad is None or not grad.any()


def test_pruning():
    model, x = network(), samples()
    with torch.no_grad():
        model.layers[0].symbolic.affine[model.layers[0].symbolic.places.index((0, 1)), 2] *= 1e-6
    small = model.prune_edge(1e-3, x=x)
    assert (0, 1) not in small.layers[0].symbolic.places and not small.layers[0].has_splines()
    torch.testing.assert_close(small(x), model(x), rtol=0, atol=1e-4)
    cut = model.prune_input(active_inputs=[1], x=x)
    assert dict(zip(cut.layers[0].symbolic.places, cut.layers[0].symbolic.names, strict=True)) == {
        (0, 0): "x^2",
        (1, 0): "tanh",
        (2, 0): "log",
    }


def test_subset():
    layer, x = mixed(), samples()
    small = layer.subset([2, 1], [1])
    whole = torch.stack([layer.subset([o], [i])(x[:, [i]])[:, 0] for o, i in [(2, 1), (1, 1)]], 1)
    torch.testing.assert_close(small(x[:, 1:]), whole)
    assert small.symbolic.places == [(0, 0)]
    assert layer.subset([1], [1]).symbolic is None


def test_grids():
    model, x = network(), samples()
    model.layers[0].unfix(0, 1)
    before = model(x)
    model.update_grid(x)
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-3)
    torch.testing.assert_close(model.refine(10)(x), model(x))


@pytest.mark.slow
def test_compile():
    model, x = network(), samples()
    # In torch 2.13 what inductor writes for processors without vectors is no C++: __at_align__ is not declared.
    backend = "aot_eager" if torch.backends.cpu.get_cpu_capability() == "DEFAULT" else "inductor"
    for number in (None, 0):
        if number is not None:
            model.layers[number].unfix(0, 1)
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend=backend)
        torch.testing.assert_close(compiled(x), model(x))
        compiled(x).sum().backward()
        grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        model(x).sum().backward()
        torch.testing.assert_close(grads, [p.grad for p in model.parameters()])
        model.zero_grad()


def test_masks_that_are_changed_in_inference_mode():
    layer, x = KANLinear(2, 1), samples()
    layer.fix(0, 0, "sin")
    with torch.inference_mode():
        layer.mask = torch.tensor([[True, False]])
        layer(x)
        layer.mask[0, 1] = True
        changed = layer(x)
    layer.mask = torch.tensor([[True, True]])
    assert torch.equal(changed, layer(x))


def test_compiled_layers_see_the_mask_of_a_state():
    layer, x = KANLinear(2, 1), samples()
    layer.fix(0, 0, "sin")
    layer.mask = torch.tensor([[True, False]])
    other = copy.deepcopy(layer)
    other.mask = torch.tensor([[True, True]])
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="eager")
    assert torch.equal(compiled(x), layer(x))
    layer.load_state_dict(other.state_dict())
    assert torch.equal(compiled(x), other(x))
