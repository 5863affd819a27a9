"""README's recipe on many formulas: `python -m bench.recipe [CASE ...] [--seeds N] [--isa NAME] [--results FILE]`.

Each formula is a function of a sum, as exp(sin(pi x) + y^2) is, or a product. The recipe has found it if the error of
the formula on 1,000 other samples (RMSE) is below 1e-6 in the end. Cases of the group "developed on" were looked at
while training and the choice of functions were made; those "kept back" were not.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.timing import machine
from kan_fast import KAN
from kan_fast.ops import native
from kan_fast.pykan.utils import create_dataset

FOUND = 1e-6
HEAD = "| formula | found | hidden nodes after pruning | RMSE of splines, median | of formulas, worst | seconds |"
DEVELOPED = {
    "exp(sin(pi*x) + y**2)": 2,
    "sin(x**2 + 2*y)": 2,
    "tanh(x + y**2)": 2,
    "log(2.5 + sin(2*x) + y**2 + z/2)": 3,
    "(x + sin(2*y))**2": 2,
    "exp(-x**2 - y**2/2 + z)": 3,
    "sqrt(x**2 + y**2 + 1)": 2,
    "1/(1.5 + x**2 + cos(3*y))": 2,
    "exp(-(x + y**2)**2)": 2,
}
KEPT_BACK = {
    "cos(2*x + y**2 - z)": 3,
    "exp(tanh(2*x) + sin(3*y)/2)": 2,
    "sqrt(2.6 + sin(3*x) + y - z**2/2)": 3,
    "sin(exp(x) + cos(2*y))": 2,
    "tanh(1.5*x - y**3 + sin(2*z)/2)": 3,
    "log(1.3 + tanh(3*x) + y**2)": 2,
    "(exp(x) - y**2)**2": 2,
    "1/(2 + sin(pi*x) + y**2 + z**3/2)": 3,
    "x*y": 2,
}


@dataclass(frozen=True)
class Run:
    """The recipe with one seed."""

    width: list[int]  # hidden nodes that pruning left
    spline: float  # RMSE on test data before functions took the place of splines
    error: float  # and in the end
    seconds: float


def run(formula: str, inputs: int, seed: int) -> Run:
    """README's lines."""
    names = {"pi": torch.pi, **{name: getattr(torch, name) for name in ("exp", "sin", "cos", "tanh", "log", "sqrt")}}
    code = compile(formula, formula, "eval")
    start = time.process_time()
    dataset = create_dataset(
        lambda x: eval(code, names, {name: x[:, [i]] for i, name in enumerate("xyz"[:inputs])}), n_var=inputs
    )
    model = KAN(width=[inputs, 5, 1], grid=3, k=3, seed=seed)
    model.fit(dataset, steps=50, lamb=0.01, progress=False)
    model = model.prune()
    model.fit(dataset, steps=20, progress=False)
    model = model.refine(10)
    spline = model.fit(dataset, steps=20, progress=False)["test_loss"][-1]
    model.auto_symbolic()
    error = model.fit(dataset, steps=20, progress=False)["test_loss"][-1]
    return Run([nodes.width for nodes in model.nodes[:-1]], spline, error, time.process_time() - start)


def row(formula: str, runs: list[Run]) -> str:
    """A line of the table."""
    errors, found = [r.error for r in runs], sum(r.error < FOUND for r in runs)
    nodes = "/".join(str(sum(r.width)) for r in runs)
    spline, seconds = (statistics.median(getattr(r, name) for r in runs) for name in ("spline", "seconds"))
    return f"| `{formula}` | {found}/{len(runs)} | {nodes} | {spline:.0e} | {max(errors):.0e} | {seconds:.1f} |"


def tables(parts: list[str], seeds: int) -> str:
    """Run the formulas that contain one of the parts, and print their lines; returns all as Markdown."""
    on = machine()
    lines = [f"{on['processor']}, {on['backend']}, torch {on['torch']}, Python {on['python']}; {seeds} seeds.\n"]
    for title, group in (("Developed on", DEVELOPED), ("Kept back", KEPT_BACK)):
        lines += [f"## {title}\n", HEAD, "|---|---|---|---|---|---|"]
        print("\n".join(lines[-3:]), flush=True)
        for formula, inputs in group.items():
            if not parts or any(part in formula for part in parts):
                lines.append(row(formula, [run(formula, inputs, seed) for seed in range(seeds)]))
                print(lines[-1], flush=True)
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run the chosen formulas and print their table."""
    parser = argparse.ArgumentParser(prog="python -m bench.recipe", description="README's recipe, formula by formula.")
    parser.add_argument("formulas", nargs="*", metavar="FORMULA", help="all by default; a part of it is enough")
    parser.add_argument("--seeds", type=int, default=10, help="0 .. N-1 (default 10)")
    parser.add_argument("--isa", choices=native.isas(), help="instruction set of the kernels (default: the best)")
    parser.add_argument("--results", type=Path, help="file for the tables (default: printed only)")
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with nullcontext() if options.isa is None else native.use_isa(options.isa):
        text = tables(options.formulas, options.seeds)
    if options.results:
        options.results.write_text(text)


if __name__ == "__main__":
    main()
