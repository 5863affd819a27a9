"""Training and test data, checked and cast: dicts, pairs of tensors and DataLoaders become sources of batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from kan_fast._support.checks import described, integer, tensor
from kan_fast._support.samples import ENOUGH, evenly

Pair = tuple[Tensor, Tensor]
Dataset = Mapping[str, Any] | tuple[Any, Any] | DataLoader
KEYS = ("train_input", "train_label", "test_input", "test_label")


class Source(Protocol):
    """An endless supply of checked batches."""

    def batch(self) -> Pair:
        """The next batch, `(n, in)` and its labels."""
        ...

    def samples(self) -> Tensor:
        """Inputs `(n, in)` that represent all the data: for grids, attribution and pruning."""
        ...

    def labels(self) -> Tensor:
        """The labels of `samples()`."""
        ...


class Check:
    """Casts a batch to the dtype and device of a parameter and refuses data that can't be trained on.

    Args:
        in_features: columns that inputs must have.
        out_features: columns of the output. Labels must have its shape, unless `own_loss`: a loss would broadcast
            others silently. A vector `(n,)` for one output becomes the column `(n, 1)`, unless `own_loss`.
        like: tensor whose dtype and device the data get.
        own_loss: whether labels go to a loss of the user's, which may take other shapes than that of the output: class
            numbers `(n,)`, one column for several outputs, several columns for one output. Integers of such shapes
            stay integers; those of the shape of the output are numbers like any others.
    """

    def __init__(self, in_features: int, out_features: int, like: Tensor, *, own_loss: bool) -> None:
        self.in_features, self.out_features, self.like, self.own_loss = in_features, out_features, like, own_loss

    def __call__(self, x: Any, y: Any, names: tuple[str, str]) -> Pair:
        """Return `(x, y)` ready for the network; `names` are theirs in messages.

        Raises:
            TypeError: not numeric, or inputs that are not floating point.
            ValueError: empty, wrong shape, different lengths, NaN or infinity, also after the cast.
        """
        input_name, label_name = names
        x, y = tensor(input_name, x), tensor(label_name, y)
        if y.is_complex():
            raise TypeError(f"{label_name} must be real, got {y.dtype}; give real and imaginary part as two columns")
        if not x.is_floating_point():
            raise TypeError(f"{input_name} must be floating point, got {x.dtype}; convert it with .float()")
        if x.dim() != 2 or x.shape[1] != self.in_features:
            hint = "; a single column is x[:, None]" if x.dim() < 2 and self.in_features == 1 else ""
            raise ValueError(
                f"{input_name} must have the shape (samples, {self.in_features}), one column for each input of the "
                f"network, got {tuple(x.shape)}{hint}"
            )
        if not len(x):
            raise ValueError(f"{input_name} is empty, shape {tuple(x.shape)}; at least one sample is needed")
        if y.dim() == 0 or len(y) != len(x):
            raise ValueError(f"{label_name} must have a row per sample: {len(x)} samples, labels {tuple(y.shape)}")
        if y.dim() == self.out_features == 1 and not self.own_loss:
            y = y[:, None]
        return (
            _cast(x, self.like.device, self.like.dtype, input_name),
            _cast(y, self.like.device, self._label_dtype(y, label_name), label_name),
        )

    def _label_dtype(self, y: Tensor, name: str) -> torch.dtype:
        """The dtype in which a loss takes labels; refuses shapes that a loss would broadcast along the samples."""
        if y.shape == (len(y), self.out_features):
            return self.like.dtype
        integers = not y.is_floating_point()
        if y.dim() == 1:
            separate = integers and self.out_features > 1  # class numbers
        else:  # (n, a, b) would be broadcast against (n, out) where a is 1 or n
            separate = y.dim() == 2 or y.shape[-2] not in (1, len(y))
        if self.own_loss and separate:
            return torch.long if integers else self.like.dtype
        hint = ""
        if y.dim() == self.out_features == 1:
            hint = f"; reshape them with {name}[:, None]"
            if self.own_loss and not y.is_floating_point():
                hint += ", or for a cross-entropy give the network an output for each class"
        elif y.dim() == 1 and self.own_loss:
            hint = f"; class numbers are integers: {name}.long()"
        raise ValueError(
            f"{name} must have the shape ({len(y)}, {self.out_features}) of the output of the network, got "
            f"{tuple(y.shape)}{hint}"
        )


class TensorSource:
    """Batches from tensors in memory: all of them, or parts of one size that walk through permutations, end to end.

    A batch at the end of a permutation is filled up from the next one, so every sample comes equally often.

    Args:
        pair: inputs and labels, checked.
        size: samples per batch, -1 for all.
        generator: where the permutations come from; None for torch's global generator.
    """

    def __init__(self, pair: Pair, size: int, generator: torch.Generator | None) -> None:
        self._pair = pair
        self._size = len(pair[0]) if size == -1 else min(size, len(pair[0]))
        self._generator = generator
        self._order = torch.empty(0, dtype=torch.long)

    def batch(self) -> Pair:
        x, y = self._pair
        if self._size == len(x):
            return x, y
        if len(self._order) < self._size:
            self._order = torch.cat([self._order, torch.randperm(len(x), generator=self._generator)])
        rows, self._order = self._order.split([self._size, len(self._order) - self._size])
        rows = rows.to(x.device)
        return x[rows], y[rows]

    def samples(self) -> Tensor:
        return self._pair[0]

    def labels(self) -> Tensor:
        return self._pair[1]


class LoaderSource:
    """Batches of a DataLoader, which is started again after its last batch; each batch is checked."""

    def __init__(self, loader: DataLoader, check: Check, kind: str) -> None:
        self._loader, self._check, self._kind = loader, check, kind
        self._pass = self._one_pass()
        self._ahead = deque([self._next()])
        self._some: Pair | None = None

    def batch(self) -> Pair:
        return self._ahead.popleft() if self._ahead else self._next()

    def samples(self) -> Tensor:
        """Up to `ENOUGH` inputs: of the first batches, or spread over the data where these come in their own order."""
        return self._represent()[0]

    def labels(self) -> Tensor:
        return self._represent()[1]

    def _represent(self) -> Pair:
        if self._some is None:
            ordered = self._loader.batch_size is not None and isinstance(self._loader.sampler, SequentialSampler)
            self._some = self._spread() if ordered else self._read_ahead()
        return self._some

    def _spread(self) -> Pair:
        data = self._loader.dataset
        rows = evenly(len(self._loader.sampler), ENOUGH).tolist()  # type: ignore[arg-type]  # a SequentialSampler
        return self._pair(self._loader.collate_fn([data[row] for row in rows]))

    def _read_ahead(self) -> Pair:
        """Samples of the next batches, at most those of one pass; the batches stay for training."""
        parts = list(self._ahead)
        while sum(len(x) for x, _ in parts) < ENOUGH:
            pair = next(self._pass, None)
            if pair is None:  # the next pass has the same samples
                break
            self._ahead.append(pair)
            parts.append(pair)
        x, y = (torch.cat(several)[:ENOUGH] for several in zip(*parts, strict=True))
        return x, y

    def _next(self) -> Pair:
        """The next batch of this pass, or the first one of another."""
        for _ in range(2):
            pair = next(self._pass, None)
            if pair is not None:
                return pair
            self._pass = self._one_pass()
        raise ValueError(
            f"the {self._kind} DataLoader yields no batches: its dataset is empty, or a stream that can't begin again"
        )

    def _one_pass(self) -> Iterator[Pair]:
        return (self._pair(item) for item in self._loader)

    def _pair(self, item: Any) -> Pair:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise TypeError(f"the {self._kind} DataLoader must yield (input, label) pairs, got {described(item)}")
        x, y = item
        return self._check(x, y, _names(self._kind))


def sources(
    dataset: Dataset, val: Dataset | None, batch: int, generator: torch.Generator | None, check: Check
) -> tuple[Source, Source | None]:
    """The sources of training and of test batches; the latter None without test data.

    Args:
        dataset: a dict with the keys train_input, train_label, test_input and test_label; or `(x, y)`; or a DataLoader
            that yields such pairs.
        val: test data beside a dataset that is a pair or a DataLoader; in one of these two forms.
        batch: samples per batch of tensors, -1 for all. A DataLoader has its own.
        generator: where random batches come from; None for torch's global generator.
        check: applied to everything.

    Raises:
        TypeError, ValueError: the data have another form, or fail the check; the message says what to do.
    """
    if integer("batch", batch) < 1 and batch != -1:
        raise ValueError(f"batch must be -1 (all samples) or at least 1, got {batch}")
    if isinstance(dataset, Mapping):
        missing = [key for key in KEYS if key not in dataset]
        if missing:
            raise ValueError(
                f"the dataset lacks {', '.join(missing)}; a dict needs {', '.join(KEYS)} "
                f"(it has {', '.join(map(str, dataset)) or 'no keys'}). Without test data, give (x, y) instead"
            )
        if val is not None:
            raise ValueError("the dataset is a dict and holds its own test data; leave out val, or give (x, y) and val")
        inputs, labels, test_inputs, test_labels = (dataset[key] for key in KEYS)
        dataset, val = (inputs, labels), (test_inputs, test_labels)

    def source(data: Any, kind: str) -> Source:
        if isinstance(data, DataLoader):
            return LoaderSource(data, check, kind)
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise TypeError(
                f"{kind} data must be a pair (x, y) or a DataLoader"
                f"{', or a dict with train and test data' if kind == 'train' else ''}, got {described(data)}"
            )
        x, y = data
        return TensorSource(check(x, y, _names(kind)), batch, generator)

    if batch != -1 and isinstance(dataset, DataLoader):
        raise ValueError(f"batch={batch} has no effect on a DataLoader; set its batch_size")
    if generator is not None and isinstance(dataset, DataLoader):
        raise ValueError("seed has no effect on a DataLoader; give it a generator: torch.Generator().manual_seed(seed)")
    return source(dataset, "train"), None if val is None else source(val, "test")


def _names(kind: str) -> tuple[str, str]:
    """Of inputs and labels for "train" or "test", as in a dict."""
    return f"{kind}_input", f"{kind}_label"


def _cast(data: Tensor, device: torch.device, dtype: torch.dtype, name: str) -> Tensor:
    result = data.to(device, dtype)
    finite = result.isfinite()
    if finite.all():
        return result
    if data.isfinite().all():
        raise ValueError(
            f"{name} reaches {data.abs().max().item():.3g}, beyond {torch.finfo(dtype).max:.3g}, the end of {dtype}, "
            "which the network has; scale the data or give the network a wider dtype"
        )
    rows = (~finite).flatten(1).any(1) if data.dim() > 1 else ~finite
    raise ValueError(
        f"{name} holds NaN or infinite values in {int(rows.sum())} of {len(rows)} rows, the first of them row "
        f"{int(rows.nonzero()[0])}; remove or replace them"
    )
