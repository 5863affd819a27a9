"""Exports compute what the model computes: ONNX in onnxruntime, C99 under gcc, numpy without torch, aten."""

from __future__ import annotations

import ctypes
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from kan_fast import KAN, KANLinear
from kan_fast.export import decompositions, to_c, to_numpy, to_numpy_source
from kan_fast.nn.functions import add_symbolic
from kan_fast.nn.nodes import Nodes
from tests.helpers.compiled_library import Library, needs_gcc

CASES = [
    (degree, base, extrapolation)
    for degree in range(6)
    for base, extrapolation in zip(("silu", "identity", "zero"), ("zero", "linear", "clamp"), strict=True)
]
CASES += [(3, "zero", "linear"), (3, "silu", "clamp"), (2, "identity", "zero")]


def make(degree=3, base="silu", extrapolation="zero", dtype=torch.float32, bias=True):
    """Two layers with large splines on adaptive grids."""
    options = dict(spline_order=degree, base=base, extrapolation=extrapolation, dtype=dtype)
    model = nn.Sequential(KANLinear(3, 5, bias, grid_size=4, **options), KANLinear(5, 2, bias, grid_size=7, **options))
    with torch.no_grad():
        for layer in model:
            layer.spline_weight.normal_()
            if bias:
                layer.bias.normal_()
            layer.grid += torch.rand_like(layer.grid) * layer.grid.diff(dim=1).min() * 0.9
    return model.eval()


def inputs(model):
    """Inside, outside, and every knot of the first layer."""
    grid = model[0].grid
    return torch.cat([grid.new_empty(200, 3).uniform_(-2.5, 2.5), grid.T, 100 * torch.randn_like(grid.T)])


def assert_close(result, model, x, tolerance):
    """Errors relative to the largest output, against the model in float64."""
    result = torch.as_tensor(np.asarray(result)).double()
    with torch.no_grad():
        expected = model.double()(x.double())
    assert result.shape == expected.shape
    assert ((result - expected).abs() / expected.abs().amax(0)).max() <= tolerance


# C


@needs_gcc
@pytest.mark.parametrize(("degree", "base", "extrapolation"), CASES)
def test_c(degree, base, extrapolation, tmp_path):
    model = make(degree, base, extrapolation, torch.float64)
    x = inputs(model)
    library = Library(to_c(model), tmp_path, "kan", ctypes.c_double, 2)
    assert_close(library(x.numpy()), model, x, 1e-12)


@needs_gcc
def test_c_in_float_with_another_name(tmp_path):
    model = KAN([3, 6, 4, 2], grid=6, k=3).eval()
    x = torch.randn(200, 3)
    library = Library(to_c(model, "my_model"), tmp_path, "my_model", ctypes.c_float, 2)
    assert_close(library(x.numpy()), model, x, 2e-6)


def products(last):
    """Masked edges, and products of two and three factors, hidden and perhaps at the end."""
    model = KAN([3, [2, 3], [1, 2] if last else 3], grid=4, mult_arity=[2, [2, 2, 3], 3]).double().eval()
    model.layers[0].mask = torch.rand(9, 3) < 0.7
    return model


@needs_gcc
@pytest.mark.parametrize("last", [True, False])
def test_c_with_masks_and_products(last, tmp_path):
    model, x = products(last), torch.randn(200, 3, dtype=torch.float64)
    library = Library(to_c(model), tmp_path, "kan", ctypes.c_double, 3)
    assert_close(library(x.numpy()), model, x, 1e-12)


FUNCTIONS = ["sin", "x^2", "sgn", "J0", "erf", "exp", "log", "gaussian", "x^0.3", "sigmoid", "J1"]


def functions(base="silu", whole=False):
    """Splines, symbolic edges and masked ones, with products; a second layer without splines, or no splines at all."""
    model = KAN([3, [2, 3], 3], grid=4, mult_arity=[2, [2, 2, 3], 3], base=base).double().eval()
    model.layers[0].mask = torch.rand(9, 3) < 0.7
    for layer, step in zip(model.layers, (1 if whole else 2, 1), strict=True):
        edges = [(o, i) for o in range(layer.out_features) for i in range(layer.in_features)][::step]
        affine = torch.rand(len(edges), 4, dtype=torch.float64) + torch.tensor([-0.5, 0.1, 0, 0])
        affine[:, 1] += affine[:, 0].abs() * 3  # arguments above 0
        layer.fix_many(edges, [FUNCTIONS[n % len(FUNCTIONS)] for n in range(len(edges))], affine)
    for o in range(3):  # what reaches the second layer has both signs
        for i in range(5):
            layer.fix(o, i, ["tanh", "sin", "x^2", "arctan"][(o + i) % 4], (1.0, 0.1, 1.0, 0.0))
    return model


