"""KAN.fit: it learns, keeps pykan's conventions, and survives trouble."""

import math
import pickle
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from kan_fast import KAN
from kan_fast.training.data import TensorSource
from kan_fast.training.regularization import regularization
from tests.helpers.fitting import fit, loader, mse, small

# Learning


def test_lbfgs_learns_and_reports_the_losses_of_the_final_parameters(dataset):
    model = small()
    history = fit(model, dataset, steps=15)
    assert {name: len(values) for name, values in history.items()} == dict.fromkeys(
        ["train_loss", "test_loss", "reg"], 15
    )
    assert all(isinstance(value, float) for values in history.values() for value in values)
    for kind in ("train", "test"):
        error = model(dataset[f"{kind}_input"]).double() - dataset[f"{kind}_label"]
        assert history[f"{kind}_loss"][-1] == pytest.approx(error.square().mean().sqrt().item(), rel=1e-4)
    assert history["train_loss"][-1] < 0.1 * dataset["train_label"].std()


@pytest.mark.parametrize("batch", [-1, 64, 1000])
def test_adam_learns(dataset, batch):
    history = fit(small(), dataset, "Adam", 60, lr=0.05, batch=batch, seed=0)
    assert np.mean(history["test_loss"][-10:]) < 0.6 * np.mean(history["test_loss"][:5])


def test_pairs_and_loaders_train_like_dicts(dataset):
    x, y, test, test_label = dataset.values()
    expected, ran = small(), [small() for _ in range(3)]
    history = fit(expected, dataset, steps=3)
    whole = loader(x, y, batch_size=len(x))
    assert fit(ran[0], (x, y), steps=3, val=(test, test_label)) == history
    assert fit(ran[1], whole, steps=3, val=loader(test, test_label, batch_size=100)) == history
    without_test = fit(ran[2], (x.numpy(), y.tolist()), steps=3)
    assert without_test["train_loss"] == history["train_loss"]
    assert all(math.isnan(value) for value in without_test["test_loss"])
    for model in ran:
        assert torch.equal(model(x), expected(x))


def test_a_step_on_a_loader_is_a_batch_and_the_loader_starts_again(dataset):
    x, y = dataset["train_input"], dataset["train_label"]
    seen = []

    def loss(output, label):
        seen.append(len(output))
        return mse(output, label)

    fit(small(), loader(x[:70], y[:70]), "Adam", 5, loss_fn=loss, update_grid=False)
    assert seen == [32, 32, 6, 32, 32]


@pytest.mark.parametrize("batch", [5, 6, 4, 9])
def test_batches_walk_through_permutations_and_follow_the_seed(batch):
    x = torch.arange(10.0)[:, None]

    def drawn(seed):
        source = TensorSource((x, x), batch, torch.Generator().manual_seed(seed))
        return [row for _ in range(20) for row in source.batch()[1].flatten().tolist()]

    rows = drawn(seed=1)
    assert len(rows) == 20 * batch
    assert all(sorted(rows[start : start + 10]) == x.flatten().tolist() for start in range(0, len(rows), 10))
    assert rows[:10] != rows[10:20]
    assert rows == drawn(seed=1) != drawn(seed=2)


def test_fit_draws_batches_by_its_seed():
    x = torch.arange(10.0)[:, None] / 10

    def labels(seed):
        seen = []

        def loss(output, label):
            seen.append(label.flatten().tolist())
            return mse(output, label)

        fit(KAN([1, 1], seed=0), (x, x), "Adam", 4, batch=6, seed=seed, loss_fn=loss)
        return seen

    assert labels(seed=1) == labels(seed=1) != labels(seed=2)
    assert [len(batch) for batch in labels(seed=1)] == [6] * 4


