"""Files of things with generated options, which a fresh process loads: they have to answer with the same bits.

    python -m tests.fuzz.good_files FOLDER [INSTRUCTION_SET]

compares what the files of a folder hold with the answers beside them, computed by kernels of the same instruction set.
"""

from __future__ import annotations

import contextlib
import pickle
import random
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import kan_fast
from kan_fast import pykan
from kan_fast._support import files
from kan_fast.ops import native

Model = Any
FUNCTIONS = ("sin", "x^2", "exp", "tanh", "gaussian", "x", "abs")
X = torch.linspace(-2, 2, 120, dtype=torch.float64).view(20, 6)  # columns of samples, as many as are needed


def whole(chance: random.Random, value: int) -> Any:
    """A whole number in one of the types that count as such."""
    return chance.choice([int, np.int64, np.int32, np.uint8, np.array, torch.tensor])(value)


def number(chance: random.Random, value: float) -> Any:
    """A number in one of the types that count as such, rounded to 16 bits, which they all hold."""
    value = float(np.float16(value))
    return chance.choice([float, np.float64, np.float32, np.float16, np.array, torch.tensor])(value)


def truth(chance: random.Random) -> Any:
    """True or False, of Python or numpy."""
    return chance.choice([bool, np.bool_])(chance.random() < 0.7)


def text(chance: random.Random, *values: str) -> Any:
    """One of these texts, of Python or numpy."""
    return chance.choice([str, np.str_])(chance.choice(values))


def interval(chance: random.Random) -> Any:
    """Ends of a grid."""
    start, end = number(chance, chance.uniform(-3, -0.5)), number(chance, chance.uniform(0.5, 3))
    return chance.choice([tuple, list, lambda pair: np.array([float(one) for one in pair], np.float32)])([start, end])


def width(chance: random.Random) -> list[Any]:
    """Sizes of levels, some with products."""

    def level() -> Any:
        sums = chance.randint(1, 3)
        if chance.random() < 0.7:
            return whole(chance, sums)
        return chance.choice([tuple, list])([whole(chance, sums), whole(chance, chance.randint(1, 2))])

    return [whole(chance, chance.randint(1, 4)), *(level() for _ in range(chance.randint(1, 3)))]


