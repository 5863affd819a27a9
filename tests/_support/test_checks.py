"""Data of all kinds become tensors, or the error says what to do."""

import numpy as np
import pytest
import torch

from kan_fast import KAN
from kan_fast._support.checks import tensor
from tests.helpers.fitting import fit

NUMBERS = np.array([[1.5, 2.0], [3.0, 4.25]])


@pytest.mark.parametrize(
    "data",
    [NUMBERS[::-1][::-1], NUMBERS.T.copy().T, NUMBERS.astype(object), NUMBERS.astype(np.longdouble), NUMBERS.tolist()]
    + [NUMBERS.astype(f"{order}f{size}") for order in "<>" for size in (2, 4, 8)]
    + [np.ma.masked_greater(NUMBERS, 9)],
    ids=lambda data: str(getattr(data, "dtype", "list")),
)
def test_numbers_of_any_kind(data):
    made = tensor("x", data)
    assert made.tolist() == NUMBERS.tolist()
    made.zero_()  # a copy
    assert np.array(data, dtype=np.float64).tolist() == NUMBERS.tolist()


def test_integers_stay_integers():
    assert tensor("y", np.array([1, 2], ">i4")).tolist() == [1, 2]
    assert not tensor("y", np.array([1, 2], ">i4")).is_floating_point()
    assert not tensor("y", np.ma.masked_greater(np.array([1, 2]), 9)).is_floating_point()


def test_masked_numbers_are_missing():
    made = tensor("x", np.ma.masked_greater(NUMBERS, 4))
    assert made.isnan().tolist() == [[False, False], [False, True]]
    assert tensor("y", np.ma.masked_greater(np.array([1, 2]), 1)).isnan().tolist() == [False, True]
    x = np.ma.masked_greater(np.random.default_rng(0).random((20, 2)), 0.9)
    with pytest.raises(ValueError, match="train_input holds NaN"):
        fit(KAN([2, 1], seed=0), (x, np.zeros((20, 1))), steps=1)


def test_tables_with_columns_of_several_kinds():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": [1.5, 2.5], "b": [True, False], "c": pandas.array([1, None], "Int64")})
    assert tensor("x", table).nan_to_num(-1).tolist() == [[1.5, 1, 1], [2.5, 0, -1]]
    assert tensor("x", table["c"]).nan_to_num(-1).tolist() == [1, -1]
    assert tensor("x", table[["a", "b"]].to_numpy()).tolist() == [[1.5, 1], [2.5, 0]]


def test_dates_are_no_numbers():
    pandas = pytest.importorskip("pandas")
    dates = pandas.date_range("2026-01-01", periods=3)
    for data in (dates, pandas.DataFrame({"when": dates}), pandas.DataFrame({"when": dates, "x": [1.0, 2.0, 3.0]})):
        with pytest.raises(TypeError, match=r"x must be a tensor or an array of numbers, got .* of length 3"):
            tensor("x", data)


def test_sparse_data_are_refused_with_what_to_do():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"train_input must be dense, got Tensor of length 2.*with \.to_dense\(\)"):
        fit(KAN([2, 1], seed=0), (torch.eye(2).to_sparse(), torch.zeros(2, 1)), steps=1)
    for data in (sparse.csr_matrix(NUMBERS), sparse.coo_array(NUMBERS)):
        with pytest.raises(
            TypeError, match=r"x must be dense, got \w+, which is sparse; convert it with \.toarray\(\)"
        ):
            tensor("x", data)
    with pytest.raises(TypeError, match=r"layout torch.sparse_coo; convert it with \.to_dense\(\)"):
        KAN([2, 1], seed=0)(torch.eye(2).to_sparse())


def test_tensors_of_inference_mode_can_be_trained_on():
    with torch.inference_mode():
        x, y = torch.rand(20, 2), torch.rand(20, 1)
    assert len(fit(KAN([2, 1], seed=0), (x, y), steps=2)["train_loss"]) == 2