def test_classification_with_integer_labels(dataset):
    x = dataset["train_input"]
    labels = (x[:, 0] > x[:, 1]).long()
    model = KAN([2, 2], grid=3, seed=0)

    def accuracy():
        return (model(x).argmax(1) == labels).float().mean()

    history = fit(model, (x, labels), steps=5, loss_fn=torch.nn.CrossEntropyLoss(), metrics=(accuracy,))
    assert history["accuracy"][-1] > 0.97
    loss = torch.nn.functional.cross_entropy(model(x), labels)
    assert history["train_loss"][-1] == pytest.approx(loss.sqrt().item(), rel=1e-3)


def test_integer_labels_of_a_regression_are_cast():
    x = torch.linspace(-1, 1, 20)[:, None]
    history = fit(KAN([1, 1], seed=0), (x, (x > 0).long()), steps=3)
    assert history["train_loss"][-1] < 0.4


def test_metrics_and_display(dataset, capsys):
    calls = []

    def count():
        calls.append(1)
        return torch.tensor(len(calls))

    model = small()

    def error():
        return mse(model(dataset["test_input"]), dataset["test_label"])

    history = model.fit(dataset, "Adam", 3, metrics=[count, error], display_metrics=["train_loss", "count"], log=2)
    assert history["count"] == [1.0, 2.0, 3.0]
    assert history["error"] == pytest.approx([loss**2 for loss in history["test_loss"]], rel=1e-4)
    output = capsys.readouterr()
    assert output.out == ""
    assert "train_loss" in output.err
    assert "count: 3.00e+00" in output.err
    fit(small(), dataset, "Adam", 2)
    assert capsys.readouterr() == ("", "")


def test_the_bar_shows_no_loss_of_a_test_that_is_not_there(dataset, capsys):
    for data, shown in ((dataset, True), ((dataset["train_input"], dataset["train_label"]), False)):
        small().fit(data, "Adam", 2)
        assert ("test_loss" in capsys.readouterr().err) is shown


def test_a_single_metric_and_a_single_name(dataset, capsys):
    def answer():
        return np.float32(42)

    history = small().fit(dataset, "Adam", 2, metrics=answer, display_metrics="answer")
    assert history["answer"] == [42.0, 42.0]
    assert "answer: 4.20e+01" in capsys.readouterr().err


@pytest.mark.parametrize("value", [None, torch.zeros(2), "many"], ids=str)
def test_a_metric_that_returns_no_number_is_named(dataset, value):
    def odd():
        return value

    with pytest.raises(TypeError, match="the metric odd must return a number, got"):
        fit(small(), dataset, "Adam", 2, metrics=[odd])


