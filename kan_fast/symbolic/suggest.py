"""Functions for edges: `KAN.suggest_symbolic`, `fix_symbolic`, `unfix_symbolic`, `auto_symbolic`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kan_fast._support import samples
from kan_fast._support.checks import below, integer, real
from kan_fast._support.text_table import table
from kan_fast.analysis.edges import CHUNK, edge_values
from kan_fast.nn.edges import Edge
from kan_fast.nn.functions import Function, find, select
from kan_fast.nn.network import Network
from kan_fast.symbolic.curves.single import Fits, fit_functions, held_out

SAMPLES = 1000  # largest number of samples on which curves are compared
MUCH = 1e3  # added to the cost of functions that explain much less than others
FLOOR = 1e-13  # unexplained variance that counts as none
LIMIT = 1e-6  # a function from which a polynomial differs by this share of its variance imitates it

Library = Iterable[str | Function] | None


class Suggestion(NamedTuple):
    """A function for an edge."""

    edge: Edge
    name: str
    r2: float  # on the samples that were fitted
    r2_held_out: float  # on the others
    complexity: float
    affine: tuple[float, float, float, float]  # a, b, c, d of c f(a x + b) + d
    cost: float  # see `costs`; the function with the least cost is the best
    fixed: bool = False  # whether the edge has become this function


class Suggestions(tuple[Suggestion, ...]):
    """A table of functions for edges; print it to read it."""

    __slots__ = ()

    def __str__(self) -> str:
        header = ("edge", "function", "R2 fit", "R2 held out", "complexity", "a", "b", "c", "d")
        rows = [
            (str(s.edge), s.name, _r2(s.r2), _r2(s.r2_held_out), f"{s.complexity:g}")
            + tuple(f"{v:.5g}" for v in s.affine)
            for s in self
        ]
        stays = [any(s.fixed for s in self) and not s.fixed for s in self]
        notes = ("  stays a spline" if note else "" for note in (False, *stays))
        return "\n".join(line + note for line, note in zip(table([header, *rows], left=2), notes, strict=True))

    __repr__ = __str__


def _shown(suggestions: Suggestions, verbose: bool | int) -> Suggestions:
    if verbose:
        print(suggestions)
    return suggestions


def _r2(value: float) -> str:
    """An R2 as text, rounded down: only an exact fit shows 1."""
    if value == -math.inf:
        return "undefined"
    return f"{math.floor(value * 1e10) / 1e10:.10f}".rstrip("0").ljust(6, "0")


def suggest_symbolic(
    model: Network,
    l: int,  # noqa: E741  # pykan's name
    i: int,
    j: int,
    lib: Library = None,
    topk: int = 5,
    *,
    weight_simple: float = 0.5,
    holdout: float = 0.2,
    x: Tensor | None = None,
    verbose: bool | int = False,
) -> Suggestions:
    """The functions that fit an edge best, `c f(a x + b) + d`; nothing is changed.

    Args:
        model: the network; `model.suggest_symbolic(...)` gives it.
        l: layer of the edge, from 0.
        i: node that the edge starts from.
        j: subnode that the edge leads to.
        lib: names of functions; None for the whole library, `kan_fast.nn.functions.LIBRARY`.
        topk: number of functions, at least 1.
        weight_simple: weight of simplicity, from 0 (none) to less than 1. With 0.5 a function has to halve the
            unexplained part of the variance, 1 - R2, for every unit of its complexity.
        holdout: share of the samples that is not fitted, and on which functions are compared, 0 to less than 1.
        x: input samples `(..., width_in[0])`; None for the inputs that `fit` trained on last.
        verbose: whether to print the table.

    Returns:
        A table, the best first. R2 is -inf where no a and b keep the arguments in the domain of the function.

    Raises:
        TypeError, ValueError: there is no such edge or function, or an option is out of range; or there are no
            samples, too few, or not finite ones.
    """
    _check_edge(model, l, i, j)
    count = integer("topk", topk, 1)
    inputs = _some_inputs(model, x, "suggest_symbolic", l)
    (found,) = _suggest(model, l, [(j, i)], inputs, select(lib), weight_simple, holdout)
    return _shown(Suggestions(found[:count]), verbose)


@torch.no_grad()
def fix_symbolic(
    model: Network,
    l: int,  # noqa: E741  # pykan's name
    i: int,
    j: int,
    name: str | Function,
    fit_params_bool: bool = True,
    *,
    affine: Sequence[float] | None = None,
    holdout: float = 0.2,
    x: Tensor | None = None,
    verbose: bool | int = False,
) -> Suggestion | None:
    """Make an edge the function `c f(a x + b) + d`; `fit` then trains a, b, c, d with everything else.

    Args:
        model: the network; `model.fix_symbolic(...)` gives it.
        l: layer of the edge, from 0.
        i: node that the edge starts from.
        j: subnode that the edge leads to.
        name: the function; see `kan_fast.nn.functions`.
        fit_params_bool: whether to fit a, b, c, d to the present edge; else they are 1, 0, 1, 0. (pykan's name.)
        affine: a, b, c, d to take instead.
        holdout: as in `suggest_symbolic`.
        x: as in `suggest_symbolic`.
        verbose: whether to print what is returned.

    Returns:
        How well the function fits the edge that was there; None without a fit.

    Raises:
        TypeError, ValueError: as `suggest_symbolic`; or the function is not defined on the samples, and the edge stays
            as it was.
    """
    _check_edge(model, l, i, j)
    function = find(name)
    if affine is not None or not fit_params_bool:
        model.layers[l].fix(j, i, function, (1.0, 0.0, 1.0, 0.0) if affine is None else affine)
        return None
    inputs = _some_inputs(model, x, "fix_symbolic", l)
    ((found,),) = _suggest(model, l, [(j, i)], inputs, [function], 0.5, holdout)
    if found.r2 == -math.inf:
        raise ValueError(
            f"{function.name} is not defined on what reaches edge ({l}, {i}, {j}), whatever a and b; its domain is "
            f"{function.domain}. Choose another one (suggest_symbolic), or give affine"
        )
    model.layers[l].fix(j, i, function, found.affine)
    return _shown(Suggestions([found]), verbose)[0]


def unfix_symbolic(model: Network, l: int, i: int, j: int) -> None:  # noqa: E741  # pykan's name
    """Turn a symbolic edge back into the spline that it was.

    Raises:
        ValueError: there is no such edge, or it is not symbolic.
    """
    _check_edge(model, l, i, j)
    model.layers[l].unfix(j, i)


def unfix_symbolic_all(model: Network) -> None:
    """Turn all symbolic edges back into the splines that they were."""
    for layer in model.layers:
        layer.unfix_many([] if layer.symbolic is None else layer.symbolic.places)


@torch.no_grad()
def auto_symbolic(
    model: Network,
    lib: Library = None,
    r2_threshold: float = 0.0,
    *,
    weight_simple: float = 0.5,
    holdout: float = 0.2,
    x: Tensor | None = None,
    verbose: bool | int = False,
) -> Suggestions:
    """Replace every spline by the function that fits it best, layer by layer from the inputs on.

    The samples of a layer pass through the layers ahead of it with their new functions. Pruned and symbolic edges stay
    as they are. The function 0 is chosen only for edges that are constant up to rounding. Train afterwards, for
    instance with `fit(opt="LM")`: a, b, c, d of all edges are parameters.

    Args:
        model: the network; `model.auto_symbolic(...)` gives it.
        lib: names of functions; None for the whole library, `kan_fast.nn.functions.LIBRARY`.
        r2_threshold: edges whose best function has a lower R2 on held-out samples stay splines.
        weight_simple: as in `suggest_symbolic`.
        holdout: as in `suggest_symbolic`.
        x: as in `suggest_symbolic`.
        verbose: whether to print what is returned.

    Returns:
        A table with the best function of every edge that was a spline, the worst fit first. Those that stay splines
        have `fixed` False.

    Raises:
        TypeError, ValueError: as `suggest_symbolic`.
    """
    functions, threshold = select(lib), real("r2_threshold", r2_threshold)
    found: list[Suggestion] = []
    for number, layer in enumerate(model.layers):
        places = [(output, input_) for output, input_ in layer.kinds.spline.nonzero().tolist()]
        inputs = _some_inputs(model, x, "auto_symbolic", number)
        rows = _suggest(model, number, places, inputs, functions, weight_simple, holdout)
        best = [s._replace(fixed=math.isfinite(s.cost) and max(s.r2_held_out, 0) >= threshold) for s, *_ in rows]
        chosen = [(place, s) for place, s in zip(places, best, strict=True) if s.fixed]
        if chosen:
            affine = torch.tensor([s.affine for _, s in chosen], dtype=torch.float64)
            layer.fix_many([place for place, _ in chosen], [s.name for _, s in chosen], affine)
        found += best
    return _shown(Suggestions(sorted(found, key=lambda s: s.r2_held_out)), verbose)


def costs(fits: Fits, functions: Sequence[Function], weight_simple: float) -> Tensor:
    """The cost of each function for each curve, `(curves, functions)`; the least is the best.

    The cost is `log2(1 - R2) + weight_simple / (1 - weight_simple) * complexity` with the R2 on held-out samples, which
    is pykan's weighting. A function costs one unit more if both scale and origin of its argument matter, since it has
    one parameter more to fit with: a cosine fits every parabola with its top. A function whose R2 is below the best one
    by more than `weight_simple / 5` comes after all others, however simple it is. A function that imitates x or x^2, as
    a sine of tiny frequency does, counts as no better than these: a curve of a network is not known well enough to tell
    them apart, and its large constants cancel. The function 0 is allowed for constants alone.
    """
    complexity = torch.tensor([f.price for f in functions], dtype=torch.float64, device=fits.r2.device)
    constant = torch.tensor([f.name == "0" for f in functions], device=fits.r2.device)
    # Equal functions such as sine and cosine, whose errors differ by rounding alone, cost the same.
    unexplained = ((1 - fits.r2_held_out) / FLOOR).round().clamp_min(1) * FLOOR
    names = [function.name for function in functions]
    for degree, name in enumerate(("x", "x^2")):
        if name in names:
            limit = fits.bend[..., degree] < LIMIT
            least = torch.maximum(unexplained, unexplained[:, [names.index(name)]])
            unexplained = torch.where(limit, least, unexplained)
    cost = unexplained.log2().round(decimals=6) + weight_simple / (1 - weight_simple) * complexity
    r2 = fits.r2_held_out.clamp_min(0)
    cost = cost + MUCH * (r2 < r2.amax(1, keepdim=True) - weight_simple / 5)
    return cost.masked_fill(constant & (fits.r2_held_out < 1), math.inf)


def _suggest(
    model: Network,
    l: int,  # noqa: E741
    places: Sequence[tuple[int, int]],
    inputs: Tensor,
    functions: Sequence[Function],
    weight_simple: float,
    holdout: float,
) -> list[list[Suggestion]]:
    """For each of the edges (output, input) of a layer all functions, the best first."""
    weight, share = real("weight_simple", weight_simple), real("holdout", holdout)
    if max(weight, share) >= 1:
        raise ValueError(f"weight_simple and holdout must be less than 1, got {weight_simple} and {holdout}")
    layer = model.layers[l]
    edges = torch.tensor(places, dtype=torch.long, device=inputs.device).reshape(-1, 2)
    test = held_out(inputs, share)
    found = []
    for some in edges.split(max(1, CHUNK // len(inputs))) if places else ():
        y = edge_values(layer, inputs, some)
        rounding = torch.finfo(layer.spline_weight.dtype).eps
        y = torch.where(samples.are_constant(y, roundings=16), y.mean(0), y)
        fits = fit_functions(inputs[:, some[:, 1]], y, functions, test, rounding / 2)
        cost = costs(fits, functions, weight)
        order = cost.argsort(stable=True)
        found_here = zip(some.tolist(), *(t.tolist() for t in (*fits[:3], cost, order)), strict=True)
        found += [
            [
                Suggestion(
                    Edge(l, i, j),
                    functions[n].name,
                    r2[n],
                    r2_held_out[n],
                    functions[n].complexity,
                    tuple(affine[n]),
                    cost_[n],
                )
                for n in order
            ]
            for (j, i), affine, r2, r2_held_out, cost_, order in found_here
        ]
    return found


def _some_inputs(model: Network, x: Tensor | None, what: str, l: int) -> Tensor:  # noqa: E741
    """Inputs of a layer, `(n, in)` in float64; of many samples a random part, and the extremes of every column."""
    inputs = model.reached(x, what)[l].reshape(-1, model.layers[l].in_features).double()
    if len(inputs) <= SAMPLES:
        return inputs
    some = torch.rand(len(inputs), generator=torch.Generator().manual_seed(1)).argsort()[:SAMPLES].to(inputs.device)
    return inputs[torch.cat([some, inputs.argmin(0), inputs.argmax(0)]).unique()]


def _check_edge(model: Network, l: int, i: int, j: int) -> None:  # noqa: E741
    layer = model.layers[below("l", l, len(model.layers))]
    below("i", i, layer.in_features)
    below("j", j, layer.out_features)