def network(chance: random.Random, cls: type[kan_fast.KAN] = kan_fast.KAN) -> kan_fast.KAN:
    """A network with options of all kinds, whose layers differ."""
    sizes = width(chance)
    ranges: Any = interval(chance)
    if chance.random() < 0.3:
        ranges = [interval(chance) for _ in range(int(sizes[0]))]
    model = cls(
        sizes,
        whole(chance, chance.randint(1, 6)),
        whole(chance, chance.randint(0, 5)),
        mult_arity=whole(chance, chance.randint(2, 3)),
        seed=whole(chance, chance.randint(0, 99)),
        bias=truth(chance),
        base=text(chance, "silu", "identity", "zero"),
        extrapolation=text(chance, "zero", "linear", "clamp"),
        grid_range=ranges,
        grid_eps=number(chance, chance.random()),
        noise_scale=chance.choice([None, number(chance, 0.5)]),
        dtype=chance.choice([None, torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    )
    if chance.random() < 0.3:
        model.to(chance.choice([torch.float64, torch.float32, torch.bfloat16]))
    for layer in model.layers:
        change(layer, chance)
    if chance.random() < 0.2 and model.layers[0].has_splines() and model(inputs(model)).isfinite().all():
        model.update_grid(inputs(model))
    if chance.random() < 0.2 and model.width_in[0] > 1:
        keep = chance.sample(range(model.width_in[0]), model.width_in[0] - 1)
        model = model.prune_input(active_inputs=[whole(chance, one) for one in keep], x=inputs(model))
    return model


def change(layer: kan_fast.KANLinear, chance: random.Random) -> None:
    """Make a layer differ from the others of its network."""
    edges = [(o, i) for o in range(layer.out_features) for i in range(layer.in_features)]
    for output, input_ in chance.sample(edges, chance.randint(0, len(edges))) if chance.random() < 0.4 else []:
        affine = [number(chance, chance.uniform(-2, 2)) for _ in range(4)]
        layer.fix(whole(chance, output), whole(chance, input_), text(chance, *FUNCTIONS), affine)
    if chance.random() < 0.3:
        layer.mask = torch.tensor([chance.random() < 0.8 for _ in edges]).view(layer.out_features, -1)
    if chance.random() < 0.3:
        layer.refine_(whole(chance, layer.grid_size * 2))
    if chance.random() < 0.3:
        layer.extrapolation = text(chance, "zero", "linear", "clamp")
    if chance.random() < 0.3:
        layer.grid_eps = number(chance, chance.random())
    if chance.random() < 0.3:
        layer.grid_range = interval(chance)
    if chance.random() < 0.2:
        layer.bias = None
    for parameter in layer.parameters():
        parameter.requires_grad_(chance.random() < 0.8)


def inputs(model: kan_fast.KAN) -> Tensor:
    """Samples for a network."""
    return X[:, : model.width_in[0]].to(model.layers[0].spline_weight.dtype)


def answer_of_network(model: kan_fast.KAN) -> list[Any]:
    """All that has to come back."""
    layers = [
        [layer.grid_size, layer.spline_order, str(layer.base), str(layer.extrapolation), float(layer.grid_eps)]
        + np.array(layer.grid_range, dtype=float).tolist()
        for layer in model.layers
    ]
    return [
        model(inputs(model)).detach(),
        [tensor.clone() for tensor in model.state_dict().values()],
        [parameter.requires_grad for parameter in model.parameters()],
        [model.width, model.mult_arity, list(model.input_id), repr(layers)],
    ]


def estimator(chance: random.Random) -> Any:
    """A fitted estimator; its classes are texts, numbers or truth values."""
    from kan_fast.sklearn import KANClassifier, KANRegressor

    options = {
        "hidden": chance.choice([(), (whole(chance, 2),), [np.int64(2), 2], np.array([3]), ((1, 1),)]),
        "grid": whole(chance, chance.randint(1, 5)),
        "k": whole(chance, chance.randint(0, 5)),
        "opt": text(chance, "Adam", "LBFGS"),
        "steps": whole(chance, 3),
        "lamb": number(chance, chance.choice([0.0, 0.1])),
        "validation_fraction": number(chance, 0.25),
        "patience": chance.choice([None, whole(chance, 2)]),
        "dtype": chance.choice([None, text(chance, "float32", "float64")]),
        "random_state": chance.choice([7, np.int64(7), np.random.RandomState(3)]),
        "verbose": np.False_,
    }
    if options["opt"] == "Adam":
        options |= {"learning_rate": number(chance, 0.01), "weight_decay": chance.choice([None, number(chance, 0.1)])}
        options |= {"batch_size": chance.choice([None, whole(chance, 8)])}
    x: Any = X[:, :3].numpy().astype(chance.choice([np.float64, np.float32]))
    if chance.random() < 0.3:
        import pandas as pd

        x = pd.DataFrame(x, columns=chance.choice([["a", "b", "c"], [np.str_("a"), "b c", "ü"]]))
    if chance.random() < 0.4:
        y = X[:, 0].numpy() if chance.random() < 0.5 else X[:, :2].numpy() ** 2
        return KANRegressor(**options).fit(x, y.astype(chance.choice([np.float64, np.float32])))
    return KANClassifier(**options).fit(x, labels(chance, len(x)))


def labels(chance: random.Random, count: int) -> Any:
    """Labels of two or more classes, of one of the kinds that scikit-learn takes."""
    kinds: Sequence[Any] = chance.choice(
        [
            np.array(["no", "yes"]),
            np.array(["größe", "b", ""], dtype=object),
            np.array([np.str_("p"), np.str_("q")], dtype=object),
            np.array([False, True]),
            np.array([3, 1, 2], dtype=np.int8),
            np.array([2**40, 0]),
            np.array([0.0, 1.0], dtype=np.float32),
            np.array([255, 7], dtype=np.uint8),
            ["list", "of", "texts"],
        ]
    )
    chosen = [kinds[n % len(kinds)] for n in range(count)]
    return chosen if isinstance(kinds, list) else np.array(chosen, dtype=kinds.dtype)


def plain(values: np.ndarray) -> list[Any]:
    """The values, texts of numpy as those of Python."""
    return [str(value) if isinstance(value, str) else value for value in values.tolist()]


def answer_of_estimator(model: Any) -> list[Any]:
    """All that has to come back."""
    x: Any = X[:, :3].numpy()
    if hasattr(model, "feature_names_in_"):
        import pandas as pd

        x = pd.DataFrame(x, columns=list(model.feature_names_in_))
    found = [plain(model.predict(x)), model.feature_importances_, model.x_mean_]
    if hasattr(model, "classes_"):
        found += [model.predict_proba(x), plain(model.classes_)]
    names = getattr(model, "feature_names_in_", None)
    return [*found, None if names is None else [str(name) for name in names]]


def table(chance: random.Random) -> Any:
    """A model of the command line."""
    import pandas as pd

    from kan_fast.cli.columns import Column
    from kan_fast.cli.table_model import TableModel
    from kan_fast.sklearn import KANClassifier, KANRegressor

    columns = {
        "number": X[:, 0].numpy(),
        np.str_("few ü"): np.array([1, 2] * 10, dtype=np.int8),
        7: [True, False] * 10,
        "words": pd.Series(["b", "a", None, "ü"] * 5),
        "gaps": pd.array([1, None, 3, 4] * 5, dtype="Int64"),
        "kinds": pd.Categorical(["x", "y"] * 10),
        "narrow": X[:, 1].numpy().astype(np.float32),
    }
    names = chance.sample(list(columns), chance.randint(1, len(columns)))
    data = pd.DataFrame({str(name): columns[name] for name in names})
    target = chance.choice(["y", np.str_("größe")])
    made = [Column.of(data[name]) for name in data.columns]
    options = {"hidden": (whole(chance, 2),), "grid": whole(chance, 3), "steps": 2, "random_state": np.int64(0)}
    model = TableModel(made, target, chance.choice([KANRegressor, KANClassifier])(**options))
    x = model.features(data)
    y = X[:, 2].numpy() if isinstance(model.estimator, KANRegressor) else np.array(["b", "a"] * 10)
    model.estimator.fit(x, y)
    if chance.random() < 0.5:
        model.estimator.symbolic_ = kan_fast.KAN([x.shape[1], 1], seed=0)
        model.estimator.symbolic_.layers[0].fix_many([(0, i) for i in range(x.shape[1])], ["sin"] * x.shape[1])
    return model


def answer_of_table(model: Any) -> list[Any]:
    """All that has to come back."""
    x = X[:, : len(model.names)].numpy() if len(model.names) <= X.shape[1] else np.ones((4, len(model.names)))
    parts = [model.estimator.predict(x).tolist(), repr(model.columns), str(model.target), model.classes, model.names]
    return [*parts, model.by_formula().estimator.model_(torch.from_numpy(x).float()) if model.has_formula else None]


class Crash(Exception):
    """Ends a fit."""


def checkpointed(name: str, path: Path, end: int | None = None) -> list[Any]:
    """A fit that writes checkpoints, or goes on from one; it ends after `end` steps as by a crash."""
    chance = random.Random(name)
    model = kan_fast.KAN([2, 2, 1], whole(chance, 3), 2, seed=0, dtype=chance.choice([None, torch.float64]))
    for layer in model.layers:
        change(layer, chance)
    model.layers[-1].spline_weight.requires_grad_(True)

    def crash(step: int, entry: Any) -> None:
        if step == end:
            raise Crash

    options = {
        "opt": text(chance, "Adam", "LBFGS"),
        "lr": number(chance, 0.01),
        "lamb": number(chance, 0.01),
        "lamb_entropy": whole(chance, 2),
        "batch": chance.choice([-1, np.int64(8)]),
        "grids": chance.choice([None, [whole(chance, 3), whole(chance, 6)], np.array([4])]),
        "update_grid": truth(chance),
        "save_every": whole(chance, 2),
        "patience": chance.choice([None, whole(chance, 50)]),
        "seed": whole(chance, 5),
        "metrics": [lambda: np.float32(0.5), lambda: torch.tensor(2)][: chance.randint(0, 1)],
    }
    if options["opt"] == "Adam":
        options["clip"] = chance.choice([None, number(chance, 1.0)])
        options["scheduler"] = chance.choice([None, lambda o: torch.optim.lr_scheduler.StepLR(o, 2)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # samples may lie outside of grids that stay
        warnings.simplefilter("ignore", RuntimeWarning)  # training may diverge
        with contextlib.suppress(Crash):
            data = X[:, :2], X[:, 2:3]
            history = model.fit(data, steps=4, checkpoint=path, progress=False, callbacks=crash, **options)
            return [history, answer_of_network(model)]
    return []


class Kind(NamedTuple):
    """How a thing is made, written, read, and what it answers."""

    make: Callable[[random.Random], Model]
    save: Callable[[Model, Path], Any]
    load: Callable[[Path], Model]
    answer: Callable[[Model], list[Any]]


def _describe(model: Any, path: Path) -> None:
    from kan_fast.sklearn import describe

    files.save(path, describe(model))


def _rebuild(path: Path) -> Any:
    from kan_fast.sklearn import rebuild

    return files.load(path, "an estimator", rebuild)


def _load_table(path: Path) -> Any:
    from kan_fast.cli.table_model import TableModel

    return TableModel.load(path)


def _pickle(model: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(model))


def _unpickle(path: Path) -> Any:
    return pickle.loads(path.read_bytes())


KINDS = {
    "network": Kind(network, kan_fast.KAN.save, kan_fast.KAN.load, answer_of_network),
    "pykan": Kind(partial(network, cls=pykan.KAN), pykan.KAN.saveckpt, pykan.KAN.loadckpt, answer_of_network),
    "module": Kind(network, _pickle, _unpickle, answer_of_network),
    "estimator": Kind(estimator, _describe, _rebuild, answer_of_estimator),
    "pickle": Kind(estimator, _pickle, _unpickle, answer_of_estimator),
    "table": Kind(table, lambda model, path: model.save(path), _load_table, answer_of_table),
}


def write(kind: str, seed: int, folder: Path) -> None:
    """Write the file of a seed, and beside it the answers that have to come back."""
    path, chance = folder / f"{kind} {seed}", random.Random(f"{kind} {seed}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # training may diverge
        if kind == "checkpoint":
            checkpointed(path.name, path, chance.randint(2, 4))
            answers = checkpointed(path.name, folder / "whole")
            (folder / "whole").unlink()
        else:
            model = KINDS[kind].make(chance)
            KINDS[kind].save(model, path)
            answers = KINDS[kind].answer(model)
    Path(f"{path}.answers").write_bytes(pickle.dumps(answers))


def differences(folder: Path) -> list[str]:
    """The files that don't load, or load as something else."""
    found = []
    for path in sorted(folder.glob("*.answers")):
        file, expected = path.with_suffix(""), pickle.loads(path.read_bytes())
        kind = file.name.split()[0]
        try:
            if kind == "checkpoint":
                answers = checkpointed(file.name, file)
            else:
                answers = KINDS[kind].answer(KINDS[kind].load(file))
        except Exception as error:
            found.append(f"{file.name}: {type(error).__name__}: {error}")
            continue
        wrong = difference(answers, expected)
        if wrong is not None:
            found.append(f"{file.name}: {wrong}")
    return found


def difference(one: Any, other: Any, place: str = "answers") -> str | None:
    """Where the first thing stands that is not the same, tensors to the bit; None if all are the same."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        one, other = torch.from_numpy(one), torch.from_numpy(other)
    if type(one) is not type(other):
        return f"{place}: {type(one).__name__} instead of {type(other).__name__}"
    if isinstance(one, Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        same = same and torch.equal(*(t.detach().flatten().clone().view(torch.uint8) for t in (one, other)))
        return None if same else f"{place}: {one.dtype} {tuple(one.shape)} {one!s:.100} instead of {other!s:.100}"
    if isinstance(one, dict):
        one, other = list(one.items()), list(other.items())
    if isinstance(one, list | tuple) and len(one) == len(other):
        found = (difference(*pair, f"{place}[{n}]") for n, pair in enumerate(zip(one, other, strict=True)))
        return next((text for text in found if text is not None), None)
    return None if repr(one) == repr(other) else f"{place}: {one!r:.200} instead of {other!r:.200}"


if __name__ == "__main__":
    with native.use_isa(sys.argv[2]) if len(sys.argv) > 2 else contextlib.nullcontext():
        wrong = differences(Path(sys.argv[1]))
    print("\n".join(wrong))
    sys.exit(bool(wrong))
