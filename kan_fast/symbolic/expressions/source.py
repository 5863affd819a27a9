"""Formulas as source code: C99, numpy and LaTeX."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt
import sympy
from sympy.codegen.ast import float32, real
from sympy.printing.c import C99CodePrinter
from sympy.printing.codeprinter import PrintMethodNotImplementedError
from sympy.printing.numpy import NumPyPrinter

from kan_fast.symbolic.expressions import special
from kan_fast.symbolic.expressions.names import check_c_name, check_python_name

__all__ = ["c_source", "latex", "numpy_function", "numpy_source"]

_LATEX = {letter: f"\\{letter}" for letter in "_%&#${}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
_LARGE = 2**53  # whole numbers from which on float64 lacks some; C and numpy refuse larger ones
_SPECIAL = {"erf": "erf", "erfc": "erfc", "gamma": "gamma", "loggamma": "log_gamma"}  # names in special.py
C_SIGN = """\
static double kan_sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }
"""
C_BESSEL = """\
static double kan_bessel(int order, double x) { /* of the first kind, orders 0 and 1 */
  const double pi = 3.14159265358979324, r = fabs(x);
  if (r <= 25) { /* Bessel's integral by the trapezoidal rule */
    double sum = 0;
    for (int p = 0; p < 64; p++) sum += cos(order * (p + 0.5) * pi / 64 - x * sin((p + 0.5) * pi / 64));
    return sum / 64;
  }
  double even = 0, odd = 0, term = 1; /* Hankel's series for large arguments */
  for (int k = 0; k < 18; k++) {
    if (k % 2) odd += k % 4 == 1 ? term : -term;
    else even += k % 4 == 0 ? term : -term;
    term *= (4 * order * order - (2.0 * k + 1) * (2.0 * k + 1)) / (8 * (k + 1) * r);
  }
  const double phase = r - (order / 2.0 + 0.25) * pi;
  const double value = sqrt(2 / (pi * r)) * (even * cos(phase) - odd * sin(phase));
  return order == 1 && x < 0 ? -value : value;
}
"""


def _refused(printer: Any, expression: Any) -> str:
    raise PrintMethodNotImplementedError(f"there is no code for {expression}")


class _C(C99CodePrinter):
    def __init__(self, prefix: str, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.prefix = prefix

    def _print_NumberSymbol(self, number: Any) -> str:
        return self._print(sympy.Float(number, 17))

    _print_Pi = _print_Exp1 = _print_NumberSymbol

    def _print_sign(self, expression: Any) -> str:
        return f"{self.prefix}_sign({self._print(expression.args[0])})"

    def _print_besselj(self, expression: Any) -> str:
        return f"{self.prefix}_bessel({_bessel_order(expression)}, {self._print(expression.argument)})"

    def _print_Integer(self, number: Any) -> str:
        return str(number) if abs(number) < _LARGE else str(self._print(sympy.Float(number, 17)))

    _print_Sum = _print_Product = _print_ImaginaryUnit = _refused  # sympy prints what no compiler takes


class _NumPy(NumPyPrinter):
    def _print_Float(self, number: Any) -> str:
        return repr(float(number)).replace("inf", "np.inf")  # beyond 1e308

    def _print_Integer(self, number: Any) -> str:
        return str(number) if abs(number) < _LARGE else self._print_Float(sympy.Float(number))

    def _print_Rational(self, number: Any) -> str:
        exact = max(abs(number.p), number.q) < _LARGE
        return str(super()._print_Rational(number)) if exact else self._print_Float(sympy.Float(number))

    _print_Sum = _print_Product = _refused  # sympy prints loops over numbers one by one

    def _print_ComplexInfinity(self, number: Any) -> str:
        return "np.nan"

    def _print_special(self, expression: Any) -> str:
        name = type(expression).__name__
        return f"{_SPECIAL[name]}({self._print(expression.args[0])})"

    _print_erf = _print_erfc = _print_gamma = _print_loggamma = _print_special

    def _print_factorial(self, expression: Any) -> str:
        return f"gamma({self._print(expression.args[0])} + 1)"

    def _print_besselj(self, expression: Any) -> str:
        return f"bessel({_bessel_order(expression)}, {self._print(expression.argument)})"

    def _print_Max(self, expression: Any) -> str:
        return self._print_extreme("maximum", expression.args)

    def _print_Min(self, expression: Any) -> str:
        return self._print_extreme("minimum", expression.args)

    def _print_extreme(self, name: str, parts: Sequence[Any]) -> str:
        first, *others = map(self._print, parts)
        for part in others:
            first = f"np.{name}({first}, {part})"
        return first

    def doprint(self, expr: Any, assign_to: Any = None) -> str:
        """The code, which needs numpy and special.py alone.

        Raises:
            PrintMethodNotImplementedError: sympy's code needs another module, or math for numbers one by one.
        """
        self.module_imports.clear()
        code = super().doprint(expr, assign_to)
        foreign = self.module_imports.keys() - {"numpy"}
        if foreign:
            raise PrintMethodNotImplementedError(f"{expr} needs {', '.join(sorted(foreign))}")
        return str(code)


def _bessel_order(expression: Any) -> Any:
    return expression.order if expression.order in (0, 1) else _refused(None, expression)


def c_expression(expression: sympy.Expr, prefix: str, single: bool = False) -> str:
    """An expression in C99 with math.h and `c_helpers`.

    Args:
        expression: of symbols whose names are C expressions.
        prefix: beginning of the names of helpers.
        single: whether to compute in float, not double.

    Raises:
        ValueError: it has a function that C doesn't know.
    """
    settings: dict[str, Any] = {"type_aliases": {real: float32}} if single else {}
    return _printed(_C(prefix, settings | {"math_macros": {}}), expression, "C")  # M_PI is not in C99


def c_helpers(lines: Sequence[str], prefix: str) -> list[str]:
    """Definitions of the functions in these lines of `c_expression` that math.h lacks."""
    return [
        helper.replace("kan_", f"{prefix}_")
        for name, helper in (("sign", C_SIGN), ("bessel", C_BESSEL))
        if any(f"{prefix}_{name}(" in line for line in lines)
    ]


def numpy_expression(expression: sympy.Expr) -> str:
    """An expression in Python with numpy as np, and with the functions of special.py.

    Raises:
        ValueError: it has a function that numpy doesn't know.
    """
    return _printed(_NumPy(), expression, "numpy").replace("numpy.", "np.")


def c_source(formulas: Sequence[sympy.Expr], symbols: Sequence[sympy.Symbol], name: str = "formula") -> str:
    """Source of `void name(const double *x, double *y)` in C99, which needs nothing but math.h.

    Args:
        formulas: formulas of the numbers in y; `model.symbolic_formula()` gives them and the symbols.
        symbols: symbols of the numbers in x.
        name: name of the function; everything else in the file is static, with names that begin with this one.

    Raises:
        ValueError: a function in the formulas has no formula itself or is unknown in C; a symbol is missing in
            `symbols`; or `name` is no identifier, or one that C or its library has already.
    """
    check_c_name(name)
    steps, results = _steps(formulas, symbols)
    body = [f"  const double {step} = {c_expression(value, name)};" for step, value in steps]
    body += [f"  y[{k}] = {c_expression(result, name)};" for k, result in enumerate(results)]
    prototype = f"void {name}(const double *x, double *y)"
    about = f"/* x: {_ascii(symbols)}; y: {len(formulas)} numbers. C99; link with -lm. */"
    head = [about, f"{prototype};", "", "#include <math.h>", "", *c_helpers(body, name)]
    return "\n".join([*head, f"{prototype} {{", *body, "}", ""])


def numpy_source(formulas: Sequence[sympy.Expr], symbols: Sequence[sympy.Symbol], name: str = "formula") -> str:
    """A Python module with a function of one array, `(..., len(symbols))` to `(..., len(formulas))`; it needs numpy.

    Args:
        formulas: see `c_source`.
        symbols: see `c_source`.
        name: name of the function.

    Raises:
        ValueError: as `c_source`; or `name` is a keyword, or a name that the module uses itself, such as np.
    """
    steps, results = _steps(formulas, symbols)
    lines = [f"{step} = {numpy_expression(value)}" for step, value in steps]
    lines.append(f"y = [{', '.join(map(numpy_expression, results))}]")
    beyond = re.search(r"(?<!\.)\b(erfc?|bessel|(log_)?gamma)\(", "".join(lines))
    head = inspect.getsource(special) if beyond else "import numpy as np\n"
    inner = "".join(f"        {line}\n" for line in lines)
    body = (
        f'    """{_ascii(symbols)}: (..., {len(symbols)}) to (..., {len(formulas)})."""\n'
        "    x = np.moveaxis(np.asarray(x, dtype=float), -1, 0)\n"
        f"    if len(x) != {len(symbols)}:\n"
        f'        raise ValueError(f"expected last dimension {len(symbols)}, got {{len(x)}}")\n'
        '    with np.errstate(all="ignore"):\n'
        f"{inner}"
        "    return np.stack([np.broadcast_to(part, x.shape[1:]) for part in y], -1)\n"
    )
    check_python_name(name, f"{head}\n\ndef _(x):\n{body}")
    return f"{head}\n\ndef {name}(x):\n{body}"


def numpy_function(
    formulas: Sequence[sympy.Expr], symbols: Sequence[sympy.Symbol]
) -> Callable[[npt.ArrayLike], npt.NDArray]:
    """The function that `numpy_source` writes; without warnings, it is NaN or infinite where the formulas are."""
    scope: dict[str, Any] = {}
    exec(numpy_source(formulas, symbols), scope)
    return scope["formula"]


def latex(formulas: Sequence[sympy.Expr], names: Sequence[str] | None = None) -> str:
    r"""Equations for LaTeX, in an `align*` environment (amsmath) if there are several.

    Args:
        formulas: see `c_source`.
        names: the left-hand sides, in LaTeX; None for y, or y_1, y_2, ...
    """
    several = len(formulas) > 1
    names = [f"y_{{{k + 1}}}" if several else "y" for k in range(len(formulas))] if names is None else names
    if len(names) != len(formulas):
        raise ValueError(f"names must have an entry for each of {len(formulas)} formulas, got {len(names)}")
    symbols = set().union(*(formula.free_symbols for formula in formulas))
    plain = {symbol: rf"\mathrm{{{escaped(symbol.name)}}}" for symbol in symbols if set("%#$&~") & set(symbol.name)}
    texts = [sympy.latex(formula, symbol_names=plain) for formula in formulas]
    lines = [f"{name} {'&' if several else ''}= {text}" for name, text in zip(names, texts, strict=True)]
    body = " \\\\\n".join(lines)
    return f"\\begin{{align*}}\n{body}\n\\end{{align*}}" if several else body


def text(formula: sympy.Expr) -> str:
    """A formula as sympy prints it, but a number alone without zeros at its end."""
    return str(sympy.sstr(formula, full_prec=False))


def escaped(name: str) -> str:
    """A name as text for LaTeX."""
    return "".join(_LATEX.get(letter, letter) for letter in name)


def _steps(formulas: Sequence[sympy.Expr], symbols: Sequence[sympy.Symbol]) -> tuple[Any, list[sympy.Expr]]:
    """Common parts of formulas, each as (name, value), and the remaining formulas; symbols become x[0], x[1], ..."""
    if not all(isinstance(symbol, sympy.Symbol) for symbol in symbols):
        raise ValueError(f"symbols must be sympy symbols, got {list(symbols)}")
    missing = set().union(*(formula.free_symbols for formula in formulas)) - set(symbols)
    if missing:
        raise ValueError(f"the formulas have symbols that are not among {list(symbols)}: {sorted(map(str, missing))}")
    entries = {symbol: sympy.Symbol(f"x[{i}]") for i, symbol in enumerate(symbols)}
    with sympy.evaluate(False):  # large functions take seconds to evaluate anew
        renamed = [formula.xreplace(entries) for formula in formulas]
        return sympy.cse(renamed, sympy.numbered_symbols("t"), order="none")


def _ascii(symbols: Sequence[sympy.Symbol]) -> str:
    return re.sub(r"[^\w ,.^+-]", "_", ", ".join(map(str, symbols)), flags=re.ASCII)


def _printed(printer: Any, expression: sympy.Expr, language: str) -> str:
    try:
        return printer.doprint(expression)
    except PrintMethodNotImplementedError as error:
        raise ValueError(
            f"{', '.join(_unknown(printer, expression))} can't be written in {language}; give a function of your own a "
            "formula in functions that sympy knows: add_symbolic(name, fun, expression='sin(z)/z')"
        ) from error


def _unknown(printer: Any, expression: sympy.Expr) -> list[str]:
    """Names of the functions, or of other parts of an expression, that the printer does not know."""
    known: dict[sympy.Basic, bool] = {}
    names = set()
    for part in sympy.postorder_traversal(expression):
        if part not in known:
            known[part] = _is_known(printer, part)
            if not known[part] and all(known[argument] for argument in part.args):
                names.add(type(part).__name__ if part.args else str(part))
    return sorted(names)


def _is_known(printer: Any, part: sympy.Basic) -> bool:
    try:
        printer.doprint(part)
    except PrintMethodNotImplementedError:
        return False
    return True
