"""KAN.fit: it learns, keeps pykan's conventions, updates grids rightly, and refuses or survives trouble."""

import math
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from kan_fast import KAN
from kan_fast.training.data import TensorSource
from kan_fast.training.grid_schedule import forget_splines
from kan_fast.training.optimizers import OPTIMIZERS
from kan_fast.training.regularization import l1_and_entropy, regularization


def target(x):
    return torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2)


@pytest.fixture
def dataset():
    x, test = torch.rand(200, 2).double() * 2 - 1, torch.rand(100, 2).double() * 2 - 1
    return {"train_input": x, "train_label": target(x), "test_input": test, "test_label": target(test)}


def fit(model, data, *args, **options):
    return model.fit(data, *args, **{"progress": False, **options})


def small(**options):
    return KAN([2, 1, 1], grid=3, **{"seed": 0, **options})


def loader(x, y, **options):
    return DataLoader(TensorDataset(x, y), **{"batch_size": 32, **options})


def mse(output, label):
    return ((output - label) ** 2).mean()


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


# Regularisation


def test_entropy_and_l1_are_those_of_the_paper():
    m = torch.rand(3, 4, dtype=torch.float64)
    p = m.numpy() / m.numpy().sum()
    l1, entropy = l1_and_entropy(m)
    assert l1.item() == pytest.approx(m.numpy().sum())
    assert entropy.item() == pytest.approx(-sum(q * math.log(q) for q in p.flat))
    assert l1_and_entropy(torch.ones(3, 4))[1].item() == pytest.approx(math.log(12))
    assert torch.autograd.gradcheck(lambda m: l1_and_entropy(m), m.requires_grad_())


@pytest.mark.parametrize("dead", ["layer", "edge"])
def test_regularisation_of_dead_edges_is_finite(dead):
    model, x = small(), torch.rand(20, 2)
    with torch.no_grad():
        for weight in (model.layers[0].spline_weight, model.layers[0].base_weight):
            weight[:, : 2 if dead == "layer" else 1] = 0
    *inputs, _ = model.activations(x)
    reg = regularization(model, inputs)
    reg.backward()
    assert reg.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_regularisation_is_the_sum_over_layers_of_their_own_inputs(dataset):
    model, x = small(dtype=torch.float64), dataset["train_input"]
    *inputs, _ = model.activations(x)
    expected = 0.0
    for layer, samples in zip(model.layers, inputs, strict=True):
        phi = torch.zeros(layer.out_features, layer.in_features, dtype=torch.float64)
        zero = layer(torch.zeros(1, layer.in_features, dtype=torch.float64))
        for i in range(layer.in_features):  # phi_oi(x) - phi_oi(0) is what a change of one input changes
            alone = torch.zeros_like(samples)
            alone[:, i] = samples[:, i]
            rows = layer.spline_weight.new_zeros(1, layer.in_features)
            offset = torch.stack([edge_value(layer, o, i, rows[:, i]) for o in range(layer.out_features)], 1)
            phi[:, i] = (layer(alone) - zero + offset).abs().mean(0)
        p = phi / phi.sum()
        expected += 0.5 * phi.sum() - 3 * (p * p.log()).sum()
    assert regularization(model, inputs, 0.5, 3.0).item() == pytest.approx(expected.item(), rel=1e-9)


def edge_value(layer, o, i, x):
    """phi_oi(x), from a layer that has no other edge."""
    single = KAN([1, 1], layer.grid_size, layer.spline_order, bias=False, dtype=torch.float64).layers[0]
    with torch.no_grad():
        single.spline_weight.copy_(layer.spline_weight[o : o + 1, i : i + 1])
        single.base_weight.copy_(layer.base_weight[o : o + 1, i : i + 1])
        single.grid.copy_(layer.grid[i : i + 1])
    return single(x[:, None])[:, 0]


def test_lamb_makes_the_network_sparser(dataset):
    plain, sparse = small(), small()
    without = fit(plain, dataset, steps=5)
    with_lamb = fit(sparse, dataset, steps=5, lamb=0.1)
    *inputs, _ = plain.activations(dataset["train_input"])
    assert without["reg"] == [0.0] * 5
    assert with_lamb["reg"][-1] < regularization(plain, inputs).item()
    *inputs, _ = sparse.activations(dataset["train_input"])
    assert with_lamb["reg"][-1] == pytest.approx(regularization(sparse, inputs).item(), rel=1e-4)


