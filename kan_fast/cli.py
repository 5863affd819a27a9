"""The command line: `python -m kan_fast COMMAND`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kan_fast._version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. `arguments` are those of the process unless given."""
    parser = argparse.ArgumentParser(prog="python -m kan_fast", description="Kolmogorov-Arnold Networks")
    parser.add_argument("--version", action="version", version=f"kan_fast {__version__}")
    commands = parser.add_subparsers(title="commands", required=True)
    demo = commands.add_parser("demo", help="KANs on three real or well-known problems, next to MLPs (1 to 2 minutes)")
    demo.add_argument("--out", type=Path, default=Path("demo_output"), help="folder for the results (%(default)s)")
    demo.set_defaults(run=_demo)
    options = parser.parse_args(arguments)
    return options.run(options)


def _demo(options: argparse.Namespace) -> int:
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
    except ModuleNotFoundError as missing:
        print(f"the demo needs {missing.name}; install it with: pip install 'kan_fast[demo]'", file=sys.stderr)
        return 1
    from kan_fast import demo

    demo.run(options.out)
    return 0
