"""Networks as self-contained C99."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kan_fast._version import __version__
from kan_fast.export._plain import Plain, plain_layers
from kan_fast.symbolic.expressions.names import check_c_name

if TYPE_CHECKING:
    import sympy

EVALUATION = """\
enum { kan_zero, kan_linear, kan_clamp };    /* extrapolation */
enum { kan_none, kan_identity, kan_silu };   /* base function; none has no weights */

typedef struct {  /* c f(a x + b) + d */
  int output, input, function;
  kan_real a, b, c, d;
} kan_edge;

typedef struct {
  int inputs, outputs, spans, degree, extrapolation, base, products, edges;
  const kan_real *knots;       /* inputs x (spans + 4 degree + 1); the grid range is 2 degree knots from either end */
  const kan_real *spline;      /* inputs x (spans + degree) x outputs; 0 without any */
  const kan_real *base_weight; /* inputs x outputs, or 0 */
  const kan_real *bias;        /* outputs */
  const int *arities;      /* products, or 0: how many of the last outputs each of them multiplies */
  const kan_edge *symbolic;    /* edges, or 0: functions that are added */
} kan_layer;

/* The degree + 1 B-splines that can differ from 0 at x (Cox-de Boor); returns the number of the first. */
static int kan_bsplines(const kan_layer *l, const kan_real *t, kan_real x, kan_real *b) {
  const int k = l->degree;
  const kan_real start = t[2 * k], end = t[l->spans + 2 * k];
  kan_real nearest = x, beyond = 0;
  if (l->extrapolation != kan_zero) nearest = x < start ? start : x > end ? end : x;
  if (l->extrapolation == kan_linear) beyond = x - nearest;

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
    const kan_real step = p == k ? k * beyond : 0; /* the tangent: p / (right - left) is the slope of a weight */
    kan_real carried = 0;
    for (int j = 0; j < p; j++) {
      const kan_real left = t[cell + 1 + j - p], right = t[cell + 1 + j];
      const kan_real share = b[j] / (right - left);
      b[j] = carried + (right - nearest - step) * share;
      carried = (nearest - left + step) * share;
    }
    b[p] = carried;
  }
  return cell - 2 * k;
}

