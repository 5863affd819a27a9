"""`KAN.formula_report`: the errors of formulas and network on held-out data, and the cost of each function."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kan_fast._support.checks import tensor
from kan_fast._support.text_table import table
from kan_fast.analysis.edges import edge_values
from kan_fast.nn import recording
from kan_fast.nn.edges import Edge
from kan_fast.nn.linear import KANLinear
from kan_fast.nn.network import Network
from kan_fast.symbolic.formula import scales, spline_edges, symbolic_formula

if TYPE_CHECKING:
    import sympy

_SHOWN = 10  # edges that are printed


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of the predictions of an output, over the samples where the prediction is finite.

    Attributes:
        rmse: root of the mean squared error; NaN if no prediction is finite.
        r2: coefficient of determination, at most 1; NaN if the labels are constant.
        broken: number of samples where the prediction is NaN or infinite.
    """

    rmse: float
    r2: float
    broken: int


@dataclass(frozen=True)
class Output:
    """An output of the network, with its formula unless some edge is a spline."""

    model: Accuracy
    formula: Accuracy | None = None
    expression: sympy.Expr | None = None

    @property
    def complexity(self) -> int | None:
        """Number of operations in the formula."""
        return None if self.expression is None else int(self.expression.count_ops())


@dataclass(frozen=True)
class FixedEdge:
    """A symbolic edge, and by how much fixing it changed the error.

    Attributes:
        edge: place of the edge.
        function: name of its function in the library.
        cost: RMSE of the network (over all outputs) minus the RMSE with this edge as the spline that it was before it
            was fixed; the other edges stay as they are.
        broken: number of samples for which the input of the edge is finite and its value is not.
    """

    edge: Edge
    function: str
    cost: float
    broken: int


@dataclass(frozen=True)
class FormulaReport:
    """Accuracy of formulas and of their network, as a table to be printed.

    Attributes:
        samples: number of samples.
        outputs: one entry for each output.
        edges: symbolic edges, those that cost most first.
        splines: edges that are splines.
    """

    samples: int
    outputs: list[Output]
    edges: list[FixedEdge]
    splines: list[Edge]

    def __str__(self) -> str:
        return "\n".join([*self._outputs(), *self._edges(), *self._warnings()])

    def _outputs(self) -> list[str]:
        head = ["output", "formula RMSE", "R2", "model RMSE", "R2", "complexity"]
        rows = [
            [str(k), *_cells(o.formula), *_cells(o.model), "-" if o.complexity is None else str(o.complexity)]
            for k, o in enumerate(self.outputs)
        ]
        formulas = [f"  y_{k} = {_text(o.expression)}" for k, o in enumerate(self.outputs) if o.expression is not None]
        return [f"{self.samples} samples", *_indented([head, *rows]), *formulas]

    def _edges(self) -> list[str]:
        if not self.edges:
            return []
        head = ["(layer, input, output)", "function", "cost in RMSE"]
        rows = [[str(e.edge), e.function, f"{e.cost:.3g}"] for e in self.edges[:_SHOWN]]
        more = len(self.edges) - len(rows)
        return ["what it cost to fix edges", *_indented([head, *rows]), *([f"  and {more} more"] if more else [])]

    def _warnings(self) -> list[str]:
        lines = []
        for k, output in enumerate(self.outputs):
            worst = output.model if output.formula is None else output.formula
            if worst.broken:
                lines.append(f"output {k} is NaN or infinite for {worst.broken} of {self.samples} samples")
        for e in self.edges:
            if e.broken:
                lines.append(f"  edge {e.edge}, {e.function}, for {e.broken} of them")
        if self.splines:
            lines.append(f"no formula: {len(self.splines)} edges are splines")
        return lines


