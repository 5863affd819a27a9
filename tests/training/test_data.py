"""What fit is given: data, labels and options that it takes, and how clearly it refuses the rest."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from kan_fast import KAN
from tests.helpers.fitting import fit, loader, mse, small

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


def test_labels_that_are_complex_are_refused():
    for loss in (None, mse):
        with pytest.raises(TypeError, match="train_label must be real"):
            fit(KAN([2, 1]), (torch.rand(9, 2), torch.zeros(9, 1, dtype=torch.complex64)), loss_fn=loss)


def test_errors_of_ones_own_in_a_loss_come_through():
    def broken(output, label):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match=r"^mine$"):
        fit(KAN([2, 1]), (torch.rand(9, 2), torch.rand(9, 1)), loss_fn=broken)


def test_a_loss_that_can_not_take_the_labels_says_which_labels():
    classes = torch.arange(9)[:, None] % 2  # a column
    with pytest.raises(ValueError, match=r"loss_fn fails on outputs \(9, 2\).* labels \(9, 1\) torch.int64: .*target"):
        fit(KAN([2, 2]), (torch.rand(9, 2), classes), loss_fn=F.cross_entropy, steps=1)
    with pytest.raises(ValueError, match=r"got \(9,\); class numbers are integers: train_label.long\(\)"):
        fit(KAN([2, 2]), (torch.rand(9, 2), torch.zeros(9)), loss_fn=F.cross_entropy, steps=1)


def test_classes_need_an_output_each():
    with pytest.raises(ValueError, match="or for a cross-entropy give the network an output for each class"):
        fit(KAN([2, 1]), (torch.rand(9, 2), torch.arange(9) % 2), loss_fn=F.cross_entropy, steps=1)


@pytest.mark.parametrize(
    "loss",
    [
        lambda y, t: torch.tensor((y - t).square().mean().item()),
        lambda y, t: mse(y.detach(), t),
        lambda y, t: (y > t).sum(),
        lambda y, t: torch.tensor(3),
    ],
)
@pytest.mark.parametrize("opt", ["LBFGS", "Adam"])
def test_a_loss_without_derivatives_is_refused(loss, opt):
    with pytest.raises(ValueError, match=r"loss_fn must compute its loss, here .* from the output by"):
        fit(KAN([2, 1]), (torch.rand(9, 2), torch.zeros(9, 1)), opt, loss_fn=loss, steps=1)


@pytest.mark.parametrize("label", [torch.zeros(9), torch.zeros(9).long(), torch.zeros(9, 1, 1)], ids=str)
@pytest.mark.parametrize("own_loss", [None, mse])
def test_labels_that_a_loss_would_broadcast_are_refused(label, own_loss):
    if own_loss or label.dim() > 1:
        with pytest.raises(ValueError, match=r"train_label must have the shape \(9, 1\) of the output"):
            fit(KAN([2, 1]), (torch.rand(9, 2), label), loss_fn=own_loss)
    if label.is_floating_point():
        with pytest.raises(ValueError, match=r"train_label must have the shape \(9, 3\) of the output"):
            fit(KAN([2, 3]), (torch.rand(9, 2), label), loss_fn=own_loss)


@pytest.mark.parametrize("opt", ["LBFGS", "Adam", "LM"])
@pytest.mark.parametrize("kind", ["pair", "dict", "loader", "multistart"])
def test_a_vector_of_labels_is_the_column_of_the_one_output(kind, opt):
    x = torch.rand(30, 2, generator=torch.Generator().manual_seed(0))
    y, test = x[:, 0] * x[:, 1], x[:9, 0] * x[:9, 1]

    def trained(y, test):
        data = (x, y)
        if kind == "dict":
            data = dict(train_input=x, train_label=y, test_input=x[:9], test_label=test)
        elif kind == "loader":
            data = loader(x, y, batch_size=10)
        options = {} if kind == "dict" else {"val": (x[:9], test)}
        model = small()
        call = partial(model.multistart, starts=2) if kind == "multistart" else partial(fit, model)
        return call(data, opt=opt, steps=3, progress=False, **options), model.attribute().feature

    (history, score), (as_column, same) = trained(y, test), trained(y[:, None], test[:, None])
    assert history == as_column
    assert torch.equal(score, same)


def test_classes_that_test_data_alone_have_are_named():
    x, two, three = torch.rand(12, 2), torch.arange(12) % 2, torch.arange(12) % 3
    batches = loader(x, three, shuffle=True)

    def trained(outputs, y, val, loss=F.cross_entropy):
        return fit(
            KAN([2, outputs], seed=0), y if isinstance(y, DataLoader) else (x, y), steps=1, val=val, loss_fn=loss
        )

    named = r"test_label holds classes that train_label lacks: 2\. .*train on some of these rows"
    for val in ((x, three), batches):
        with pytest.warns(UserWarning, match=named):
            trained(3, two, val)
    with pytest.warns(UserWarning, match=named):
        trained(3, loader(x, two), (x, three))
    for one, other, loss in ((0 * two, two, F.binary_cross_entropy_with_logits), (0 * two, two, None)):
        with pytest.warns(UserWarning, match="train_label has one value in columns where test_label has others: 0"):
            trained(1, one[:, None], (x, other[:, None]), loss)
    with pytest.warns(UserWarning, match="train_label has one value in columns where test_label has others: 2"):
        trained(3, F.one_hot(two, 3).float(), (x, F.one_hot(three, 3).float()))
    trained(3, three, (x, two))
    trained(3, batches, (x, three))


# Raw inputs


def test_inputs_that_are_far_too_large_are_announced():
    x = torch.rand(50, 3) * torch.tensor([1.0, 1e5, 1.0])
    with pytest.warns(UserWarning, match=r"beyond \S+e\+04; 1 of 3 columns, first column 1, exceed 100"):
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
    assert [len(values) for values in fit(model, dataset, steps=0).values()] == [1, 1, 1]
    assert torch.equal(model(dataset["test_input"]), before)