static void kan_apply(const kan_layer *l, const kan_real *x, kan_real *y) {
  const int k = l->degree, rows = l->spans + k, n = l->outputs;
  for (int o = 0; o < n; o++) y[o] = l->bias[o];
  for (int i = 0; l->spline && i < l->inputs; i++) {
    kan_real b[kan_max_degree + 1];
    const int first = kan_bsplines(l, l->knots + i * (l->spans + 4 * k + 1), x[i], b);
    const kan_real *spline = l->spline + i * rows * n;
    for (int j = 0; j <= k; j++) {
      const int r = first + j;
      if (r < 0 || r >= rows) continue;
      for (int o = 0; o < n; o++) y[o] += b[j] * spline[r * n + o];
    }
    if (l->base == kan_none) continue;
    const kan_real *weight = l->base_weight + i * n;
    const kan_real value = l->base == kan_silu ? x[i] / (1 + kan_exp(-x[i])) : x[i];
    for (int o = 0; o < n; o++) y[o] += value * weight[o];
  }
  for (const kan_edge *e = l->symbolic; e < l->symbolic + l->edges; e++)
    y[e->output] += e->c * kan_function(e->function, e->a * x[e->input] + e->b) + e->d;

  kan_real *product = y + n;
  for (int p = 0; p < l->products; p++) product -= l->arities[p];
  const kan_real *factor = product; /* a product replaces factors that have been read */
  for (int p = 0; p < l->products; p++) {
    kan_real value = 1;
    for (int f = 0; f < l->arities[p]; f++) value *= *factor++;
    *product++ = value;
  }
}
"""


def to_c(model: nn.Module, name: str = "kan", dtype: torch.dtype | None = None) -> str:
    """Source of `void name(const float *x, float *y)` in C99, which evaluates the model for one sample.

    It needs nothing but math.h, allocates nothing, can be called by several threads at once, and evaluates only the
    k + 1 splines that differ from 0 on each edge. x and y must not overlap.

    Args:
        model: a KAN, a KANLinear, or an nn.Sequential of them.
        name: name of the function; everything else in the file is static, with names that begin with this one.
        dtype: torch.float32 or torch.float64, to compute in (float or double); None takes double for a float64 model,
            else float.

    Raises:
        TypeError, ValueError: the model can't be exported; or `name` is no C identifier, or one that C or its library
            has already; the message says why.
    """
    check_c_name(name)
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
            f"typedef {real} {name}_real;",
            f"#define {name}_exp {'exp' if double else 'expf'}",
            f"enum {{ {name}_max_degree = {max(1, *(layer.degree for layer in layers))} }};",
            "",
            *_functions(functions, name, not double),
            EVALUATION.replace("kan_", f"{name}_"),
            *(_arrays(number, layer, functions, name) for number, layer in enumerate(layers)),
            f"static const {name}_layer {name}_layers[{len(layers)}] = {{",
            *(f"  {_struct(number, layer, name)}," for number, layer in enumerate(layers)),
            "};",
            "",
            f"{prototype} {{",
            *_calls(layers, name),
            "}",
            "",
        ]
    )


def _calls(layers: list[Plain], name: str) -> Iterator[str]:
    """The body of the function: the calls of the layers, with two buffers for hidden values.

    If the last layer has products, its factors don't fit into y, and go to a buffer too.
    """
    hidden = layers if layers[-1].arities else layers[:-1]
    if hidden:
        yield f"  {name}_real hidden[2][{max(len(layer.bias) for layer in hidden)}];"
    buffers = ["x", *(f"hidden[{level % 2}]" for level in range(len(hidden))), "y"]
    for level in range(len(layers)):
        yield f"  {name}_apply(&{name}_layers[{level}], {buffers[level]}, {buffers[level + 1]});"
    if layers[-1].arities:
        yield f"  for (int o = 0; o < {layers[-1].width}; o++) y[o] = {buffers[len(layers)]}[o];"


def _functions(formulas: list[sympy.Expr], name: str, single: bool) -> Iterator[str]:
    """The function that evaluates the formulas, which are of the symbol z, by their number."""
    head = f"static {name}_real {name}_function(int number, {name}_real z)"
    if not formulas:
        yield f"{head} {{ return (void)number, z; }}\n"
        return
    from kan_fast.symbolic.expressions.source import c_expression, c_helpers

    cases = [f"    case {n}: return {c_expression(formula, name, single)};" for n, formula in enumerate(formulas)]
    yield from c_helpers(cases, name)
    yield "\n".join(
        [
            f"{head} {{",
            "  switch (number) {",
            *cases,
            "    default: return z;",
            "  }",
            "}\n",
        ]
    )


def _struct(number: int, layer: Plain, name: str) -> str:
    inputs, outputs, k = len(layer.knots), len(layer.bias), layer.degree
    base = "none" if layer.base == "zero" else layer.base
    products, edges = len(layer.arities), sum(len(edges.outputs) for edges in layer.symbolic)
    fields = {
        "knots": layer.spline is not None,
        "spline": layer.spline is not None,
        "base_weight": layer.base_weight is not None,
        "bias": True,
        "arities": products,
        "symbolic": edges,
    }
    arrays = ", ".join(f"{name}_{field}_{number}" if there else "0" for field, there in fields.items())
    spans = layer.knots.shape[1] - 1 - 2 * k
    sizes = f"{inputs}, {outputs}, {spans}, {k}, {name}_{layer.extrapolation}, {name}_{base}, {products}, {edges}"
    return f"{{{sizes}, {arrays}}}"


def _arrays(number: int, layer: Plain, functions: list[sympy.Expr], name: str) -> str:
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
    definitions = [_array(name, f"{field}_{number}", array) for field, array in arrays.items() if array is not None]
    if layer.arities:
        definitions.append(f"static const int {name}_arities_{number}[] = {{{', '.join(map(str, layer.arities))}}};\n")
    if layer.symbolic:
        rows = [
            f"  {{{output}, {input_}, {functions.index(edges.formula)}, {_numbers(affine)}}}"
            for edges in layer.symbolic
            for output, input_, affine in zip(edges.outputs, edges.inputs, edges.affine, strict=True)
        ]
        body = ",\n".join(rows)
        definitions.append(f"static const {name}_edge {name}_symbolic_{number}[] = {{\n{body}\n}};\n")
    return "\n".join(definitions)


def _array(name: str, field: str, array: npt.NDArray) -> str:
    flat = array.ravel()
    lines = ",\n".join("  " + _numbers(flat[i : i + 8]) for i in range(0, len(flat), 8))
    return f"static const {name}_real {name}_{field}[] = {{\n{lines}\n}};\n"


def _numbers(row: npt.NDArray) -> str:
    suffix = "" if row.dtype == np.float64 else "f"
    return ", ".join(f"{number}{suffix}" for number in row)  # the shortest decimals that are exact
