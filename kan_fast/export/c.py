"""Networks as self-contained C99."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kan_fast._version import __version__
from kan_fast.export._plain import Plain, plain_layers

if TYPE_CHECKING:
    import sympy

EVALUATION = """\
enum { ZERO, LINEAR, CLAMP };    /* extrapolation */
enum { NONE, IDENTITY, SILU };   /* base function; NONE has no weights */

typedef struct {  /* c f(a x + b) + d */
  int output, input, function;
  real a, b, c, d;
} edge;

typedef struct {
  int inputs, outputs, spans, degree, extrapolation, base, products, edges;
  const real *knots;       /* inputs x (spans + 4 degree + 1); the grid range is 2 degree knots from either end */
  const real *spline;      /* inputs x (spans + degree) x outputs; 0 without any */
  const real *base_weight; /* inputs x outputs, or 0 */
  const real *bias;        /* outputs */
  const int *arities;      /* products, or 0: how many of the last outputs each of them multiplies */
  const edge *symbolic;    /* edges, or 0: functions that are added */
} layer;

/* The degree + 1 B-splines that can differ from 0 at x (Cox-de Boor); returns the number of the first. */
static int bsplines(const layer *l, const real *t, real x, real *b) {
  const int k = l->degree;
  const real start = t[2 * k], end = t[l->spans + 2 * k];
  real nearest = x, beyond = 0;
  if (l->extrapolation != ZERO) nearest = x < start ? start : x > end ? end : x;
  if (l->extrapolation == LINEAR) beyond = x - nearest;

  int cell = k, after = l->spans + 3 * k; /* t[cell] <= nearest < t[after] */
  if (!(t[cell] <= nearest && nearest <= t[after])) {
    for (int j = 0; j <= k; j++) b[j] = nearest == nearest ? 0 : nearest; /* far outside, or NaN */
    return 0;
  }
  if (nearest == end) { /* lies in the last span of the grid range */
    cell = l->spans + 2 * k - 1;
    after = cell + 1;
  }
  while (after - cell > 1) {
    const int middle = cell + (after - cell) / 2;
    if (t[middle] <= nearest) cell = middle;
    else after = middle;
  }

  b[0] = 1;
  for (int p = 1; p <= k; p++) {
    const real step = p == k ? k * beyond : 0; /* the tangent: p / (right - left) is the slope of a weight */
    real carried = 0;
    for (int j = 0; j < p; j++) {
      const real left = t[cell + 1 + j - p], right = t[cell + 1 + j];
      const real share = b[j] / (right - left);
      b[j] = carried + (right - nearest - step) * share;
      carried = (nearest - left + step) * share;
    }
    b[p] = carried;
  }
  return cell - 2 * k;
}

static void apply(const layer *l, const real *x, real *y) {
  const int k = l->degree, rows = l->spans + k, n = l->outputs;
  for (int o = 0; o < n; o++) y[o] = l->bias[o];
  for (int i = 0; l->spline && i < l->inputs; i++) {
    real b[MAX_DEGREE + 1];
    const int first = bsplines(l, l->knots + i * (l->spans + 4 * k + 1), x[i], b);
    const real *spline = l->spline + i * rows * n;
    for (int j = 0; j <= k; j++) {
      const int r = first + j;
      if (r < 0 || r >= rows) continue;
      for (int o = 0; o < n; o++) y[o] += b[j] * spline[r * n + o];
    }
    if (l->base == NONE) continue;
    const real *weight = l->base_weight + i * n;
    const real value = l->base == SILU ? x[i] / (1 + EXP(-x[i])) : x[i];
    for (int o = 0; o < n; o++) y[o] += value * weight[o];
  }
  for (const edge *e = l->symbolic; e < l->symbolic + l->edges; e++)
    y[e->output] += e->c * function(e->function, e->a * x[e->input] + e->b) + e->d;

  real *product = y + n;
  for (int p = 0; p < l->products; p++) product -= l->arities[p];
  const real *factor = product; /* a product replaces factors that have been read */
  for (int p = 0; p < l->products; p++) {
    real value = 1;
    for (int f = 0; f < l->arities[p]; f++) value *= *factor++;
    *product++ = value;
  }
}
"""


def to_c(model: nn.Module, name: str = "kan", dtype: torch.dtype | None = None) -> str:
    """Source of `void name(const float *x, float *y)` in C99, which computes what the model does for one sample.

    It needs nothing but math.h, allocates nothing, can be called by several threads at once, and evaluates only the
    k + 1 splines that differ from 0 on each edge. x and y must not overlap.

    Args:
        model: a KAN, a KANLinear, or an nn.Sequential of them.
        name: name of the function; all else in the file is static.
        dtype: torch.float32 or torch.float64, to compute in (float or double); None takes double for a float64 model,
            else float.

    Raises:
        TypeError, ValueError: the model can't be exported or `name` is no C identifier; the message says why.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise ValueError(f"name must be a C identifier that starts with a letter, got {name!r}")
    layers = plain_layers(model, dtype)
    double = layers[0].knots.dtype == np.float64
    functions = list(dict.fromkeys(edges.formula for layer in layers for edges in layer.symbolic))
    real = "double" if double else "float"
    prototype = f"void {name}(const {real} *x, {real} *y)"
    width = [len(layers[0].knots), *(layer.width for layer in layers)]
    return "\n".join(
        [
            f"/* A Kolmogorov-Arnold network, {' -> '.join(map(str, width))}, exported by kan_fast {__version__}.",
            "   C99; link with the mathematics library (-lm). One sample per call: */",
            f"{prototype}; /* x: {width[0]} inputs, y: {width[-1]} outputs */",
            "",
            "#include <math.h>",
            "",
            f"typedef {real} real;",
            f"#define EXP {'exp' if double else 'expf'}",
            f"#define MAX_DEGREE {max(1, *(layer.degree for layer in layers))}",
            "",
            *_functions(functions, not double),
            EVALUATION,
            *(_arrays(number, layer, functions) for number, layer in enumerate(layers)),
            f"static const layer layers[{len(layers)}] = {{",
            *(f"  {_struct(number, layer)}," for number, layer in enumerate(layers)),
            "};",
            "",
            f"{prototype} {{",
            *_calls(layers),
            "}",
            "",
        ]
    )


