"""Kinds of files that the package writes: how a good one is made, and what has to be right of one that loads."""

from __future__ import annotations

import random
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kan_fast import KAN, KANLinear
from kan_fast._support import files
from kan_fast.convert import from_efficient_kan, from_pykan
from tests.fuzz.damage import damaged_bytes, damaged_data, damaged_tensor

GOLDEN = Path(__file__).parents[1] / "golden"
X = torch.linspace(-1, 1, 40).view(20, 2)


class Kind:
    """A kind of file in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "file"
        self.make()
        self.good = self.path.read_bytes()
        self.data = torch.load(self.path, weights_only=True)
        self.expected = self.use()

    def make(self) -> None:
        """Write a good file."""
        raise NotImplementedError

    def use(self) -> Any:
        """Load the file, check what came, and give what can be compared."""
        raise NotImplementedError

    def of_bytes(self, chance: random.Random) -> str:
        """Damage bytes; how that ended."""
        self.path.write_bytes(damaged_bytes(self.good, chance))
        result = self.outcome(ValueError, str(self.path))
        if isinstance(result, str):
            return result
        assert repr(result) == repr(self.expected), "loads as something else"
        return "right"

    def of_data(self, chance: random.Random) -> str:
        """Damage values; how that ended."""
        try:
            torch.save(damaged_data(self.data, chance), self.path)
        except (RuntimeError, UnicodeError, NotImplementedError):  # of torch: it can't be written
            return "not written"
        result = self.outcome(ValueError, str(self.path))
        return result if isinstance(result, str) else "right"

    def outcome(self, allowed: type[Exception] | tuple[type[Exception], ...], named: str = "") -> Any:
        """What comes, or the name of the error that was raised instead."""
        try:
            return self.use()
        except allowed as error:
            if named not in str(error):
                raise AssertionError(f"the error does not name the file: {error}") from error
            return type(error).__name__


def check_network(model: KAN, path: Path) -> list[Any]:
    """It computes, and comes back as it is."""
    y = model(torch.zeros(4, model.width_in[0], dtype=model.layers[0].spline_weight.dtype))
    assert y.shape == (4, model.width_in[-1])
    for layer in model.layers:
        assert layer.grid.isfinite().all() and (layer.grid.diff(dim=1) > 0).all()
    model.save(path)
    again = KAN.load(path)
    assert repr(again.state_dict()) == repr(model.state_dict())
    return [repr(model), [tensor.tolist() for tensor in model.state_dict().values()]]


class Network(Kind):
    """`save` and `load`."""

    def make(self) -> None:
        model = KAN([2, [2, 1], 1], grid=3, k=2, mult_arity=2, seed=0, extrapolation="linear")
        model.layers[0].base_weight.requires_grad_(False)
        model.layers[0].fix_many([(0, 0), (1, 1)], ["sin", "x^3"])
        model.layers[1].mask = torch.tensor([[True, False, True]])
        model.layers[1].refine_(4)
        model.save(self.path)

    def use(self) -> Any:
        return check_network(KAN.load(self.path), self.path.with_name("again"))


class Format1(Network):
    """Files of the first version."""

    def make(self) -> None:
        self.path.write_bytes((GOLDEN / "network_0.1.pt").read_bytes())


class Checkpoint(Kind):
    """Checkpoints of `fit`."""

    @property
    def options(self) -> dict[str, Any]:
        return {"opt": "Adam", "scheduler": lambda o: torch.optim.lr_scheduler.StepLR(o, 2)}

    def fit(self, steps: int) -> tuple[KAN, Any]:
        model = KAN([2, 2, 1], grid=3, k=2, seed=0)
        model.layers[0].fix(0, 0, "sin")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # training may diverge
            options = {"update_grid": False, "progress": False, "patience": 50, **self.options}
            return model, model.fit((X, X[:, :1] ** 2), steps=steps, checkpoint=self.path, **options)

    def make(self) -> None:
        self.fit(3)

    def use(self) -> Any:
        model, history = self.fit(4)
        return [history, check_network(model, self.path.with_name("again"))]


class CheckpointLBFGS(Checkpoint):
    """With the memory of our LBFGS."""

    @property
    def options(self) -> dict[str, Any]:
        return {"opt": "LBFGS", "grids": [3, 4]}


class Estimator(Kind):
    """`describe` and `rebuild` of estimators."""

    def make(self) -> None:
        from kan_fast.sklearn import KANClassifier, describe

        model = KANClassifier((2,), grid=3, steps=3, random_state=np.random.RandomState(0))
        model.fit(X.numpy(), ["abc"[n % 3] for n in range(20)])
        files.save(self.path, describe(model))

    def use(self) -> Any:
        from kan_fast.sklearn import describe, rebuild

        model = files.load(self.path, "an estimator", rebuild)
        result = model.predict_proba(X.numpy()) if hasattr(model, "classes_") else model.predict(X.numpy())
        files.save(self.path.with_name("again"), describe(model))
        return result.tolist()


class Table(Kind):
    """Models of the command line."""

    def make(self) -> None:
        import pandas as pd

        from kan_fast.cli.columns import Column
        from kan_fast.cli.table_model import TableModel
        from kan_fast.sklearn import KANRegressor

        table = pd.DataFrame({"a b": X[:, 0], "c": ["one", "two", "three", "two"] * 5})
        columns = [Column.of(table[name]) for name in table.columns]
        model = TableModel(columns, "y", KANRegressor((2,), grid=3, steps=3, random_state=0))
        x = model.features(table)
        model.estimator.fit(x, x[:, 0])
        model.estimator.symbolic_ = KAN([4, 1], seed=0)
        for column in range(4):
            model.estimator.symbolic_.layers[0].fix(0, column, "x")
        model.save(self.path)

    def use(self) -> Any:
        from kan_fast.cli.messages import Refused
        from kan_fast.cli.table_model import TableModel

        try:
            model = TableModel.load(self.path)
        except Refused as error:
            raise ValueError(str(error)) from error
        model.save(self.path.with_name("again"))
        x = np.zeros((3, len(model.names)))
        return [model.names, model.target, model.estimator.predict(x).tolist(), model.by_formula().defined(x).tolist()]


class State(Kind):
    """State dicts that are loaded into a layer: torch itself raises RuntimeError."""

    def make(self) -> None:
        layer = KANLinear(2, 2, grid_size=3)
        layer.fix(0, 1, "sin")
        files.save(self.path, dict(layer.state_dict()))

    def use(self) -> Any:
        layer = KANLinear(2, 2, grid_size=3)
        layer.load_state_dict(files.load(self.path, "a state", lambda data: data))
        assert layer.grid.isfinite().all() and (layer.grid.diff(dim=1) > 0).all()
        layer(X)
        return [tensor.tolist() for tensor in layer.state_dict().values()]

    def outcome(self, allowed: Any, named: str = "") -> Any:
        return super().outcome((RuntimeError, ValueError))

    def of_data(self, chance: random.Random) -> str:
        """Tensors alone: torch takes a dict of tensors."""
        data = {name: damaged_tensor(t, chance) if chance.random() < 0.3 else t for name, t in self.data.items()}
        try:
            torch.save(data, self.path)
        except (RuntimeError, NotImplementedError):
            return "not written"
        result = self.outcome(())
        return result if isinstance(result, str) else "right"


class Foreign(Kind):
    """Networks of pykan and efficient-kan, whose attributes are damaged."""

    def make(self) -> None:
        pykan = torch.load(GOLDEN / "pykan.pt", weights_only=True)["functions"]
        layer = KANLinear(2, 2)
        theirs = {name: getattr(layer, name).detach() for name in ("grid", "base_weight", "spline_weight")}
        files.save(self.path, {"pykan": pykan, "efficient": {**theirs, "spline_order": 3, "grid_eps": 0.02}})

    def use(self) -> Any:
        data = files.load(self.path, "a network", lambda data: data)
        if not isinstance(data, dict) or not all(isinstance(data.get(name), dict) for name in ("pykan", "efficient")):
            raise ValueError(f"{self.path} holds something else")
        return [repr(self.convert(self.pykan, data["pykan"])), repr(self.convert(self.efficient, data["efficient"]))]

    def convert(self, build: Callable[[dict[str, Any]], Any], data: dict[str, Any]) -> Any:
        try:
            return build(data)
        except (TypeError, ValueError) as error:
            return ValueError(str(error))

    def pykan(self, data: dict[str, Any]) -> Any:
        model = types.SimpleNamespace(**{str(key): value for key, value in data.items()})
        if isinstance(data.get("affine"), list | tuple) and len(data["affine"]) == 4:
            model.node_scale, model.node_bias, model.subnode_scale, model.subnode_bias = data["affine"]
        for name, source, more in (
            ("act_fun", "layers", {"base_fun": nn.SiLU(), "grid_eps": 0.02}),
            ("symbolic_fun", "symbolic", {}),
        ):
            if isinstance(data.get(source), list) and all(isinstance(one, dict) for one in data[source]):
                layers = [
                    types.SimpleNamespace(**{**more, **{str(k): v for k, v in one.items()}}) for one in data[source]
                ]
                setattr(model, name, layers)
        network = from_pykan(model)
        network(torch.zeros(2, network.width_in[0], dtype=network.layers[0].spline_weight.dtype))
        return network

    def efficient(self, data: dict[str, Any]) -> Any:
        module = nn.Module()
        for name, value in {"base_activation": nn.SiLU(), **data}.items():
            object.__setattr__(module, str(name), value)
        layer = from_efficient_kan(module)
        layer(torch.zeros(2, layer.in_features, dtype=layer.spline_weight.dtype))
        return layer


KINDS: dict[str, type[Kind]] = {
    "network": Network,
    "format1": Format1,
    "checkpoint": Checkpoint,
    "lbfgs": CheckpointLBFGS,
    "estimator": Estimator,
    "table": Table,
    "state": State,
    "foreign": Foreign,
}
