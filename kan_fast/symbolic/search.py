"""From a trained network of splines to a formula: which edges it needs, and which functions they are."""

from __future__ import annotations

import copy
import heapq
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kan_fast.analysis import attribution, pruning
from kan_fast.analysis.edges import edge_values
from kan_fast.nn import recording
from kan_fast.nn.edges import Edge
from kan_fast.nn.functions import Function, find
from kan_fast.nn.network import Network
from kan_fast.optim import LevenbergMarquardt
from kan_fast.symbolic.curves.single import fit_functions, held_out
from kan_fast.symbolic.formula import spline_edges
from kan_fast.symbolic.suggest import costs

CHOICES = 8  # functions that are combined for an edge, at most
GAP = 12.0  # bits by which such a function may be costlier than the best one for the edge
COMBINATIONS, STEPS = 12, 6  # combinations that are tried for a layer of each network, and the steps of their training
BEAM, FINAL_STEPS = 3, 30  # networks that go on to the next layer, and the steps of their training in the end
SAME = {"cos": "sin", "arccos": "arcsin", "sigmoid": "tanh"}  # functions that are equal up to a, b, c, d
SIMPLICITY = 0.02  # cost of a unit of complexity, as a share of the bits that are explained


class Data(NamedTuple):
    """Samples for the fit and samples held out: inputs `(n, in)`, outputs `(n, out)` of variance about 1; float64."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    floor: float  # mean squared error that is due to rounding
    price: float = 0.0  # cost of a unit of complexity, in bits

    def whole(self) -> Data:
        """The same with all samples for the fit; the samples held out are then no test any more."""
        return self._replace(x=torch.cat([self.x, self.test_x]), y=torch.cat([self.y, self.test_y]))


class Trial(NamedTuple):
    """A network and how good it is."""

    model: Network
    error: float  # mean squared error on the samples held out; infinite if the network is undefined on one
    complexity: float  # sum over the symbolic edges
    cost: float  # log2 of the error, plus the price of the complexity


def rate(model: Network, data: Data) -> Trial:
    """The error of a network on the samples held out, and its cost.

    A unit of complexity costs `data.price` bits, which `priced` sets to `SIMPLICITY * B` where formulas can explain
    `B = -log2(error)` bits: it has to explain little in noisy data, and much in exact data.
    """
    with torch.no_grad():
        error = (model(data.test_x) - data.test_y).square().mean().item()
    error = error if math.isfinite(error) else math.inf
    complexity = sum(function.price for _, function in _symbolic(model))
    return Trial(model, error, complexity, math.log2(max(error, data.floor)) + data.price * complexity)


def priced(data: Data, error: float) -> Data:
    """The data with the price of complexity for formulas that can reach this error."""
    return data._replace(price=SIMPLICITY * max(1.0, -math.log2(max(error, data.floor))))


def refit(model: Network, data: Data, steps: int) -> Trial:
    """Train in place with up to `steps` Levenberg-Marquardt steps, as long as the error falls."""
    optimizer, last = LevenbergMarquardt(model), math.inf
    for _ in range(steps):
        error = optimizer.step(lambda: model(data.x) - data.y).item()
        if not error < 0.999 * last or error < data.floor / 100:
            break
        last = error
    return rate(model, data)


# The edges of a formula


def thin(trial: Trial, data: Data) -> Trial:
    """Remove the splines that the others can replace, one after the other, the one with the least score first.

    Networks with products or several hidden nodes can write one function in many ways, such as x y as (x + a)(y + b) -
    a y - b x - a b. With few edges there is one way.
    """
    scores = attribution.attribute(trial.model, x=data.x).edges
    for edge in sorted(spline_edges(trial.model), key=lambda edge: scores[edge.layer][edge.place].item()):
        model = copy.deepcopy(trial.model)
        layer = model.layers[edge.layer]
        mean = edge_values(layer, _inputs(model, data, edge.layer), torch.tensor([edge.place])).mean()
        pruning.remove_edge(model, *edge)
        if layer.bias is not None:
            with torch.no_grad():
                layer.bias[edge.output] += mean
        without = refit(model, data, 15)
        if without.error <= max(1.1 * trial.error, min(4 * trial.error, 1e-5), 1e-13):
            trial = without
    return rate(pruning.prune_edge(trial.model, 0.0, x=data.x), data)


# The functions of a formula


def snap(model: Network, data: Data, functions: Sequence[Function]) -> Trial | None:
    """The best network with functions of the library in place of the splines of this one.

    Layer by layer, the cheapest combinations of functions are tried, the splines of the later layers are trained on,
    and the best networks go on to the next layer.

    Returns:
        The best network; None if no combination is defined on the samples.
    """
    data, functions = priced(data, rate(model, data).error), distinct(functions)
    beam = [rate(model, data)]
    for number, layer in enumerate(model.layers):
        if not layer.kinds.spline.any():
            continue
        trials = []
        for start in beam:
            for combination in _combinations(_choices(start.model, number, data, functions)):
                trial = copy.deepcopy(start.model)
                edges, names, affine = zip(*combination, strict=True)
                trial.layers[number].fix_many(edges, names, torch.stack(affine))
                trials.append(refit(trial, data, STEPS))
        beam = sorted((t for t in trials if t.error < math.inf), key=lambda trial: trial.cost)[:BEAM]
    finished = [refit(trial.model, data, FINAL_STEPS) for trial in beam]
    return simplify(min(finished, key=lambda trial: trial.cost), data) if finished else None


def distinct(functions: Sequence[Function]) -> list[Function]:
    """The functions without those that equal another one of them up to a, b, c, d."""
    names = {function.name for function in functions}
    return [function for function in functions if SAME.get(function.name) not in names]


Choice = tuple[float, tuple[tuple[int, int], str, Tensor]]  # cost; (output, input), function, affine parameters


def _choices(model: Network, number: int, data: Data, functions: Sequence[Function]) -> list[list[Choice]]:
    """For every spline of a layer the functions that fit it best, the best first."""
    edges, x = model.layers[number].kinds.spline.nonzero(), _inputs(model, data, number)
    y = edge_values(model.layers[number], x, edges)
    fits = fit_functions(x[:, edges[:, 1]], y, functions, held_out(x, 0.2))
    choices = []
    for (output, input_), cost, affine in zip(edges.tolist(), costs(fits, functions, 0.5), fits.affine, strict=True):
        order = [f for f in cost.argsort(stable=True)[:CHOICES].tolist() if cost[f] <= cost.min() + GAP]
        choices.append([(cost[f].item(), ((output, input_), functions[f].name, affine[f])) for f in order])
    return choices


def _combinations(choices: Sequence[Sequence[Choice]]) -> Iterator[list[tuple[tuple[int, int], str, Tensor]]]:
    """One choice for every edge, the cheapest combinations first."""
    start = (0,) * len(choices)
    queue, seen = [(0.0, start)], {start}
    for _ in range(COMBINATIONS):
        if not queue:
            return
        cost, picks = heapq.heappop(queue)
        yield [some[pick][1] for some, pick in zip(choices, picks, strict=True)]
        for edge, (some, pick) in enumerate(zip(choices, picks, strict=True)):
            following = (*picks[:edge], pick + 1, *picks[edge + 1 :])
            if pick + 1 < len(some) and following not in seen:
                seen.add(following)
                heapq.heappush(queue, (cost + some[pick + 1][0] - some[pick][0], following))


def simplify(trial: Trial, data: Data) -> Trial:
    """Replace symbolic edges by constants or straight lines where that lowers the cost."""
    tried: set[tuple[Edge, str, str]] = set()
    while True:
        for edge, function in _symbolic(trial.model):
            for name in ("0", "x"):
                if (edge, function.name, name) in tried or find(name).complexity >= function.complexity:
                    continue
                tried.add((edge, function.name, name))
                simpler = refit(_exchanged(trial.model, data, edge, find(name)), data, 20)
                if simpler.cost < trial.cost:
                    break
            else:
                continue
            trial = simpler
            break
        else:
            return trial


def _exchanged(model: Network, data: Data, edge: Edge, function: Function) -> Network:
    """A copy in which an edge is this function, fitted to the edge as it was."""
    model, x = copy.deepcopy(model), _inputs(model, data, edge.layer)
    layer = model.layers[edge.layer]
    y = edge_values(layer, x, torch.tensor([edge.place]))
    fits = fit_functions(x[:, [edge.input]], y, [function], torch.zeros(len(x), dtype=torch.bool))
    layer.fix(*edge.place, function, fits.affine[0, 0])
    return model


def _symbolic(model: Network) -> list[tuple[Edge, Function]]:
    return [
        (Edge(number, input_, output), function)
        for number, layer in enumerate(model.layers)
        if layer.symbolic is not None
        for (output, input_), function, _ in layer.symbolic.items()
    ]


@torch.no_grad()
def _inputs(model: Network, data: Data, number: int) -> Tensor:
    """Inputs of a layer, `(n, in)`."""
    return recording.record(model, model.layers, data.x)[1][number]
