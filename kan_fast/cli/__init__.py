"""The command line: `python -m kan_fast COMMAND`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from kan_fast._version import __version__
from kan_fast.cli import commands
from kan_fast.cli.messages import Refused, any_text

TABLES = ("pandas", "sklearn", "matplotlib")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. `arguments` are those of the process unless given."""
    with any_text():
        return _run(_parser().parse_args(arguments))


def _run(options: argparse.Namespace) -> int:
    try:
        for module in options.needs:
            __import__(module)
        return options.run(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as missing:
        if missing.name not in options.needs:
            raise
        extra = "demo" if options.command == "demo" else "table"
        print(
            f"{options.command} needs {missing.name}; install it with: pip install 'kan_fast[{extra}]'", file=sys.stderr
        )
    except BrokenPipeError:  # a reader such as head has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Refused, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kan_fast", description="Kolmogorov-Arnold Networks")
    parser.add_argument("--version", action="version", version=f"kan_fast {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, dest="command")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], help: str, needs: Sequence[str] = ()
    ) -> argparse.ArgumentParser:
        added = subparsers.add_parser(name, help=help, description=help)
        added.set_defaults(run=run, needs=needs)
        return added

    demo = command("demo", commands.demo, "KANs on three problems, next to MLPs (1 to 2 minutes)", TABLES[1:])
    demo.add_argument("--out", type=Path, default=Path("demo_output"), help="folder for the results (%(default)s)")

    fit = command("fit", commands.fit, "learn a column of a table from the others", TABLES)
    fit.add_argument("table", type=Path, help="CSV, TSV or Parquet file with a header")
    fit.add_argument("--target", required=True, metavar="COLUMN", help="the column to predict")
    fit.add_argument("--task", choices=("auto", "regression", "classification"), default="auto")
    fit.add_argument("--symbolic", action="store_true", help="look for a formula as well")
    fit.add_argument("--out", type=Path, metavar="DIR", help="folder for model and report (TABLE's name and _kan)")
    fit.add_argument("--drop", action="append", default=[], metavar="COLUMN", help="leave a column out; repeatable")
    fit.add_argument("--hidden", metavar="N[,N]", help="hidden nodes, or 'none' (16; 2 for formulas of classes)")
    fit.add_argument("--grid", type=int, default=5, help="spans of the grids (%(default)s)")
    fit.add_argument("--steps", type=int, help="steps of training (100 epochs, at least 500 steps)")
    fit.add_argument("--test", type=float, default=0.2, metavar="SHARE", help="of rows held out (%(default)s)")
    fit.add_argument("--seed", type=int, default=0, help="of split, initial parameters and batches (%(default)s)")
    fit.add_argument("--quiet", action="store_true", help="no progress bars")

    predict = command("predict", commands.predict, "predict the rows of a table with a saved model", TABLES[:2])
    predict.add_argument("model", type=Path, help="model.kan that fit wrote, or its folder")
    predict.add_argument("table", type=Path)
    predict.add_argument("--out", type=Path, metavar="CSV", help="file to write (standard output)")
    predict.add_argument(
        "--verbatim", action="store_true", help="write names that a spreadsheet takes for formulas as they are"
    )

    formula = command("formula", commands.formula, "the formula of a saved model", TABLES[1:2])
    formula.add_argument("model", type=Path, help="of fit --symbolic")
    formula.add_argument("--format", choices=commands.LANGUAGES, default="text")

    plot = command("plot", commands.plot, "a picture of a saved model", TABLES[1:])
    plot.add_argument("model", type=Path)
    plot.add_argument("--table", type=Path, help="samples to draw the curves over (points spread over the grids)")
    plot.add_argument("--out", type=Path, default=Path("network.png"), help="PNG, SVG or PDF (%(default)s)")

    command("doctor", commands.doctor, "backends with reasons, versions, and a check of the kernels")
    return parser
