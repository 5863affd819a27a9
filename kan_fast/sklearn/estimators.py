"""scikit-learn estimators: KANs that scale their data and keep the state that is best on held-out samples."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from kan_fast._support.checks import integer, is_number, listed, no_dates, real
from kan_fast._support.samples import check_sizes
from kan_fast.model import KAN
from kan_fast.sklearn.splits import split_rows
from kan_fast.training.objective import Loss
from kan_fast.training.stopping import EarlyStopping

Array = npt.NDArray[Any]

_EPOCHS, _FEWEST_STEPS = 100, 500  # of Adam, unless the user says how many steps
_BATCH = 256
_TRIM = 0.003  # share of the samples that grids leave out at either end, since tables have outliers
_DECAY = 300  # weight decay times the number of samples: as a prior, it is worth a fixed number of samples
_MOST_DECAY = 0.1  # default for the share of a parameter that a step takes away: for few samples it would exceed 1
_LINE_SEARCH_STEPS = 30  # of LBFGS and LM
_SYMBOLIC_SAMPLES, _SYMBOLIC_STEPS = 2000, 20  # of the training of a symbolic network towards its original


class _Estimator(BaseEstimator):
    """The common part of regression and classification: standardised inputs, training, and scores of the features.

    Args:
        hidden: number of nodes in every hidden level, or in the only one; a pair counts sums and products, as in
            `kan_fast.KAN`.
        grid: number of spans of every grid.
        k: degree of the splines, 0 to 5.
        loss: the loss to minimise; None for the first that the estimator lists.
        opt: "Adam" (on batches, with a cosine schedule and decoupled weight decay); or "LBFGS" or "LM"
            (Levenberg-Marquardt; squared error alone), which see all samples in every step and suit data without noise.
        steps: number of steps; None for 100 epochs of Adam, at least 500 steps, and for 30 steps of the others.
        batch_size: samples per step of Adam; None for 256.
        learning_rate: None for 0.03 with Adam and 1 with LBFGS.
        weight_decay: of Adam, at least 0 and at most 1 / learning_rate; None for 300 / (number of samples), or
            0.1 / learning_rate if that is less.
        lamb: weight of the sparsity terms, see `KAN.fit`.
        validation_fraction: share of the samples that are held out to choose the best state, 0 (none) to below 1.
        patience: epochs of Adam, or steps of the others, without a smaller validation loss after which training ends;
            None never ends it early.
        dtype: "float32" or "float64"; None for the former with Adam and the latter with the others.
        device: device of the network, such as "cuda".
        random_state: seed of the split, the initial parameters and the batches.
        verbose: whether to show a progress bar.

    Attributes:
        model_: the trained `KAN`, which takes standardised inputs.
        x_mean_, x_scale_: mean and standard deviation of the inputs, `(n_features_in_,)`.
        feature_importances_: shares of the features in the scores of KAN 2.0 (see `KAN.attribute`).
        history_: the history that `KAN.fit` returned.
        validation_losses_: validation loss of each epoch of Adam, or step of the others.
    """

    def __init__(
        self,
        hidden: int | Sequence[int | Sequence[int]] = (16,),
        *,
        grid: int = 5,
        k: int = 3,
        loss: str | None = None,
        opt: str = "Adam",
        steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        lamb: float = 0.0,
        validation_fraction: float = 0.1,
        patience: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.hidden = hidden
        self.grid = grid
        self.k = k
        self.loss = loss
        self.opt = opt
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.lamb = lamb
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.dtype = dtype
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _fit(self, x: Array, label: Tensor, outputs: int, classes: Array | None = None) -> None:
        """Train on inputs `(n, in)` in the user's units; `classes`, a number for each sample, stratifies the split."""
        losses = self._losses()
        name = next(iter(losses)) if self.loss is None else self.loss
        if name not in losses:
            raise ValueError(f"unknown loss {self.loss!r}; allowed: {', '.join(losses)}")
        loss = losses[name]
        random = check_random_state(self.random_state)
        self.__dict__.pop("symbolic_", None)  # of another fit
        self.x_mean_, self.x_scale_ = _mean_and_scale("X", x)
        learn, held_out = self._split(len(x), classes, random)
        self.model_ = KAN(
            [x.shape[1], *([self.hidden] if is_number(self.hidden) else listed("hidden", self.hidden)), outputs],
            self.grid,
            self.k,
            seed=int(random.randint(2**31)),
            dtype=self._dtype(),
            device=self.device,
        )
        inputs = self.standardize(x)
        target = label.to(inputs.device, inputs.dtype if label.is_floating_point() else label.dtype)
        steps, epoch, options = self._schedule(len(learn))
        stopping = EarlyStopping(steps if self.patience is None else self.patience)
        self.validation_losses_: list[float] = []

        @torch.no_grad()
        def compare(step: int, entry: Mapping[str, float]) -> bool:
            if (step + 1) % epoch or not len(held_out):
                return False
            self.validation_losses_.append(loss(self.model_(inputs[held_out]), target[held_out]).item())
            return stopping.stops(self.model_, self.validation_losses_[-1])

        self.history_ = self.model_.fit(
            (inputs[learn], target[learn]),
            steps=steps,
            lamb=self.lamb,
            loss_fn=None if loss is F.mse_loss else loss,  # LM refuses any other
            callbacks=compare,
            seed=int(random.randint(2**31)),
            progress=bool(self.verbose),
            display_metrics="train_loss",
            **options,
        )
        stopping.end_stage(self.model_)
        self.feature_importances_ = self._importances(inputs[learn])

    @cached_property
    def symbolic_(self) -> KAN:
        """A `KAN` like `model_` with functions of the library as edges, made at the first access; can be set."""
        check_is_fitted(self)
        inputs = self.model_.last_inputs.x
        if inputs is None:
            raise AttributeError(
                "symbolic_ and formula_ need the samples of fit, which pickles do not keep: access one of them "
                "before pickling, or fit again"
            )
        inputs = inputs[:_SYMBOLIC_SAMPLES].double()
        with torch.no_grad():
            outputs = self.model_(inputs)
        network = copy.deepcopy(self.model_).double().prune(x=inputs)
        network.auto_symbolic(x=inputs)
        network.fit((inputs, outputs), opt="LM", steps=_SYMBOLIC_STEPS, progress=False)
        return network

    @property
    def formula_(self) -> Any:
        """The function of `symbolic_` in the units and names of X and y, in sympy; a list for several outputs."""
        names = getattr(self, "feature_names_in_", None)
        formulas, _ = self.symbolic_formula(None if names is None else list(names))
        return formulas[0] if len(formulas) == 1 else formulas

    def symbolic_formula(self, var: Sequence[Any] | None = None) -> tuple[list[Any], list[Any]]:
        """Formulas of `symbolic_` in the units of X and y, and their symbols, as `KAN.symbolic_formula` gives them.

        Args:
            var: names, symbols or expressions for the columns of X; None for x_1, x_2, ...
        """
        return self.symbolic_.symbolic_formula(
            var,
            normalizer=(self.x_mean_.tolist(), self.x_scale_.tolist()),
            output_normalizer=self._target_scales(),
        )

    def _target_scales(self) -> tuple[list[float], list[float]] | None:
        return None

    def _split(self, count: int, classes: Array | None, random: np.random.RandomState) -> tuple[Array, Array]:
        fraction = real("validation_fraction", self.validation_fraction)
        if fraction >= 1:
            raise ValueError(f"validation_fraction must be at least 0 and less than 1, got {fraction}")
        rows, held_out = np.arange(count), round(fraction * count)
        if not held_out or held_out == count:
            return rows, rows[:0]
        return split_rows(count, held_out, classes, random)

    def _schedule(self, count: int) -> tuple[int, int, dict[str, Any]]:
        """Steps, steps per epoch, and the options of `KAN.fit` that belong to the optimiser."""
        if self.opt != "Adam":
            steps = _LINE_SEARCH_STEPS if self.steps is None else integer("steps", self.steps, 1)
            if self.batch_size is not None:
                raise ValueError(f"{self.opt} sees all samples in every step; leave out batch_size, or use Adam")
            return steps, 1, {"opt": self.opt, "lr": self.learning_rate}
        batch = min(_BATCH if self.batch_size is None else integer("batch_size", self.batch_size, 1), count)
        epoch = math.ceil(count / batch)
        steps = max(_EPOCHS * epoch, _FEWEST_STEPS) if self.steps is None else integer("steps", self.steps, 1)
        rate = real("learning_rate", 0.03 if self.learning_rate is None else self.learning_rate, positive=True)
        default = min(_DECAY / count, _MOST_DECAY / rate)
        decay = real("weight_decay", default if self.weight_decay is None else self.weight_decay)
        if decay * rate > 1:
            raise ValueError(
                "weight_decay * learning_rate is the share of a parameter that a step takes away, so at most 1, got "
                f"{decay:.4g} * {rate:.4g}; take a smaller weight_decay"
            )
        adam = torch.optim.AdamW(self.model_.parameters(), rate, weight_decay=decay, fused=True)
        options = {"grid_trim": _TRIM, "opt": adam, "batch": batch, "scheduler": CosineAnnealingLR(adam, steps)}
        return steps, epoch, options

    def _dtype(self) -> torch.dtype:
        """Single precision for Adam, double for the line searches of the others."""
        dtypes = {"float32": torch.float32, "float64": torch.float64}
        name = ("float32" if self.opt == "Adam" else "float64") if self.dtype is None else self.dtype
        if name not in dtypes:
            raise ValueError(f"dtype must be one of {', '.join(dtypes)} or None, got {self.dtype!r}")
        return dtypes[name]

    def standardize(self, x: Array) -> Tensor:
        """Inputs `(n, n_features)` in the user's units as `model_` and `symbolic_` take them.

        Raises:
            ValueError: some are so far from the samples of `fit` that the dtype can't hold them.
        """
        weight = self.model_.layers[0].spline_weight
        scaled = torch.from_numpy((x - self.x_mean_) / self.x_scale_).to(weight.device, weight.dtype)
        if not scaled.isfinite().all():
            far = f"{abs(x).max():.3g}, too far from the training samples for {weight.dtype}"
            raise ValueError(f"X reaches {far}; check its units, or train with dtype='float64'")
        return scaled

    def _outputs(self, X: Any) -> Array:
        """Outputs of the network for samples in the user's units: `(n, outputs)`, float64."""
        check_is_fitted(self)
        no_dates("X", X)
        x = validate_data(self, X, reset=False, dtype=np.float64)
        with torch.no_grad():
            return self.model_(self.standardize(x)).double().cpu().numpy()

    @staticmethod
    @abstractmethod
    def _losses() -> dict[str, Loss]:
        """The values of `loss` and their functions, the default first."""

    def _importances(self, inputs: Tensor) -> Array:
        if len(inputs) < 2:
            return np.zeros(inputs.shape[1])
        scores = self.model_.attribute(x=inputs).feature.double().cpu().numpy()
        return scores / scores.sum() if scores.sum() else scores


