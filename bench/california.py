"""California housing: mean absolute error of KANs next to an MLP and to boosted trees: `python -m bench.california`.

Standard scaling, 80/20 split with seed 0. The data are scikit-learn's, from its folder or the one that `--data` names.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.datasets import fetch_california_housing
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn

from kan_fast import KAN
from kan_fast.demo.compare import equal_mlp, train_in_turns
from kan_fast.sklearn import KANRegressor

EPOCHS, BATCH = 300, 256
MLP_RATES = (0.003, 0.01, 0.03)


class MLP(RegressorMixin, BaseEstimator):
    """An MLP with as many parameters as a KAN, trained like one: AdamW, cosine schedule, the same loss and batches."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def fit(self, x: np.ndarray, y: np.ndarray) -> MLP:
        torch.manual_seed(0)
        self.mean_, self.scale_ = y.mean(), y.std()
        model = equal_mlp(KAN([8, 10, 1], grid=3, device="meta"), 8, 1)
        pair = _tensors(x, (y - self.mean_) / self.scale_)
        loss, score = nn.L1Loss(), lambda output, label: -(output - label).abs().mean().item()
        runs = train_in_turns({"MLP": model}, pair, pair, loss, score, epochs=EPOCHS, batch=BATCH, lr=self.rate)
        self.model_ = runs["MLP"].model
        return self

    @torch.no_grad()
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.model_(_tensors(x)[0])[:, 0].double().numpy() * self.scale_ + self.mean_


def _tensors(x: np.ndarray, *y: np.ndarray) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(a.reshape(len(x), -1)).float() for a in (x, *y))


def contenders(samples: int) -> dict[str, Callable[[], BaseEstimator]]:
    """Name to what makes an estimator, for this number of training samples."""
    steps = EPOCHS * -(-samples // BATCH)
    small = dict(hidden=(10,), grid=3, learning_rate=0.1, weight_decay=0, steps=steps, random_state=0)
    return {
        "KAN [8,10,1], G=3, absolute error": lambda: KANRegressor(loss="absolute_error", **small),
        "the same without a validation split": lambda: KANRegressor(
            loss="absolute_error", validation_fraction=0, **small
        ),
        "KANRegressor() as it comes": lambda: KANRegressor(random_state=0),
        **{f"MLP of equal size, rate {rate:g}": lambda rate=rate: MLP(rate) for rate in MLP_RATES},
        "HistGradientBoostingRegressor()": lambda: HistGradientBoostingRegressor(random_state=0),
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.california", description=__doc__)
    parser.add_argument("--data", metavar="DIR", help="scikit-learn's data folder (default: its own)")
    parser.add_argument("--download", action="store_true", help="download the data if they are not there")
    options = parser.parse_args()
    try:
        x, y = fetch_california_housing(data_home=options.data, download_if_missing=options.download, return_X_y=True)
    except OSError as error:
        parser.error(f"{error}; give its folder with --data, or --download")
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, random_state=0)
    scaler = StandardScaler().fit(x)
    x, x_test = scaler.transform(x), scaler.transform(x_test)
    print("| model | test MAE | test R2 | seconds |\n|---|---|---|---|")
    for name, make in contenders(len(x)).items():
        start = time.perf_counter()
        predicted = make().fit(x, y).predict(x_test)
        seconds = time.perf_counter() - start
        scores = mean_absolute_error(y_test, predicted), r2_score(y_test, predicted)
        print(f"| {name} | {scores[0]:.3f} | {scores[1]:.3f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
