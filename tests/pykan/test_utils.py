"""What pykan's scripts import: data sets and rounding."""

import pytest
import sympy
import torch

from kan_fast.pykan.utils import SYMBOLIC_LIB, add_symbolic, create_dataset, create_dataset_from_data, ex_round


def test_samples_are_those_of_a_seeded_global_generator():
    """pykan seeds it and draws column after column, training data before test data."""
    random = torch.get_rng_state()
    data = create_dataset(lambda x: x[:, 0] * x[:, 1], ranges=[[0, 1], [-2, 2]], train_num=7, test_num=3, seed=5)
    assert torch.equal(torch.get_rng_state(), random)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        columns = [torch.rand(7), torch.rand(3), torch.rand(7) * 4 - 2, torch.rand(3) * 4 - 2]
    assert torch.equal(data["train_input"], torch.stack(columns[::2], 1))
    assert torch.equal(data["test_input"], torch.stack(columns[1::2], 1))
    assert torch.equal(data["test_label"], (columns[1] * columns[3])[:, None])


def test_rows_normalisation_and_dtype():
    torch.set_default_dtype(torch.float64)
    data = create_dataset(lambda x: x[0] + x[1], f_mode="row", normalize_input=True, normalize_label=True)
    for name in ("train_input", "train_label"):
        torch.testing.assert_close(data[name].mean(0), torch.zeros(data[name].shape[1]), atol=1e-12, rtol=0)
        torch.testing.assert_close(data[name].std(0), torch.ones(data[name].shape[1]))
    assert data["test_label"].dtype == torch.float64


def test_data_that_exist():
    x = torch.arange(10.0)[:, None]
    data = create_dataset_from_data(x, 2 * x[:, 0], 0.7)
    assert [len(data[name]) for name in ("train_input", "train_label", "test_input", "test_label")] == [7, 7, 3, 3]
    assert sorted(torch.cat([data["train_input"], data["test_input"]])[:, 0].tolist()) == list(range(10))
    assert torch.equal(data["test_label"], 2 * data["test_input"])


def test_samples_can_be_arrays_and_tables():
    pandas = pytest.importorskip("pandas")
    x = torch.rand(10, 2)
    expected = create_dataset_from_data(x, x[:, 0])
    table = pandas.DataFrame(x.numpy(), index=range(10)[::-1])  # rows count, not their names
    for inputs, labels in ((x.numpy(), x.numpy()[:, 0]), (table, table[0])):
        data = create_dataset_from_data(inputs, labels)
        assert all(torch.equal(data[name], expected[name]) for name in expected)


def test_rounding():
    x = sympy.Symbol("x_1")
    assert ex_round(1.23456 * sympy.sin(2.00001 * x), 2) == 1.23 * sympy.sin(2 * x)
    formula = 1.0000001 * sympy.exp(0.9999999 * x**2 + 1.0000002 * sympy.sin(3.14159265 * x - 1.7e-17)) + 2.3e-16
    assert str(ex_round(formula, 2)) == "exp(x_1**2 + sin(3.14*x_1))"
    assert str(ex_round(12345.6789 * x + sympy.Float(0.5), 2)) == "12345.68*x_1 + 0.5"


@pytest.mark.parametrize("digits", [0, 2, 4])
def test_rounding_loses_no_term(digits):
    """In small units, to which pykan's gives 0."""
    a, b = sympy.symbols("x_1 x_2")
    formula = 1.23456e-12 * b**2 + sympy.sin(3.21e-6 * a) + 4.56e-7 * sympy.tanh(2e-9 * a + 5.43) - 4.55e-7
    short = ex_round(formula, digits)
    assert short.count_ops() == formula.count_ops() and short.free_symbols == {a, b}
    assert float(short.subs({a: 3e5, b: 4e5})) == pytest.approx(
        float(formula.subs({a: 3e5, b: 4e5})), rel=0.5 * 10.0 ** (1 - max(1, digits))
    )


def test_library():
    assert "sin" in SYMBOLIC_LIB
    assert callable(add_symbolic)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_dataset(torch.sin, f_mode="column"), "f_mode must be 'col' or 'row', got 'column'"),
        (lambda: create_dataset(torch.sin, ranges=[1, 0]), "ranges must be"),
        (lambda: create_dataset(lambda x: x.sum()), r"labels must have the shape \(1000,\)"),
        (lambda: create_dataset(lambda x: 0 * x[:, 0], normalize_label=True), "constant"),
        (lambda: create_dataset_from_data(torch.rand(3, 1), torch.rand(2)), "3 inputs have 2 labels"),
        (lambda: create_dataset_from_data(torch.rand(3, 1), torch.rand(3), 2), "train_ratio"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("value", [4.0, 14.62, 0.1, -1e-30, 1e30])
def test_columns_that_are_constant_are_not_normalised(value):
    with pytest.raises(ValueError, match=r"columns \[1\], which are constant in training"):
        create_dataset(lambda x: torch.stack([x[:, 0], 0 * x[:, 0] + value], 1), 1, normalize_label=True)
    with pytest.raises(ValueError, match="at least 2 training samples, got 1"):
        create_dataset(lambda x: x[:, 0], 1, normalize_input=True, train_num=1)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_columns_whose_squares_do_not_fit_are_normalised(size):
    data = create_dataset(lambda x: x * size, 1, normalize_label=True)
    torch.testing.assert_close(data["train_label"], create_dataset(lambda x: x, 1, normalize_label=True)["train_label"])
    with pytest.raises(ValueError, match=r"labels reaches 1e-200 in column 0; numbers must reach 1e-100 to 1e\+100"):
        create_dataset(lambda x: x.double() * 1e-200, 1, normalize_label=True)