class KANRegressor(RegressorMixin, _Estimator):
    """Regression by a KAN on standardised inputs and targets, one or several.

    The arguments are those of both estimators; `loss` is "squared_error", "absolute_error", or "huber": squared up to
    half a standard deviation of the target.

    Attributes:
        y_mean_, y_scale_: mean and standard deviation of the targets, `(outputs,)`.
    """

    def fit(self, X: Any, y: Any) -> KANRegressor:
        """Train on samples `(n, n_features)` and targets `(n,)` or `(n, outputs)`."""
        no_dates("y", y)
        no_dates("X", X)
        x, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        targets = y.reshape(len(y), -1).astype(np.float64)
        self.y_mean_, self.y_scale_ = _mean_and_scale("y", targets)
        self._single = y.ndim == 1
        self._fit(x, torch.from_numpy((targets - self.y_mean_) / self.y_scale_), targets.shape[1])
        return self

    def predict(self, X: Any) -> Array:
        """Targets `(n,)`, or `(n, outputs)` if `fit` got such."""
        y = self._outputs(X) * self.y_scale_ + self.y_mean_
        return y[:, 0] if self._single else y

    def _target_scales(self) -> tuple[list[float], list[float]]:
        return self.y_mean_.tolist(), self.y_scale_.tolist()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @staticmethod
    def _losses() -> dict[str, Loss]:
        return {
            "squared_error": F.mse_loss,
            "absolute_error": F.l1_loss,
            "huber": partial(F.huber_loss, delta=0.5),
        }