# Grids


def test_grid_updates_come_when_pykan_does_them(dataset, monkeypatch):
    steps = []
    monkeypatch.setattr(KAN, "update_grid", lambda self, x, layers, margin, trim: steps.append(len(history)))

    def run(**options):
        steps.clear()
        history.clear()
        fit(small(), dataset, "Adam", metrics=[count], **options)
        return list(steps)

    history = []

    def count():
        history.append(1)
        return 0

    assert run(steps=60) == list(range(0, 50, 5))
    assert run(steps=60, grid_update_num=3, stop_grid_update_step=12) == [0, 4, 8]
    assert run(steps=4, grid_update_num=9, stop_grid_update_step=3) == [0, 1, 2]
    assert run(steps=20, start_grid_update_step=8) == [10, 15]
    assert run(steps=np.int64(9), grid_update_num=5, stop_grid_update_step=8) == list(range(8))  # more than 5
    assert run(steps=20, stop_grid_update_step=0) == run(steps=20, update_grid=False) == []


def test_data_beyond_the_grid_are_learnt_with_grid_updates_and_announced_without(dataset):
    x = 5 + 10 * torch.rand(200, 1)
    pair = (x, torch.sin(x))
    assert fit(KAN([1, 1], grid=8, seed=0), pair, steps=4)["train_loss"][-1] < 0.02
    with pytest.warns(UserWarning, match=r"100\.0% of the training samples lie outside of the grid.*update_grid=True"):
        fit(KAN([1, 1], grid=8, seed=0), pair, steps=1, update_grid=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(KAN([1, 1], seed=0, grid_range=(5, 15)), pair, steps=1, update_grid=False)


def test_optimisers_forget_what_a_grid_update_refits(dataset):
    x, y = dataset["train_input"].float(), dataset["train_label"].float()
    for name in ("LBFGS", "Adam"):
        model = small()
        optimizer = OPTIMIZERS[name](model, list(model.parameters()), None)

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = mse(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
        forget_splines(optimizer, model)
        kept = {id(p) for p in optimizer.state}
        assert not kept & {id(layer.spline_weight) for layer in model.layers}
        assert (name == "Adam") == (id(model.layers[0].base_weight) in kept)
        optimizer.step(closure)


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


@pytest.mark.parametrize("opt", ["LBFGS", "Adam"])
def test_interrupt_returns_the_history_and_a_usable_model(dataset, opt):
    model, evaluations = small(), []

    def loss(output, label):
        evaluations.append(1)
        if len(evaluations) == 40:
            raise KeyboardInterrupt
        return mse(output, label)

    history = fit(model, dataset, opt, 100, loss_fn=loss)
    assert 0 < len(history["train_loss"]) == len(history["test_loss"]) == len(history["reg"]) < 40
    fit(model, dataset, opt, 2)
    assert model(dataset["test_input"]).isfinite().all()


def test_errors_of_the_user_come_through(dataset):
    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(small(), dataset, steps=1, metrics=[broken])


# Bad input


def with_nan(t, row=7):
    t = t.clone()
    t[row, 0] = float("nan")
    return t


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda d: d.pop("test_label"), ValueError, r"lacks test_label.*give \(x, y\)"),
        (lambda d: d.clear(), ValueError, "lacks train_input, train_label.*no keys"),
        (lambda d: d.update(train_input=d["train_input"][:0], train_label=d["train_label"][:0]), ValueError, "empty"),
        (lambda d: d.update(test_input=d["test_input"][:0], test_label=d["test_label"][:0]), ValueError, "test.*empty"),
        (lambda d: d.update(train_input=with_nan(d["train_input"])), ValueError, "train_input.* 1 of 200 rows.* row 7"),
        (lambda d: d.update(train_input=d["train_input"] / 0), ValueError, "train_input .*infinite.* 200 of 200 rows"),
        (lambda d: d.update(test_label=with_nan(d["test_label"])), ValueError, "test_label .*NaN.* 1 of 100 rows"),
        (
            lambda d: d.update(train_label=d["train_label"][:, 0]),
            ValueError,
            r"\(200, 1\).*got \(200,\).*train_label\[:, None\]",
        ),
        (
            lambda d: d.update(test_label=d["test_label"][:, 0]),
            ValueError,
            r"\(100, 1\).*got \(100,\).*test_label\[:, None\]",
        ),
        (lambda d: d.update(train_label=d["train_label"].T), ValueError, r"200 samples, labels \(1, 200\)"),
        (lambda d: d.update(train_label=d["train_label"][:9]), ValueError, r"200 samples, labels \(9, 1\)"),
        (
            lambda d: d.update(train_label=d["train_label"].expand(-1, 2)),
            ValueError,
            r"train_label must have the shape \(200, 1\) of the output of the network, got \(200, 2\)",
        ),
        (
            lambda d: d.update(train_input=torch.zeros(200, 3)),
            ValueError,
            r"train_input must have the shape \(samples, 2\).*got \(200, 3\)",
        ),
        (lambda d: d.update(test_input=torch.zeros(100, 1)), ValueError, r"test_input must .*\(samples, 2\)"),
        (lambda d: d.update(train_input=d["train_input"].long()), TypeError, r"floating point, got torch.int64.*float"),
        (lambda d: d.update(train_input=None), TypeError, "train_input must be a tensor"),
        (lambda d: d.update(train_label=["a"] * 200), TypeError, "train_label must be a tensor"),
    ],
)
def test_bad_datasets(dataset, change, error, message):
    model = small()
    before = [p.clone() for p in model.parameters()]
    change(dataset)
    with pytest.raises(error, match=message):
        fit(model, dataset, steps=2, update_grid=False)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