@needs_gcc
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("real", [ctypes.c_double, ctypes.c_float])
def test_c_with_functions(whole, real, tmp_path):
    model, double = functions(whole=whole), real is ctypes.c_double
    x = 2 * torch.rand(200, 3, dtype=torch.float64) - 1
    source = to_c(model, dtype=torch.float64 if double else torch.float32)
    assert ("spline_0" in source) != whole and "spline_1" not in source
    library = Library(source, tmp_path, "kan", real, 3)
    assert_close(library(x.numpy().astype(np.float64 if double else np.float32)), model, x, 1e-12 if double else 1e-5)


@needs_gcc
def test_c_without_bias_and_the_dtype_of_choice(tmp_path):
    model = nn.Sequential(KANLinear(3, 2, bias=False), nn.Dropout(0.5)).eval()
    x = torch.randn(100, 3)
    library = Library(to_c(model, dtype=torch.float64), tmp_path, "kan", ctypes.c_double, 2)
    assert_close(library(x.double().numpy()), model, x, 1e-12)


@needs_gcc
@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
def test_c_at_nan_and_infinity(extrapolation, tmp_path):
    model = make(3, "zero", extrapolation)
    x = torch.tensor([[0.0, float("nan"), 0.0], [float("inf"), 0.0, 0.0], [0.0, -float("inf"), 0.0]])
    y = Library(to_c(model[:1]), tmp_path, "kan", ctypes.c_float, 5)(x.numpy())
    assert np.isnan(y[0]).all()
    if extrapolation != "linear":  # the value there is an infinity or NaN
        assert_close(y[1:], model[:1], x[1:], 2e-6)


# numpy


@pytest.mark.parametrize(("degree", "base", "extrapolation"), CASES)
def test_numpy(degree, base, extrapolation):
    model = make(degree, base, extrapolation, torch.float64)
    x = inputs(model)
    assert_close(to_numpy(model)(x.numpy()), model, x, 1e-12)


@pytest.mark.parametrize("last", [True, False])
def test_numpy_with_masks_and_products(last, tmp_path):
    model, x = products(last), torch.randn(2, 100, 3, dtype=torch.float64)
    y = to_numpy(model)(x.numpy())
    assert y.shape == (2, 100, 3)
    assert_close(y.reshape(-1, 3), model, x.reshape(-1, 3), 1e-12)
    scope: dict = {"__name__": "module"}
    exec(to_numpy_source(model), scope)
    assert np.array_equal(scope["kan"](x.numpy()), y)


@pytest.mark.parametrize("whole", [False, True])
def test_numpy_with_functions(whole, tmp_path):
    model = functions(torch.sin if whole else "silu", whole)  # splines that are not there have no base function
    x = 2 * torch.rand(200, 3, dtype=torch.float64) - 1
    function = to_numpy(model)
    y = function(x.numpy())
    assert_close(y, model, x, 1e-12)
    assert np.array_equal(pickle.loads(pickle.dumps(function))(x.numpy()), y)
    (tmp_path / "model.py").write_text(to_numpy_source(model))
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys; sys.modules['torch'] = sys.modules['kan_fast'] = sys.modules['sympy'] = None\n"
        "import numpy as np, model; np.save('y.npy', model.kan(np.load('x.npy')))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=600)
    assert np.array_equal(np.load(tmp_path / "y.npy"), y)
    assert to_numpy(model, torch.float32)(x.numpy()).dtype == np.float32


@pytest.mark.parametrize("export", [to_c, to_numpy, to_numpy_source])
def test_a_function_without_a_formula_is_refused(export, library):
    add_symbolic("mine", torch.sin)
    layer = KANLinear(1, 1)
    layer.fix(0, 0, "mine")
    with pytest.raises(ValueError, match=r"mine can't be written in .*add_symbolic\(name, fun, expression="):
        export(layer)


def test_nodes_in_a_sequential():
    model = nn.Sequential(KANLinear(3, 4), Nodes(2, [2]), nn.Dropout(), KANLinear(3, 1)).eval()
    x = torch.randn(50, 3)
    assert_close(to_numpy(model, torch.float64)(x.numpy()), model, x, 1e-12)
    for wrong in (nn.Sequential(Nodes(2, [2]), KANLinear(3, 1)), nn.Sequential(KANLinear(3, 5), Nodes(2, [2]))):
        with pytest.raises(ValueError, match="it must follow a KANLinear with 4 outputs"):
            to_numpy(wrong)