def _calls(layers: list[Plain]) -> Iterator[str]:
    """The body of the function: through the layers, with two buffers for what is hidden.

    If the last layer has products, their factors don't fit into y: they are hidden too.
    """
    hidden = layers if layers[-1].arities else layers[:-1]
    if hidden:
        yield f"  real hidden[2][{max(len(layer.bias) for layer in hidden)}];"
    buffers = ["x", *(f"hidden[{level % 2}]" for level in range(len(hidden))), "y"]
    for level in range(len(layers)):
        yield f"  apply(&layers[{level}], {buffers[level]}, {buffers[level + 1]});"
    if layers[-1].arities:
        yield f"  for (int o = 0; o < {layers[-1].width}; o++) y[o] = {buffers[len(layers)]}[o];"


def _functions(formulas: list[sympy.Expr], single: bool) -> Iterator[str]:
    """The function that evaluates the formulas, which are of the symbol z, by their number."""
    if not formulas:
        yield "static real function(int number, real z) { return (void)number, z; }\n"
        return
    from kan_fast.symbolic.code import c_expression, c_helpers

    cases = [f"    case {n}: return {c_expression(formula, single)};" for n, formula in enumerate(formulas)]
    yield from c_helpers(cases)
    yield "\n".join(
        [
            "static real function(int number, real z) {",
            "  switch (number) {",
            *cases,
            "    default: return z;",
            "  }",
            "}\n",
        ]
    )


def _struct(number: int, layer: Plain) -> str:
    inputs, outputs, k = len(layer.knots), len(layer.bias), layer.degree
    base = {"silu": "SILU", "identity": "IDENTITY", "zero": "NONE"}[layer.base]
    products, edges = len(layer.arities), sum(len(edges.outputs) for edges in layer.symbolic)
    fields = {
        "knots": layer.spline is not None,
        "spline": layer.spline is not None,
        "base_weight": layer.base_weight is not None,
        "bias": True,
        "arities": products,
        "symbolic": edges,
    }
    arrays = ", ".join(f"{field}_{number}" if there else "0" for field, there in fields.items())
    spans = layer.knots.shape[1] - 1 - 2 * k
    sizes = f"{inputs}, {outputs}, {spans}, {k}, {layer.extrapolation.upper()}, {base}, {products}, {edges}"
    return f"{{{sizes}, {arrays}}}"


def _arrays(number: int, layer: Plain, functions: list[sympy.Expr]) -> str:
    """Definitions of the arrays. Knots get k more on either side, so that the recursion needs no special case there."""
    k, knots = layer.degree, layer.knots
    step = (knots[:, -1:] - knots[:, :1]) / (knots.shape[1] - 1)
    more = step * np.arange(1, k + 1, dtype=knots.dtype)
    padded = np.concatenate([knots[:, :1] - more[:, ::-1], knots, knots[:, -1:] + more], 1)
    arrays = {
        "knots": None if layer.spline is None else padded,
        "spline": layer.spline,
        "base_weight": layer.base_weight,
        "bias": layer.bias,
    }
    definitions = [_array(f"{field}_{number}", array) for field, array in arrays.items() if array is not None]
    if layer.arities:
        definitions.append(f"static const int arities_{number}[] = {{{', '.join(map(str, layer.arities))}}};\n")
    if layer.symbolic:
        rows = [
            f"  {{{output}, {input_}, {functions.index(edges.formula)}, {_numbers(affine)}}}"
            for edges in layer.symbolic
            for output, input_, affine in zip(edges.outputs, edges.inputs, edges.affine, strict=True)
        ]
        body = ",\n".join(rows)
        definitions.append(f"static const edge symbolic_{number}[] = {{\n{body}\n}};\n")
    return "\n".join(definitions)


def _array(name: str, array: npt.NDArray) -> str:
    flat = array.ravel()
    lines = ",\n".join("  " + _numbers(flat[i : i + 8]) for i in range(0, len(flat), 8))
    return f"static const real {name}[] = {{\n{lines}\n}};\n"


def _numbers(row: npt.NDArray) -> str:
    suffix = "" if row.dtype == np.float64 else "f"
    return ", ".join(f"{number}{suffix}" for number in row)  # the shortest decimals that are exact
