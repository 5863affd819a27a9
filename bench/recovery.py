"""Formulas from data: `python -m bench.recovery [CASE ...] [--seeds N] [--group GROUP] [--results DIR]`.

`KAN.discover` gets 1,000 samples of every formula for every seed, and has found it if its formula, with constants
replaced by simple numbers that are within 1e-3 (0 for those below 1e-4), is the same function to 1e-9. Cases that were
not run keep the results that the JSON file has of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from bench.timing import machine
from kan_fast import KAN
from kan_fast.optim import LevenbergMarquardt
from kan_fast.symbolic.expressions.constants import recognised

SAMPLES = 1000
RESULTS = Path(__file__).parent / "results"
Range = tuple[float, float]


def from_ode(x: Tensor, seed: int) -> Tensor:
    """y' = -y, y(0) = 1, as a KAN solves it from the residual."""
    model = KAN([1, 1], grid=20, grid_range=(0, 5), seed=seed, dtype=torch.float64)
    optimizer = LevenbergMarquardt(model)
    zero = torch.zeros(1, 1, dtype=torch.float64)

    def residuals() -> tuple[Tensor, Tensor]:
        t = x.detach().requires_grad_()
        y = model(t)
        (slope,) = torch.autograd.grad(y.sum(), t, create_graph=True)
        return slope + y, model(zero) - 1

    for _ in range(20):
        optimizer.step(residuals)
    return model(x).detach()


@dataclass(frozen=True)
class Case:
    """A formula in x_1, x_2, ..., the ranges of these, and what y is if not the formula itself."""

    formula: str
    ranges: tuple[Range, ...]
    group: str
    source: str = ""
    noise: float = 0.0  # standard deviation, in units of that of y
    labels: Callable[[Tensor, int], Tensor] | None = None

    @property
    def key(self) -> str:
        """What tells it from the others."""
        return f"{self.formula} {self.ranges} {self.noise}"