@pytest.mark.parametrize("extrapolation", ["zero", "clamp"])
def test_numpy_at_nan_and_infinity(extrapolation):
    layer = make(3, "zero", extrapolation)[0]
    x = torch.tensor([[0.0, float("nan"), 0.0], [float("inf"), 0.0, 0.0], [0.0, -float("inf"), 0.0]])
    y = to_numpy(layer)(x.numpy())
    assert np.isnan(y[0]).all()
    assert_close(y[1:], layer, x[1:], 2e-6)


def test_numpy_in_float32_with_leading_dimensions_and_lists():
    model = KAN([3, 6, 2]).eval()
    function, x = to_numpy(model), torch.randn(4, 5, 3)
    result = function(x.numpy())
    assert result.dtype == np.float32 and result.shape == (4, 5, 2)
    assert_close(result.reshape(20, 2), model, x.reshape(20, 3), 2e-6)
    np.testing.assert_allclose(function(x[0, 0].tolist()), result[0, 0], rtol=1e-5, atol=1e-6)
    assert np.array_equal(pickle.loads(pickle.dumps(function))(x.numpy()), result)
    with pytest.raises(ValueError, match=r"expected last dimension 3, got an array of shape \(5, 4\)"):
        function(np.zeros((5, 4)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numpy_source_runs_without_torch(dtype, tmp_path):
    model = make(3, "zero", "linear", dtype, bias=False)
    x = inputs(model).numpy()
    (tmp_path / "model.py").write_text(to_numpy_source(model, "predict"))
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys; sys.modules['torch'] = sys.modules['kan_fast'] = None\n"
        "import numpy as np, model; np.save('y.npy', model.predict(np.load('x.npy')))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=600)
    assert np.array_equal(np.load(tmp_path / "y.npy"), to_numpy(model)(x))


@pytest.mark.parametrize("export", [to_c, to_numpy, to_numpy_source])
def test_refusals(export):
    with pytest.raises(TypeError, match=r"can't export Linear; allowed: KAN, KANLinear and nn\.Sequential"):
        export(nn.Sequential(KANLinear(2, 2), nn.Linear(2, 2)))
    with pytest.raises(TypeError, match="can't export the callable base function"):
        export(KANLinear(2, 2, base=torch.sin))
    with pytest.raises(TypeError, match=r"dtype must be torch.float32 or torch.float64, got torch.bfloat16"):
        export(KANLinear(2, 2), dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="no KANLinear"):
        export(nn.Sequential())
    with pytest.raises(ValueError, match="without edges"):
        export(KANLinear(2, 0))
    broken = KANLinear(2, 2)
    nn.init.constant_(broken.bias, float("nan"))
    with pytest.raises(ValueError, match="NaN or infinity"):
        export(broken)
    if export is not to_numpy:
        with pytest.raises(ValueError, match=r"identifier.*got 'my model'"):
            export(KANLinear(2, 2), "my model")


@pytest.mark.parametrize("export", [to_c, to_numpy_source])
def test_16_bit_models_are_exported_in_float32(export):
    assert "float64" not in export(KANLinear(2, 2, dtype=torch.bfloat16))
    assert "double" not in export(KANLinear(2, 2, dtype=torch.bfloat16))


# ONNX and exported programs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of torch and onnxscript themselves
def test_onnx(tmp_path):
    """All bases and extrapolations in one network, adaptive grids, three dimensions, dynamic batch."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = nn.Sequential(
        KAN([3, [3, 2]], k=3),
        KANLinear(5, 4, spline_order=2, base="identity", extrapolation="linear"),
        KANLinear(4, 4, spline_order=0, base="zero", extrapolation="clamp"),
        KANLinear(4, 2, spline_order=1, bias=False, base=torch.tanh),
    ).eval()
    model[1].fix_many([(1, 2), (3, 0), (0, 0)], ["sin", "J0", "erf"])
    model[3].fix_many([(o, i) for o in range(2) for i in range(4)], ["x^2", "tanh", "gaussian", "sgn"] * 2)
    model[0].update_grid(torch.randn(100, 3))
    model[1].mask = torch.rand(4, 5) < 0.7
    program = torch.onnx.export(
        model,
        (torch.randn(4, 6, 3),),
        dynamo=True,
        verbose=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
    )
    assert {node.domain for node in program.model_proto.graph.node} == {""}, "standard operators only"
    program.save(tmp_path / "kan.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "kan.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 50):
        x = torch.randn(batch, 6, 3)
        (y,) = session.run(["y"], {"x": x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(y), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")  # of torch itself
@pytest.mark.parametrize("extrapolation", ["zero", "linear", "clamp"])
def test_torchscript_by_tracing(extrapolation):
    """The saved program needs none of our operators, and takes batches of any size."""
    model = nn.Sequential(KAN([3, 4]), KANLinear(4, 2, spline_order=2, extrapolation=extrapolation)).eval()
    model[1].fix(0, 1, "sin")
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, torch.randn(5, 3)), file)
    file.seek(0)
    program = torch.jit.load(file)
    assert "kan_fast::" not in str(program.inlined_graph)
    for batch in (1, 5, 40):
        x = torch.randn(batch, 3)
        torch.testing.assert_close(program(x), model(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_onnx_by_the_older_exporter():
    onnxruntime = pytest.importorskip("onnxruntime")
    model, file = KAN([3, [2, 1], 2], seed=0).eval(), io.BytesIO()
    torch.onnx.export(model, (torch.randn(4, 3),), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    session, x = onnxruntime.InferenceSession(file.getvalue()), torch.randn(9, 3)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), model(x))


def test_fx_is_told_that_layers_are_leaves():
    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, KANLinear) or super().is_leaf_module(module, name)

    model = nn.Sequential(KANLinear(2, 3), nn.Linear(3, 1))
    with pytest.raises(TypeError, match="is_leaf_module"):
        torch.fx.symbolic_trace(model)
    x = torch.randn(5, 2)
    torch.testing.assert_close(torch.fx.GraphModule(model, Tracer().trace(model))(x), model(x))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_exported_program_in_aten_alone():
    model, x = KAN([3, [3, 2], 2]).eval(), torch.randn(7, 3)
    model.layers[1].mask = torch.rand(2, 5) < 0.7
    model.layers[0].fix_many([(0, 0), (1, 2)], ["sin", "J1"])
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    assert "kan_fast" in program.graph_module.code
    program = program.run_decompositions(decompositions())
    assert "kan_fast" not in program.graph_module.code
    x = torch.randn(50, 3)
    assert_close(program.module()(x).detach(), model, x, 2e-6)


# Names


@needs_gcc
@pytest.mark.parametrize("name", ["apply", "layer", "edge", "real", "function", "bsplines", "x", "t0", "NONE", "EXP"])
def test_c_with_names_of_its_own_parts(name, tmp_path):
    model = KAN([2, 1], seed=0).double()
    model.layers[0].fix_many([(0, 0), (0, 1)], ["sgn", "J1"])
    x = torch.randn(20, 2, dtype=torch.float64)
    assert_close(Library(to_c(model, name), tmp_path, name, ctypes.c_double, 1)(x.numpy()), model, x, 1e-12)


@needs_gcc
def test_two_networks_in_one_c_file(tmp_path):
    first, second = (KAN([2, 1], seed=seed) for seed in range(2))
    Library(to_c(first, "first") + to_c(second, "second"), tmp_path, "first", ctypes.c_float, 1)


@needs_gcc
def test_every_function_of_the_library_in_c_and_numpy(tmp_path):
    from kan_fast.nn.functions import LIBRARY

    names = list(LIBRARY)
    model = KAN([1, len(names)], seed=0).double().eval()
    model.layers[0].fix_many([(o, 0) for o in range(len(names))], names)
    x = torch.linspace(-1.9, 1.9, 40, dtype=torch.float64)[:, None]
    expected = model(x).detach().numpy()
    library = Library(to_c(model), tmp_path, "kan", ctypes.c_double, len(names))
    np.testing.assert_allclose(library(x.numpy()), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(to_numpy(model)(x.numpy()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["int", "bool", "exp", "j0", "powf", "main", "printf", "malloc", "NAN", "M_PI", "a b"])
def test_names_that_c_has_are_refused(name):
    with pytest.raises(ValueError, match=r"name must be .* got"):
        to_c(KAN([1, 1], seed=0), name)


@pytest.mark.parametrize("name", ["class", "None", "__debug__", "np", "network", "LAYERS", "len", "ValueError", "a b"])
def test_names_that_the_module_has_are_refused(name):
    with pytest.raises(ValueError, match=r"name must be .* got"):
        to_numpy_source(KAN([1, 1], seed=0), name)


@pytest.mark.parametrize("name", ["x", "int", "knots", "match", "größe"])
def test_numpy_with_other_names(name):
    model, scope = KAN([2, 1], seed=0), {}
    exec(to_numpy_source(model, name), scope)
    np.testing.assert_allclose(scope[name](np.zeros((3, 2))), model(torch.zeros(3, 2)).detach(), rtol=1e-5, atol=1e-6)