@torch.no_grad()
def formula_report(model: Network, test_input: Tensor, test_label: Tensor, **options: Any) -> FormulaReport:
    """Compare the formulas with the network itself on held-out data, and say which symbolic edges cost most.

    Without options that change numbers (`digits`, `constants`) the formulas are as accurate as the network. Predictions
    that are NaN or infinite, at a pole or outside of a domain, are counted, with the edges that they come from.
    `digits` are measured on the inputs of the last `fit`, as in `symbolic_formula`, or on `test_input` if there was
    none.

    Args:
        model: the network; `model.formula_report(...)` gives it. If some edges are splines, there is no formula.
        test_input: samples `(n, in)`, best samples that the network was not trained on.
        test_label: labels `(n, out)`, or `(n,)` for one output.
        options: options of `symbolic_formula`; with a normalizer, data are in the units of the formulas.

    Raises:
        ValueError: shapes don't fit, labels are not finite, or an added function has no sympy expression.
    """
    like = model.layers[0].spline_weight
    x, label = (
        tensor(name, t).to(like.device, torch.float64)
        for name, t in (("test_input", test_input), ("test_label", test_label))
    )
    label = label[:, None] if label.dim() == 1 else label
    if x.dim() != 2 or x.shape[1] != model.width_in[0] or label.shape != (len(x), model.width_in[-1]) or not len(x):
        raise ValueError(
            f"expected inputs (n, {model.width_in[0]}) and labels (n, {model.width_in[-1]}), got "
            f"{tuple(x.shape)} and {tuple(label.shape)}; give a row for each sample"
        )
    if not label.isfinite().all():
        raise ValueError("formula_report needs finite labels, got NaN or infinity; clean the data first")
    splines, formulas = spline_edges(model), None
    if not splines:
        from kan_fast.symbolic.expressions.source import numpy_function

        unseen = {"x": x} if model.last_inputs.x is None else {}  # no fit has left samples to measure digits on
        formulas, symbols = symbolic_formula(model, **(unseen | options))
        values = torch.from_numpy(numpy_function(formulas, symbols)(x.cpu().numpy())).to(x.device)
    start = _scaled("normalizer", options, x, back=False).to(like.dtype)
    output, inputs = recording.record(model, model.layers, start)
    prediction = _scaled("output_normalizer", options, output.double(), back=True)
    outputs = [
        Output(_accuracy(prediction[:, k], label[:, k]))
        if formulas is None
        else Output(_accuracy(prediction[:, k], label[:, k]), _accuracy(values[:, k], label[:, k]), formulas[k])
        for k in range(label.shape[1])
    ]

    def error(output: Tensor) -> float:
        squares = (_scaled("output_normalizer", options, output.double(), back=True) - label).square()
        return squares[squares.isfinite()].mean().sqrt().item()

    edges = []
    for number, layer in enumerate(model.layers):
        rest = _tail(model, number)
        for name, (o, i), broken, y in _as_splines(layer, inputs[number]):
            edges.append(FixedEdge(Edge(number, i, o), name, error(output) - error(rest(y)), broken))
    return FormulaReport(len(x), outputs, sorted(edges, key=lambda edge: -edge.cost), splines)


def _as_splines(layer: KANLinear, x: Tensor) -> Iterator[tuple[str, tuple[int, int], int, Tensor]]:
    """For every symbolic edge: function, (output, input), samples it breaks, the layer's output without it as such."""
    if layer.symbolic is None:
        return
    splines = copy.deepcopy(layer)
    splines.mask = None
    splines.unfix_many(layer.symbolic.places)
    y, terms, curves = layer(x), layer.symbolic.terms(x), edge_values(splines, x, layer.symbolic.edges).T
    for (edge, function, _), term, curve in zip(layer.symbolic.items(), terms, curves, strict=True):
        o, i = edge
        changed = y.clone()
        changed[:, o] += (curve - term).to(y.dtype)
        yield function.name, edge, int((x[:, i].isfinite() & ~term.isfinite()).sum()), changed


def _tail(model: Network, number: int) -> nn.Sequential:
    """The part of the network after the layer of this number."""
    parts: list[nn.Module] = [model.nodes[number]]
    for layer, nodes in zip(model.layers[number + 1 :], model.nodes[number + 1 :], strict=True):
        parts += [layer, nodes]
    return nn.Sequential(*parts)


def _scaled(name: str, options: dict[str, Any], x: Tensor, back: bool) -> Tensor:
    """Columns in units of their mean and standard deviation, if a normalizer is given, or back from there."""
    if options.get(name) is None:
        return x
    mean, std = (x.new_tensor(part) for part in scales(name, options[name], x.shape[1]))
    return x * std + mean if back else (x - mean) / std


def _accuracy(prediction: Tensor, label: Tensor) -> Accuracy:
    finite = prediction.isfinite()
    prediction, label = prediction[finite], label[finite]
    sizes = torch.stack([prediction, label]).abs().flatten()
    unit = sizes.max().clamp_min(torch.finfo(sizes.dtype).tiny) if len(sizes) else 1.0  # its square may be 0
    squares = ((prediction - label) / unit).square().mean()
    r2 = 1 - squares / ((label - label.mean()) / unit).square().mean()
    rmse = (squares.sqrt() * unit).item()
    return Accuracy(rmse, r2.item() if r2.isfinite() else float("nan"), int((~finite).sum()))


def _text(expression: sympy.Expr) -> str:
    from kan_fast.symbolic.expressions.source import text  # imports sympy, which takes half a second

    return text(expression)


def _cells(accuracy: Accuracy | None) -> list[str]:
    if accuracy is None:
        return ["-", "-"]
    r2 = accuracy.r2 if math.isnan(accuracy.r2) else math.floor(accuracy.r2 * 1e6) / 1e6  # 1 is exact
    return [f"{accuracy.rmse:.4g}", f"{r2:.6f}"]


def _indented(rows: list[list[str]]) -> list[str]:
    return [f"  {line}" for line in table(rows)]