# (the loss, outputs, a label of each of 9 samples, and the dtype in which the loss gets labels of a float64 network)
LABELS = {
    "0/1, binary cross-entropy": (F.binary_cross_entropy_with_logits, 1, torch.arange(9)[:, None] % 2, torch.float64),
    "bool": (F.binary_cross_entropy_with_logits, 1, torch.arange(9)[:, None] > 4, torch.float64),
    "counts": (F.huber_loss, 1, torch.arange(9)[:, None], torch.float64),
    "multi-label": (F.binary_cross_entropy_with_logits, 3, torch.arange(27).view(9, 3) % 2, torch.float64),
    "classes int32": (F.cross_entropy, 3, torch.arange(9).int() % 3, torch.int64),
    "classes uint8": (F.cross_entropy, 3, torch.arange(9).byte() % 3, torch.int64),
    "classes bool": (F.cross_entropy, 2, torch.arange(9) > 4, torch.int64),
    "probabilities of classes": (F.cross_entropy, 2, torch.full((9, 2), 0.5), torch.float64),
    "two columns for one output": (lambda y, t: (y - t).square().mean(), 1, torch.rand(9, 2), torch.float64),
    "one column for three outputs": (lambda y, t: (y - t).abs().mean(), 3, torch.rand(9, 1), torch.float64),
    "indices": (lambda y, t: y.gather(1, t).mean(), 3, torch.arange(9)[:, None] % 3, torch.int64),
}


@pytest.mark.parametrize("name", LABELS)
def test_a_loss_of_ones_own_takes_the_labels_that_it_wants(name):
    loss, outputs, label, dtype = LABELS[name]
    seen = set()

    def watched(output, target):
        seen.add((target.dtype, target.shape))
        return loss(output, target)

    model = KAN([2, outputs], seed=0, dtype=torch.float64)
    losses = fit(model, (torch.rand(9, 2), label), loss_fn=watched, steps=2)["train_loss"]
    assert seen == {(dtype, label.shape)}
    assert len(losses) == 2


