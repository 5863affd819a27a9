"""suggest, fix, unfix and auto_symbolic: the right function, the right edge, nothing lost."""

import copy
import math

import pytest
import torch

from kan_fast import KAN
from kan_fast.nn.functions import add_symbolic, select
from kan_fast.symbolic.curves.single import fit_functions, held_out
from kan_fast.symbolic.suggest import Suggestion, Suggestions, costs


def data(columns=2, n=300):
    return torch.rand(n, columns, dtype=torch.float64) * 2 - 1


def spline_network(width=(2, 2, 1), edges=None, **options):
    """Splines that learnt known functions of their inputs, by least squares on one edge after the other."""
    model = KAN(list(width), **{"grid": 20, "seed": 0, "dtype": torch.float64, "base": "zero", **options})
    for (number, i, j), function in ({} if edges is None else edges).items():
        layer = model.layers[number]
        single = KAN([1, 1], grid=20, seed=0, dtype=torch.float64, base="zero")
        x = torch.linspace(-1, 1, 400, dtype=torch.float64)[:, None]
        single.fit((x, function(x)), opt="LM", steps=15, progress=False, update_grid=False)
        with torch.no_grad():
            layer.spline_weight[j, i] = single.layers[0].spline_weight[0, 0] + single.layers[0].bias
    return model


def test_suggestions_find_the_function_of_one_edge():
    model = spline_network(edges={(0, 1, 0): lambda x: 0.2 * torch.exp(1.5 * x) + 0.1})
    x = data()
    best, *others = model.suggest_symbolic(0, 1, 0, x=x)
    assert (best.edge, best.name, best.complexity) == ((0, 1, 0), "exp", 2)
    assert best.affine == pytest.approx((1.5, 0, 0.2, 0.1), abs=1e-3)
    assert 1 - 1e-6 < best.r2_held_out <= 1
    assert len(others) == 4
    assert [s.cost for s in others] == sorted(s.cost for s in others)


def test_simplicity_decides_between_equals_alone():
    model = spline_network(edges={(0, 0, 0): lambda x: 0.3 * x**2, (0, 1, 0): lambda x: torch.sin(2 * x)})
    x = data()
    assert model.suggest_symbolic(0, 0, 0, x=x)[0].name == "x^2"
    assert model.suggest_symbolic(0, 1, 0, lib=["x", "sin", "x^3", "tanh"], x=x)[0].name == "sin"
    assert model.suggest_symbolic(0, 1, 0, lib=["x", "x^3"], weight_simple=0, x=x)[0].name == "x^3"
    assert model.suggest_symbolic(0, 1, 0, lib=["x", "x^3"], weight_simple=0.9, x=x)[0].name == "x"


def test_equal_fits_keep_the_order_of_the_library():
    """A sine is a cosine of another phase; rounding must not choose between them."""
    model = spline_network(edges={(0, 1, 0): lambda x: torch.sin(2 * x + 0.3)})
    for lib in (["sin", "cos"], ["cos", "sin"]):
        found = model.suggest_symbolic(0, 1, 0, lib=lib, x=data())
        assert [s.name for s in found] == lib
        assert found[0].cost == found[1].cost