def cases() -> list[Case]:
    """Those of the recovery target, formulas of physics as the KAN paper has them (without units), and others."""
    square, positive = ((-1.0, 1.0),) * 2, ((1.0, 3.0),) * 2
    target = [
        ("exp(sin(pi*x_1) + x_2**2)", square),
        ("x_1*x_2", square),
        ("sqrt(x_1**2 + x_2**2)", square),
        ("sin(x_1) + cos(2*x_2) + x_3**2", (*square, (-1, 1))),
        ("(x_1 + x_2)/(1 + x_1*x_2)", ((-0.95, 0.95),) * 2),
        ("log(1 + x_1**2)", ((-3, 3),)),
    ]
    feynman = [
        ("I.6.2", "exp(-x_1**2/(2*x_2**2))/sqrt(2*pi*x_2**2)", ((-2, 2), (1, 3))),
        ("I.12.11", "1 + x_1*sin(x_2)", ((0, 2), (0, 6))),
        ("I.15.3x", "(1 - x_1)/sqrt(1 - x_2**2)", ((0, 2), (-0.9, 0.9))),
        ("I.18.4", "(1 + x_1*x_2)/(1 + x_1)", ((0.5, 3), (0.5, 3))),
        ("I.26.2", "asin(x_1*sin(x_2))", ((0, 0.9), (0, 1.5))),
        ("I.27.6", "1/(1 + x_1*x_2)", ((0, 2), (0, 2))),
        ("I.30.5", "asin(x_1/x_2)", ((0, 1), (1.2, 3))),
        ("I.37.4", "1 + x_1 + 2*sqrt(x_1)*cos(x_2)", ((0.1, 2), (0, 6))),
        ("I.40.1", "x_1*exp(-x_2)", ((0.5, 2), (0, 3))),
        ("I.44.4", "x_1*log(x_2)", ((0.5, 2), (0.5, 3))),
        ("I.50.26", "cos(x_1) + x_2*cos(x_1)**2", ((0, 4), (0, 2))),
        ("II.2.42", "(x_1 - 1)*x_2", ((0, 3), (0, 2))),
        ("II.6.15a", "x_3*sqrt(x_1**2 + x_2**2)/(4*pi)", ((0.5, 2), (0.5, 2), (0.5, 2))),
        ("II.11.7", "x_1*(1 + x_2*cos(x_3))", ((0.5, 2), (0, 2), (0, 6))),
        ("II.11.27", "x_1*x_2/(1 - x_1*x_2/3)", ((0, 1), (0, 2))),
        ("II.35.18", "x_1/(exp(x_2) + exp(-x_2))", ((0.5, 2), (-2, 2))),
        ("II.36.38", "x_1 + x_2*x_3", ((0, 2), (0, 2), (0, 2))),
        ("II.38.3", "x_1/x_2", positive),
        ("III.10.19", "sqrt(1 + x_1**2 + x_2**2)", ((0, 3), (0, 3))),
        ("III.17.37", "x_1*(1 + x_2*cos(x_3))", ((-1, 1), (-1, 1), (0, 6))),
    ]
    others = [
        ("x_1*exp(x_2) + x_3**2", (*square, (-1, 1))),
        ("exp(-x_1**2 - x_2**2)", ((-2, 2), (-2, 2))),
        ("sin(3*x_1 + 2*x_2)", square),
        ("1000*(x_1**2 - 3*x_2)", ((0, 10), (100, 200))),
        ("exp(-sqrt(x_1))", ((0, 4),)),
        ("sin(x_1**2)", ((0, 3),)),
        ("besselj(0, 20*x_1)", ((0, 1),)),
        ("exp(-x_1/2)*sin(5*x_1)", ((0, 4),)),
        ("tanh(2*x_1) + x_2*x_3", (*square, (-1, 1))),
        ("x_1*x_2*x_3", ((0.5, 2),) * 3),
        ("log(x_1 + 2*x_2 + 3*x_3)", ((1, 4),) * 3),
        ("exp(sin(pi*x_1) + x_2**2) + 0*x_3 + 0*x_4", ((-1, 1),) * 4),
        ("sqrt(x_1)", ((0, 2),)),
    ]
    one = [
        ("x_1 + sin(x_1)", (-3, 3)),
        ("x_1**3 - x_1", (-2, 2)),
        ("x_1**2 + sin(5*x_1)", (-1, 1)),
        ("exp(-x_1) + exp(-4*x_1)/2", (0, 3)),
        ("sqrt(x_1) + 1/x_1", (0.5, 3)),
        ("x_1*exp(-x_1)", (0, 5)),
        ("x_1*log(x_1)", (0.1, 4)),
        ("sin(x_1)/x_1", (0.5, 12)),
        ("x_1**2*exp(-x_1**2)", (-3, 3)),
        ("x_1*atan(x_1)", (-4, 4)),
        ("tanh(x_1) - x_1/3", (-3, 3)),
        ("sqrt(x_1)*cos(3*x_1)", (0, 4)),
        ("log(x_1) + 1/x_1**2", (0.5, 4)),
        ("1/(x_1*(1 + x_1))", (0.2, 3)),
        ("(x_1**2 + 1)*sin(x_1)", (-3, 3)),
        ("x_1**3 - 2*x_1**2 + x_1", (-1, 3)),
    ]
    noisy = [
        ("exp(sin(pi*x_1) + x_2**2)", square, 0.03),
        ("x_1*x_2", square, 0.1),
        ("x_1*exp(-x_2)", ((0.5, 2), (0, 3)), 0.03),
        ("sin(x_1) + x_2**2", ((-3, 3), (-2, 2)), 0.1),
    ]
    return [
        *(Case(formula, ranges, "target") for formula, ranges in target),
        Case("exp(-x_1)", ((0, 5),), "target", "y' = -y, y(0) = 1", labels=from_ode),
        *(Case(formula, ranges, "feynman", source) for source, formula, ranges in feynman),
        *(Case(formula, ranges, "others") for formula, ranges in others),
        *(Case(formula, (range_,), "one input") for formula, range_ in one),
        *(Case(formula, ranges, "noisy", noise=noise) for formula, ranges, noise in noisy),
    ]