def test_a_loss_that_can_not_take_the_labels_says_which_labels():
    classes = torch.arange(9)[:, None] % 2  # a column
    with pytest.raises(ValueError, match=r"loss_fn fails on outputs \(9, 2\).* labels \(9, 1\) torch.int64: .*target"):
        fit(KAN([2, 2]), (torch.rand(9, 2), classes), loss_fn=F.cross_entropy, steps=1)
    with pytest.raises(ValueError, match=r"got \(9,\); class numbers are integers: train_label.long\(\)"):
        fit(KAN([2, 2]), (torch.rand(9, 2), torch.zeros(9)), loss_fn=F.cross_entropy, steps=1)


@pytest.mark.parametrize("label", [torch.zeros(9), torch.zeros(9).long(), torch.zeros(9, 1, 1)], ids=str)
@pytest.mark.parametrize("own_loss", [None, mse])
def test_labels_that_a_loss_would_broadcast_are_refused(label, own_loss):
    with pytest.raises(ValueError, match=r"train_label must have the shape \(9, 1\) of the output"):
        fit(KAN([2, 1]), (torch.rand(9, 2), label), loss_fn=own_loss)
    if label.is_floating_point():
        with pytest.raises(ValueError, match=r"train_label must have the shape \(9, 3\) of the output"):
            fit(KAN([2, 3]), (torch.rand(9, 2), label), loss_fn=own_loss)


# Samples that stand for all


class Stream(IterableDataset):
    """Samples that come once, in order."""

    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return ((x, x) for x in self.x)


LOADERS = {
    "in order": lambda data, x: DataLoader(data, 32),
    "shuffled, small batches": lambda data, x: DataLoader(data, 4, shuffle=True),
    "batches of the user's": lambda data, x: DataLoader(
        data, batch_sampler=[range(i, i + 50) for i in range(0, 1000, 50)]
    ),
    "a stream": lambda data, x: DataLoader(Stream(x), 32),
}


@pytest.mark.parametrize("name", LOADERS)
def test_grids_are_those_of_all_samples_of_a_loader(name):
    """They were those of one batch, beyond which 97 % of the samples lay."""
    x = torch.linspace(0, 10, 1000)[:, None]
    loader = LOADERS[name](TensorDataset(x, x), x)
    model = KAN([1, 1], seed=0)
    fit(model, loader, opt="Adam", steps=3)
    assert model.coverage(x)[0].item() == 0
    assert model.last_inputs.x.std() > 2.5


def test_batches_that_were_read_ahead_for_grids_are_trained_on():
    x = torch.linspace(0, 10, 60)[:, None]
    seen = []

    def loss(output, label):
        seen.append(label.clone())
        return mse(output, label)

    fit(KAN([1, 1], seed=0), DataLoader(Stream(x), 20), opt="Adam", steps=3, loss_fn=loss)
    assert torch.equal(torch.cat(seen), x)


# Raw inputs


def test_inputs_that_are_far_too_large_are_announced():
    x = torch.rand(50, 3) * torch.tensor([1.0, 1e5, 1.0])
    with pytest.warns(UserWarning, match=r"inputs reach \S+e\+04, in 1 of 3 columns more than 100, first in column 1"):
        fit(KAN([3, 1]), (x, x[:, :1]), steps=1)
    fit(KAN([3, 1], base="zero"), (x, x[:, :1]), steps=1)  # where splines are all, grids follow


def test_data_that_the_dtype_cannot_hold():
    x, y = torch.rand(5, 1).double(), torch.rand(5, 1).double()
    for pair, name in (((x * 1e300, y), "train_input"), ((x, -y * 1e300), "train_label")):
        with pytest.raises(
            ValueError, match=rf"{name} reaches .*e\+(299|300), beyond 3.4e\+38, the end of torch.float32"
        ):
            fit(KAN([1, 1]), pair)


def test_a_network_on_the_meta_device():
    model = KAN([1, 1], device="meta")
    with pytest.raises(ValueError, match=r"meta device.*to_empty.*reset_parameters"):
        fit(model, (torch.rand(5, 1), torch.rand(5, 1)))