def test_training_leaves_global_state_alone(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state, numpy_state = torch.get_rng_state(), pickle.dumps(np.random.get_state())  # noqa: NPY002
    model = small()
    fit(model, dataset, steps=2)
    fit(model, dataset, "Adam", 2, batch=10, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert pickle.dumps(np.random.get_state()) == numpy_state  # noqa: NPY002
    assert not list(tmp_path.iterdir())
    assert all(p.grad is None for p in model.parameters())


def test_frozen_layers_stay_with_their_grids(dataset):
    model = KAN([2, 2, 1], grid=3, seed=0)
    model.layers[0].requires_grad_(False)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    fit(model, dataset, steps=2)
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[name]) == name.startswith("layers.0."), name
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameters"):
        fit(model, dataset)


def test_a_stale_gradient_of_a_frozen_parameter_is_of_no_account(dataset):
    model = small()
    frozen = model.layers[0].base_weight.requires_grad_(False)
    frozen.grad = torch.full_like(frozen, float("nan"))
    assert len(fit(model, dataset, steps=2)["train_loss"]) == 2


class Scaled(KAN):
    """A network with a forward of its own."""

    def forward(self, x):
        return 3 * super().forward(x) + 1


@pytest.mark.parametrize("lamb", [0.0, 1e-3])
@pytest.mark.parametrize("kind", ["forward", "hook"])
def test_training_minimises_what_a_call_of_the_network_gives(dataset, lamb, kind):
    model = (Scaled if kind == "forward" else KAN)([2, 1, 1], grid=3, seed=0)
    if kind == "hook":
        model.register_forward_hook(lambda _, args, output: 3 * output + 1)
    history = fit(model, (dataset["train_input"], dataset["train_label"]), steps=4, lamb=lamb)
    error = model(dataset["train_input"]).double() - dataset["train_label"]
    assert history["train_loss"][-1] == pytest.approx(error.square().mean().sqrt().item(), rel=1e-4)
    *inputs, output = model.activations(dataset["train_input"])
    assert torch.equal(output, model(dataset["train_input"]))
    if lamb:
        assert history["reg"][-1] == pytest.approx(regularization(model, inputs).item(), rel=1e-4)


# Trouble


@pytest.mark.parametrize("opt", ["LBFGS", "Adam"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_divergence_stops_and_restores_the_last_good_state(dataset, opt, bad):
    model, good, calls = small(), [], []

    def loss(output, label):
        return mse(output, label) * (bad if len(calls) >= 3 else 1.0)

    def metric():
        calls.append(1)
        good.append({name: t.clone() for name, t in model.state_dict().items()})
        return 0.0

    with pytest.warns(RuntimeWarning, match=r"stopped in step 3.*NaN or infinite.*restored"):
        history = fit(model, dataset, opt, 10, loss_fn=loss, metrics=[metric], stop_grid_update_step=1)
    assert [len(values) for values in history.values()] == [3, 3, 3, 3]
    expected = good[2 if opt == "LBFGS" else 1]  # Adam finds out in step 3 that step 2 led astray
    for name, t in model.state_dict().items():
        assert torch.equal(t, expected[name])
    assert model(dataset["test_input"]).isfinite().all()


@pytest.mark.parametrize("opt", ["LBFGS", "Adam"])
def test_activations_that_overflow_before_a_grid_update_count_as_divergence(dataset, opt):
    model, good = KAN([2, 2, 1], grid=3, seed=0), []

    def metric():  # what a step that went astray may leave
        good.append({name: t.clone() for name, t in model.state_dict().items()})
        if len(good) == 3:
            with torch.no_grad():
                model.layers[0].bias[0] = float("inf")
        return 0.0

    with pytest.warns(RuntimeWarning, match=r"stopped in step 3.*activation is NaN or infinite.*restored"):
        history = fit(model, dataset, opt, 10, metrics=[metric], grid_update_num=50)
    assert [len(values) for values in history.values()] == [3, 3, 3, 3]
    for name, t in model.state_dict().items():
        assert t.isfinite().all()
        if opt == "LBFGS":
            assert torch.equal(t, good[2][name])
        elif name.endswith(("base_weight", "bias")):  # step 2 was the last to evaluate them, after its grid update
            assert torch.equal(t, good[1][name])


def test_a_learning_rate_that_is_too_large_leaves_a_usable_model():
    x = torch.rand(50, 1)
    model = KAN([1, 1, 1], seed=0, base="identity")
    with pytest.warns(RuntimeWarning, match="stopped in step"):
        fit(model, (x, x), "Adam", 50, lr=1e30)
    assert all(p.isfinite().all() for p in model.parameters())


def test_errors_of_the_user_come_through(dataset):
    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(small(), dataset, steps=1, metrics=[broken])


@pytest.mark.parametrize("opt", ["LBFGS", "LM", "Adam"])
def test_the_modes_of_the_caller(dataset, opt):
    data = tuple(dataset[name].float() for name in ("train_input", "train_label"))

    def trained(mode):
        model, dtypes = small(dtype=torch.float32), set()
        model.register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
        with mode:
            losses = fit(model, data, opt, 15, starts=1)["train_loss"]
        return losses, dtypes

    losses, _ = trained(nullcontext())
    assert trained(torch.inference_mode())[0] == losses
    assert trained(torch.no_grad())[0] == losses
    coarse, dtypes = trained(torch.autocast("cpu", torch.bfloat16))  # of the network, not of the optimiser
    assert dtypes == {torch.bfloat16}
    assert coarse[-1] < 0.8 * coarse[0]