def measure(case: Case, seed: int) -> dict[str, Any]:
    """Whether the formula was found, how exactly, and how long that took."""
    generator = np.random.default_rng(seed)
    low, high = np.array(case.ranges).T
    x, test = (low + (high - low) * generator.random((SAMPLES, len(low))) for _ in range(2))
    truth = _function(sympy.sympify(case.formula), len(low))
    inputs = torch.from_numpy(x)
    labels = torch.from_numpy(truth(x))[:, None] if case.labels is None else case.labels(inputs, seed)
    spread = truth(test).std()
    labels = labels + case.noise * spread * torch.from_numpy(generator.standard_normal(labels.shape))
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        model = KAN.discover((inputs, labels), seed=seed, progress=False)
    seconds = time.perf_counter() - start
    (formula,), _ = model.symbolic_formula()
    with np.errstate(all="ignore"):
        error = np.sqrt(np.mean((_function(formula, len(low))(test) - truth(test)) ** 2)) / spread
        small = {number: 0 for number in formula.atoms(sympy.Float) if abs(number) < 1e-4}
        simple = _function(recognised(formula.xreplace(small), 1e-3), len(low))(test) - truth(test)
    return {
        "found": bool(np.abs(simple).max() <= 1e-9 * np.abs(truth(test)).max()),
        "error": float(error),
        "seconds": seconds,
        "formula": str(sympy.N(formula, 5)),
        "warned": bool(raised),
    }


def _function(expression: sympy.Expr, columns: int) -> Callable[[np.ndarray], np.ndarray]:
    symbols = sympy.symbols([f"x_{n + 1}" for n in range(columns)])
    compiled = sympy.lambdify([symbols], expression, modules=["scipy", "numpy"])
    return lambda x: np.broadcast_to(np.asarray(compiled(x.T), dtype=float), len(x)).copy()


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "| formula | ranges | found | relative error, worst | seconds, median (worst) | found instead |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        runs = result["runs"]
        failed = [run for run in runs if not run["found"]]
        seconds = [run["seconds"] for run in runs]
        ranges = " ".join(f"[{low:g}, {high:g}]" for low, high in result["ranges"])
        noise = f", noise {result['noise']:g}" if result["noise"] else ""
        source = f" ({result['source']})" if result["source"] else ""
        lines.append(
            f"| `{result['formula']}`{source}{noise} | {ranges} | {len(runs) - len(failed)}/{len(runs)} | "
            f"{max(run['error'] for run in runs):.0e} | {statistics.median(seconds):.1f} ({max(seconds):.1f}) | "
            + (f"`{failed[0]['formula'][:120]}`" if failed else "")
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the chosen cases and print their table."""
    everything = cases()
    groups = sorted({case.group for case in everything})
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description="Formulas from data, case by case.")
    parser.add_argument("formulas", nargs="*", metavar="FORMULA", help="all by default; a part of it is enough")
    parser.add_argument("--group", choices=groups, action="append", help="all by default")
    parser.add_argument("--seeds", type=int, default=10, help="0 .. N-1 (default 10)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for recovery.json and recovery.md")
    options = parser.parse_args()
    chosen = [
        case
        for case in everything
        if (not options.group or case.group in options.group)
        and (not options.formulas or any(part in f"{case.formula} {case.source}" for part in options.formulas))
    ]
    torch.set_num_threads(1)
    file = options.results / "recovery.json"
    known = json.loads(file.read_text())["results"] if file.exists() else {}
    for case in chosen:
        known[case.key] = {
            "formula": case.formula,
            "source": case.source,
            "group": case.group,
            "noise": case.noise,
            "ranges": case.ranges,
            "runs": [measure(case, seed) for seed in range(options.seeds)],
        }
        print(table([known[case.key]]).splitlines()[-1], flush=True)
    results = {case.key: known[case.key] for case in everything if case.key in known}
    options.results.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))
    parts = [
        f"## {group}\n\n{table(rows)}\n"
        for group in dict.fromkeys(case.group for case in everything)
        if (rows := [result for result in results.values() if result["group"] == group])
    ]
    (options.results / "recovery.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