def test_one_column_as_a_vector():
    with pytest.raises(ValueError, match=r"got \(5,\); a single column is x\[:, None\]"):
        fit(KAN([1, 1]), (torch.zeros(5), torch.zeros(5, 1)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(opt="SGD"), ValueError, "unknown optimiser 'SGD'; allowed: LBFGS, Adam"),
        (dict(steps=-1), ValueError, "steps must be at least 0, got -1"),
        (dict(log=0), ValueError, "log must be at least 1"),
        (dict(batch=0), ValueError, "batch must be -1"),
        (dict(batch=2.5), TypeError, "batch must be an int, got 2.5"),
        (dict(batch=True), TypeError, "batch must be an int, got True"),
        (dict(steps="3"), TypeError, "steps must be an int, got '3'"),
        (dict(steps=2.5), TypeError, "steps must be an int, got 2.5"),
        (dict(steps=True), TypeError, "steps must be an int, got True"),
        (dict(stop_grid_update_step=1.5), TypeError, "stop_grid_update_step must be an int"),
        (dict(start_grid_update_step=None), TypeError, "start_grid_update_step must be an int"),
        (dict(lr=0), ValueError, "lr must be finite and greater than 0, got 0"),
        (dict(lr=float("nan")), ValueError, "lr must be finite"),
        (dict(lr="1"), TypeError, "lr must be a number, got '1'"),
        (dict(lamb=float("nan")), ValueError, "lamb must be finite and at least 0, got nan"),
        (dict(lamb=-1), ValueError, "lamb must be finite and at least 0, got -1"),
        (dict(lamb_l1=float("inf")), ValueError, "lamb_l1 must be finite"),
        (dict(lamb_entropy=-2.0), ValueError, "lamb_entropy must be finite and at least 0"),
        (dict(display_metrics="accuracy"), ValueError, "unknown display_metrics accuracy; allowed"),
        (dict(grid_update_num=0), ValueError, "grid_update_num must be at least 1"),
        (dict(val=(torch.zeros(1, 2), torch.zeros(1, 1))), ValueError, "its own test data"),
        (dict(metrics=[lambda: 0, lambda: 1]), ValueError, "'<lambda>'; rename"),
        (dict(metrics=[0.5]), TypeError, "metrics must be a function"),
        (dict(display_metrics=["accuracy"]), ValueError, "unknown display_metrics accuracy; allowed: train_loss"),
        (dict(loss_fn=lambda a, b: (a - b) ** 2), ValueError, r"scalar tensor, got a tensor of shape \(200, 1\)"),
        (dict(loss_fn=lambda a, b: 0.0), ValueError, "scalar tensor, got float"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_options(dataset, options, error, message):
    with pytest.raises(error, match=message):
        fit(small(), dataset, **options)


@pytest.mark.parametrize(
    "data", ["moons", None, torch.zeros(3, 2), (torch.zeros(3, 2),)], ids=lambda d: type(d).__name__
)
def test_unknown_kinds_of_dataset(data):
    with pytest.raises(TypeError, match="train data must be a pair"):
        fit(small(), data)


def test_bad_loaders():
    x, y = torch.rand(8, 2), torch.rand(8, 1)
    with pytest.raises(ValueError, match="no effect on a DataLoader"):
        fit(small(), loader(x, y), batch=4)
    with pytest.raises(ValueError, match="seed has no effect on a DataLoader; give it a generator"):
        fit(small(), loader(x, y), seed=0)
    with pytest.raises(ValueError, match="train DataLoader yields no batches"):
        fit(small(), loader(x[:0], y[:0]))
    with pytest.raises(TypeError, match=r"yield \(input, label\) pairs, got list of length 1"):
        fit(small(), DataLoader(TensorDataset(x)))
    with pytest.raises(ValueError, match="NaN"):
        fit(small(), loader(with_nan(x), y, batch_size=4), "Adam", 2)
    with pytest.raises(TypeError, match="test data must be a pair"):
        fit(small(), (x, y), val=3)
    with pytest.raises(ValueError, match="test DataLoader yields no batches"):
        fit(small(), (x, y), val=loader(x[:0], y[:0]))


def test_no_steps_is_no_training(dataset):
    model = small()
    before = model(dataset["test_input"])
    assert fit(model, dataset, steps=0) == {"train_loss": [], "test_loss": [], "reg": []}
    assert torch.equal(model(dataset["test_input"]), before)
