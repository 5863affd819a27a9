"""Options of pykan that are not here: harmless values pass, others are refused with what to do instead."""

import inspect
import warnings

import pytest
import torch

import kan_fast
from kan_fast.pykan import KAN
from kan_fast.pykan.options import OPTIONS


@pytest.fixture
def model():
    model = KAN([2, 2, 1], seed=0)
    model.get_act(torch.rand(50, 2))
    return model


def data():
    x = torch.rand(50, 2)
    return x, x.sum(1, keepdim=True)


def test_a_call_with_all_of_pykans_defaults(model):
    """Signatures of pykan 0.2.8, without options that have a default of their own here."""
    KAN([2, 1], save_act=False, auto_save=False, symbolic_enabled=True, affine_trainable=False, sparse_init=False)
    model.fit(data(), steps=1, save_fig=False, in_vars=None, out_vars=None, beta=3, save_fig_freq=1, img_folder="v",
              singularity_avoiding=False, y_th=1000.0, progress=False)  # fmt: skip
    model.fix_symbolic(0, 0, 0, "sin", verbose=False, random=False, log_history=False)
    model.unfix_symbolic(0, 0, 0, log_history=False)
    model.unfix_symbolic_all(log_history=False)
    model.attribute(plot=False)
    model.prune_node(0.0, mode="auto", log_history=False).prune_edge(0.0, log_history=False)
    model.remove_edge(0, 0, 0, log_history=False)
    model.remove_node(1, 0, log_history=False)


def test_splines_have_no_singularities_to_avoid(model):
    x = torch.rand(5, 2)
    assert torch.equal(model(x, singularity_avoiding=True, y_th=10.0), model(x))
    model.fix_symbolic(0, 0, 0, "1/x")
    assert torch.equal(model(x, singularity_avoiding=False), model(x))
    with pytest.raises(TypeError, match="leave it out; formula_report"):
        model(x, singularity_avoiding=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: KAN([2, 1], auto_save=True), r"KAN has no auto_save \(got True\): .*saveckpt"),
        (lambda model: model.fit(data(), save_fig=True), "fit has no save_fig .*callback"),
        (lambda model: model.fit(data(), singularity_avoiding=True), "fit has no singularity_avoiding"),
        (lambda model: model.train(data(), save_fig=True), "fit has no save_fig"),
        (lambda model: model.suggest_symbolic(0, 0, 0, a_range=(-1, 1)), "a_range .*affine="),
        (lambda model: model.auto_symbolic(b_range=(-1, 1)), "b_range"),
        (lambda model: model.prune_node(mode="manual"), "active_neurons_id"),
        (lambda model: model.fit(data(), spam=1), "unexpected keyword argument 'spam'"),
    ],
)
def test_what_is_refused(model, call, message):
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(TypeError, match=message):
        call(model)
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[name])


def test_the_drawing_that_the_error_for_save_fig_suggests(model, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    model.fit(data(), steps=2, progress=False, callbacks=lambda step, entry: model.plot().save(f"{step}.png"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png"]


@pytest.mark.parametrize("verbose", [0, 1])
def test_verbose_prints_what_is_returned(model, capsys, verbose):
    table = model.suggest_symbolic(0, 0, 0, topk=3, verbose=verbose)
    assert capsys.readouterr().out == (f"{table}\n" if verbose else "")
    model.fix_symbolic(0, 0, 0, "exp", verbose=verbose)
    assert ("exp" in capsys.readouterr().out) == bool(verbose)
    table = model.auto_symbolic(verbose=verbose)
    assert capsys.readouterr().out == (f"{table}\n" if verbose else "")


def test_signatures_and_places_of_warnings_are_those_of_the_methods(model):
    for name, options in OPTIONS.items():
        parameters = inspect.signature(KAN if name == "KAN" else getattr(KAN, name)).parameters
        assert not options.keys() & parameters.keys()
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        model.fit((10 * torch.rand(50, 2), torch.rand(50, 1)), steps=1, update_grid=False, progress=False)
    assert [warning.filename for warning in raised] == [__file__]


def test_pykans_ways_to_initialise_and_to_freeze():
    model = KAN([2, 3, 1], grid=4, noise_scale=0.8, sp_trainable=False, sb_trainable=False, seed=0)
    for layer in model.layers:
        assert layer.spline_weight.abs().max() <= 0.1
        assert layer.spline_weight.std() > 0.03
        trained = [layer.spline_weight.requires_grad, layer.base_weight.requires_grad, layer.bias.requires_grad]
        assert trained == [True, False, False]
    other = KAN([2, 3, 1], grid=4, noise_scale=0.8, base_fun="zero", bias=False, sb_trainable=False, seed=0)
    assert [name for name, p in other.named_parameters() if not p.requires_grad] == []
    with pytest.raises(ValueError, match="noise_scale must be finite and at least 0"):
        KAN([2, 1], noise_scale=-1)


def test_samples_for_a_network_that_is_trained_by_hand():
    x = torch.rand(50, 2)
    model = KAN([2, 1], seed=0)
    model.get_act({"train_input": x})
    assert torch.equal(model.last_inputs.x, x)
    model.update_grid_from_samples(x[:20])
    assert torch.equal(model.last_inputs.x, x[:20])
    expected = KAN([2, 1], seed=0)
    expected.update_grid(x[:20])
    for mine, other in zip(model.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


def test_train_sets_the_mode_or_trains():
    x = torch.rand(50, 2)
    model = KAN([2, 1], grid=3)
    assert model.train(False) is model
    assert not any(m.training for m in model.modules())
    assert model.train() is model
    assert model.layers[0].training
    assert model.eval().train(mode=True).training
    before = model(x)
    history = model.train((x, x[:, :1]), opt="Adam", steps=2, progress=False)
    assert len(history["train_loss"]) == 2
    assert not torch.equal(model(x), before)
    assert len(torch.nn.Sequential(model).train()[0].train((x, x[:, :1]), steps=1, progress=False)["reg"]) == 1


def test_prune_edge_works_in_place():
    x = torch.rand(200, 3)
    model, core = (kind([3, 4, 1], seed=0, extrapolation="zero") for kind in (KAN, kan_fast.KAN))
    with torch.no_grad():
        for network in (model, core):
            network.layers[0].spline_weight[:, 2] *= 1e-3
            network.layers[0].base_weight[:, 2] *= 1e-3
    expected = core.prune_edge(0.05, x=x)
    assert model.prune_edge(0.05, x=x) is model
    assert model.width == expected.width and isinstance(model, KAN)
    assert torch.equal(model(x), expected(x))
    assert not model.layers[0].mask[:, 2].any()