class KANClassifier(ClassifierMixin, _Estimator):
    """Classification by a KAN on standardised inputs, trained by cross-entropy.

    The arguments are those of both estimators; `loss` is "log_loss". The network has one output for two classes, the
    log-odds of the second, and an output per class for more.

    Attributes:
        classes_: labels of the classes, in ascending order.
    """

    def fit(self, X: Any, y: Any) -> KANClassifier:
        """Train on samples `(n, n_features)` and class labels `(n,)`."""
        no_dates("X", X)
        x, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        count = len(self.classes_)
        if count < 2:
            raise ValueError(f"a classifier needs at least two classes, got one class: {self.classes_[0]!r}")
        label = torch.from_numpy(numbers if count > 2 else numbers[:, None].astype(np.float64))
        self._fit(x, label, count if count > 2 else 1, numbers)
        return self

    def decision_function(self, X: Any) -> Array:
        """Log-odds `(n,)` of the second of two classes; scores `(n, classes)` of more."""
        scores = self._outputs(X)
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes `(n, classes)`."""
        scores = torch.from_numpy(self.decision_function(X))
        if scores.ndim == 1:
            return torch.stack([torch.sigmoid(-scores), torch.sigmoid(scores)], 1).numpy()
        return scores.softmax(1).numpy()

    def predict(self, X: Any) -> Array:
        """Labels of the most probable classes `(n,)`."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)]

    @staticmethod
    def _losses() -> dict[str, Loss]:
        return {"log_loss": _cross_entropy}


def _cross_entropy(output: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of log-odds `(n, 1)` and labels 0 or 1, or of scores `(n, classes)` and numbers of classes."""
    return (F.binary_cross_entropy_with_logits if output.shape[1] == 1 else F.cross_entropy)(output, label)


def _mean_and_scale(name: str, values: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of the columns; the latter 1 for a column that is constant but for rounding.

    Raises:
        ValueError: numbers are so large or small that their squares don't fit into float64.
    """
    check_sizes(name, torch.tensor(values))
    scaler = StandardScaler().fit(values)
    return scaler.mean_, scaler.scale_