def test_simplicity_is_no_substitute_for_a_fit():
    """sin leaves less than a line by a factor that is worth less than its complexity, but much less in all."""
    model = KAN([1, 1], grid=30, seed=0, dtype=torch.float64)
    x = torch.linspace(-2, 2, 600, dtype=torch.float64)[:, None]
    for cubic, best in ((0.2, "sin"), (0.3, "x")):
        model.fit((x, torch.sin(2.5 * x) + 0.3 * x + cubic * x**3), opt="LM", steps=5, progress=False)
        found = {s.name: 1 - s.r2_held_out for s in model.suggest_symbolic(0, 0, 0, lib=["x", "sin"])}
        assert 1.5 < found["x"] / found["sin"] < 4
        assert next(iter(found)) == best


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (-0.3, 0.1), (100, 101)])
@pytest.mark.parametrize(
    ("name", "curve"),
    [("x", lambda t: t), ("x^2", lambda t: (t + 0.3) ** 2), (None, lambda t: (t + 0.2).tanh()), (None, torch.cos)],
)
def test_no_function_imitates_a_line_or_a_parabola(name, curve, low, high):
    """The curves of a network are smooth, and a little wrong: sin(1e-4 x) can be nearer to them than x is."""
    x = torch.rand(400, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * (high - low) + low
    t = (2 * x - low - high) / (high - low)
    waves = torch.sin(torch.arange(1, 7) * t + torch.arange(6))
    random = torch.randn(6, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    errors = torch.cat([size * waves @ random for size in (1e-7, 1e-6, 1e-5, 1e-4)], 1)
    y = curve(t) / curve(t).std() + errors
    functions = select(None)
    fits = fit_functions(x.expand(y.shape), y, functions, held_out(x, 0.2))
    best = [functions[n].name for n in costs(fits, functions, 0.5).argmin(1).tolist()]
    assert set(best) == {name} if name else not {"x", "x^2"} & set(best)


def test_the_table_can_be_read():
    model = spline_network()
    table = model.suggest_symbolic(0, 0, 0, topk=3, x=data())
    assert isinstance(table, Suggestions)
    lines = str(table).splitlines()
    assert lines[0].split()[:2] == ["edge", "function"]
    assert len(lines) == 4
    assert table[0].name in lines[1]
    perfect, nearly = (str(Suggestions([table[0]._replace(r2=r2, r2_held_out=-math.inf)])) for r2 in (1, 1 - 1e-12))
    assert perfect.split()[-7:-5] == ["1.0000", "undefined"]
    assert "0.9999999999" in nearly


def test_fix_and_unfix():
    model = spline_network(edges={(0, 0, 1): torch.sin, (0, 1, 1): torch.exp})
    x = data()
    before = model(x)
    fixed = model.fix_symbolic(0, 0, 1, "sin", x=x)
    assert isinstance(fixed, Suggestion)
    assert fixed.r2_held_out > 1 - 1e-6
    assert model.layers[0].symbolic.names == ["sin"]
    torch.testing.assert_close(model(x), before, atol=1e-4, rtol=0)
    assert model.fix_symbolic(0, 1, 1, "exp", fit_params_bool=False) is None
    assert model.fix_symbolic(1, 0, 0, "x^3", affine=(1, 2, 3, 4)) is None
    assert model.layers[1].symbolic.affine.tolist() == [[1, 2, 3, 4]]
    model.unfix_symbolic(0, 0, 1)
    assert model.layers[0].symbolic.names == ["exp"]
    model.unfix_symbolic_all()
    assert all(layer.symbolic is None for layer in model.layers)
    assert torch.equal(model(x), before)


def test_auto_symbolic_takes_samples_of_fit_and_recovers_a_formula():
    x = data(n=500)
    y = torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2)
    model = KAN([2, 1, 1], grid=5, seed=0, dtype=torch.float64)
    model.fit((x, y), opt="LM", steps=15, grids=[5, 10], progress=False)
    table = model.auto_symbolic()
    assert {s.edge: s.name for s in table} == {(0, 0, 0): "sin", (0, 1, 0): "x^2", (1, 0, 0): "exp"}
    assert all(s.fixed for s in table)
    assert not any(layer.has_splines() for layer in model.layers)
    model.fit((x, y), opt="LM", steps=10, progress=False)
    assert (model(x) - y).abs().max() < 1e-9
    assert model.auto_symbolic() == ()  # nothing is left


def test_edges_below_the_threshold_stay_splines_and_are_reported():
    wild = {(0, 0, 0): lambda x: torch.sin(6 * x) * torch.exp(2 * x) + x.abs(), (0, 1, 0): torch.exp}
    model = spline_network([2, 1], wild)
    table = model.auto_symbolic(r2_threshold=0.99, x=data())
    assert [(s.edge, s.fixed) for s in table] == [((0, 0, 0), False), ((0, 1, 0), True)]
    assert model.layers[0].symbolic.places == [(0, 1)]
    first, second = str(table).splitlines()[1:]
    assert first.endswith("stays a spline")
    assert not second.endswith("stays a spline")


def test_pruned_edges_stay_away_and_fixed_ones_stay():
    model = spline_network(edges={(0, 0, 0): torch.sin, (0, 1, 0): torch.exp, (0, 0, 1): torch.cos})
    model.layers[0].mask = torch.tensor([[True, False], [True, True]])
    model.fix_symbolic(0, 0, 1, "tanh", affine=(1, 2, 3, 4))
    x = data()
    table = model.auto_symbolic(x=x)
    assert {s.edge for s in table} == {(0, 0, 0), (0, 1, 1), (1, 0, 0), (1, 1, 0)}
    assert model.layers[0].symbolic.where.tolist() == [[True, False], [True, True]]
    assert [1, 2, 3, 4] in model.layers[0].symbolic.affine.tolist()


def test_zero_is_for_constants_alone():
    """Choosing 0, of no complexity, would delete every edge that nothing fits perfectly."""
    noise = torch.randn(23, dtype=torch.float64)
    model = spline_network([2, 1])
    with torch.no_grad():
        model.layers[0].spline_weight[0, 0] = noise
        model.layers[0].spline_weight[0, 1] = 0.37
    x = data()
    table = {s.edge[1]: s for s in model.auto_symbolic(weight_simple=0.9, x=x)}
    assert table[0].name != "0"
    assert table[1].name == "0"
    assert table[1].affine[3] == pytest.approx(0.37)
    assert [s.name for s in spline_network([1, 1]).suggest_symbolic(0, 0, 0, lib=["0", "x"], x=x[:, :1])] == ["x", "0"]


def test_formulas_are_defined_on_all_samples_after_snapping():
    """What reaches the second layer changes as the first becomes symbolic; a root just above 0 must not become NaN."""
    torch.manual_seed(3)
    x = data(n=2000).float()
    y = (x.square().sum(1, keepdim=True)).sqrt()
    model = KAN([2, 1, 1], grid=5, seed=0)
    model.fit((x, y), opt="LM", steps=15, progress=False)
    model.auto_symbolic(lib=["x^2", "sqrt", "x"])
    assert model(x).isfinite().all()


def test_functions_of_the_user(library):
    add_symbolic("bump", lambda z: 1 / (1 + z**2), c=2, expression="1/(1 + z**2)")
    model = spline_network([1, 1], {(0, 0, 0): lambda x: 3 / (1 + (4 * x + 1) ** 2)}, grid=20)
    best = model.suggest_symbolic(0, 0, 0, x=data(1))[0]
    assert best.name == "bump"
    assert best.r2_held_out > 1 - 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_are_left_alone_by_suggestions(dtype):
    model = KAN([2, [1, 1], 1], seed=0, dtype=dtype)
    x = data()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.suggest_symbolic(0, 1, 2, x=x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.suggest_symbolic(0, 1, 2, x=x) == model.suggest_symbolic(0, 1, 2, x=x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m.suggest_symbolic(2, 0, 0, x=x), "l must be 0 to 1, got 2"),
        (lambda m, x: m.suggest_symbolic(0, 2, 0, x=x), "i must be 0 to 1, got 2"),
        (lambda m, x: m.suggest_symbolic(0, 0, -1, x=x), "j must be 0 to .*, got -1"),
        (lambda m, x: m.suggest_symbolic(0, 0, 0, lib=["sine"], x=x), "unknown function 'sine'"),
        (lambda m, x: m.suggest_symbolic(0, 0, 0, topk=0, x=x), "topk"),
        (lambda m, x: m.suggest_symbolic(0, 0, 0, weight_simple=1, x=x), "less than 1"),
        (lambda m, x: m.suggest_symbolic(0, 0, 0, holdout=-0.1, x=x), "holdout"),
        (lambda m, x: m.suggest_symbolic(0, 0, 0), "pass x=|train with fit first"),
        (lambda m, x: m.suggest_symbolic(0, 0, 0, x=x[:5]), "at least 8 samples"),
        (lambda m, x: m.suggest_symbolic(0, 0, 0, x=x * torch.nan), "NaN or infinity reaches layer 0"),
        (lambda m, x: m.fix_symbolic(0, 0, 0, "sine", x=x), "unknown function 'sine'"),
        (lambda m, x: m.unfix_symbolic(0, 0, 0), "not symbolic"),
        (lambda m, x: m.auto_symbolic(r2_threshold=-1, x=x), "r2_threshold"),
        (lambda m, x: m.auto_symbolic(lib="sin", x=x), "list of names"),
    ],
)
def test_errors_say_what_to_do(call, message):
    model = KAN([2, 2, 1], seed=0, dtype=torch.float64)
    with pytest.raises((ValueError, TypeError), match=message):
        call(model, data())
    assert all(layer.symbolic is None for layer in model.layers)
