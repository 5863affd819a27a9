"""Command line of the side-by-side runner: `python -m bench [case...]`."""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from bench import memory, report, side_by_side, timing
from bench.cases import CASES, MEMORY
from kan_fast.ops import native


def main() -> None:
    """Run the chosen cases and print their tables."""
    names = [case.name for case in (*CASES, MEMORY)]
    parser = argparse.ArgumentParser(prog="python -m bench", description="KANLinear and KAN side by side with others.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"all by default: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=21, help="turns of every contender (default 21)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="one thread, and its processor time instead of wall time: for a machine that is busy with other work",
    )
    parser.add_argument(
        "--isa", help="instruction set of our kernels: avx512, avx2 or baseline (default: the best one)"
    )
    parser.add_argument("--no-peers", action="store_true", help="leave out other KAN layers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables that are printed")
    options = parser.parse_args()
    unknown = set(options.cases) - set(names)
    if unknown:
        parser.error(f"unknown case {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if options.rounds < 2 or options.threads < 1:
        parser.error("--rounds must be at least 2 and --threads at least 1")
    if options.isa is not None and options.isa not in native.isas():
        parser.error(f"--isa must be one of {', '.join(native.isas())} on this processor, got {options.isa}")
    with native.use_isa(options.isa) if options.isa else nullcontext():
        run(options)


def run(options: argparse.Namespace) -> None:
    """Race, print and write as the options say."""

    torch.set_num_threads(1 if options.cpu_time else options.threads)
    clock = time.thread_time if options.cpu_time else time.perf_counter
    wanted = options.cases or [case.name for case in (*CASES, MEMORY)]
    results = {
        "machine": timing.machine(),
        "rounds": options.rounds,
        "clock": "processor time of one thread" if options.cpu_time else "wall time",
        "cases": [],
    }
    print(f"threads: {torch.get_num_threads()}, load average {os.getloadavg()[0]:.1f}", flush=True)
    for case in CASES:
        if case.name in wanted:
            result = side_by_side.race(case, options.rounds, not options.no_peers, clock)
            results["cases"].append(result)
            print("", f"### {case.name}", "", *report.times(result), sep="\n", flush=True)
    if MEMORY.name in wanted and memory.available():
        results["cases"].append(memory.race(MEMORY))
        print("", *report.peaks(results["cases"][-1]), sep="\n", flush=True)
    results["load_after"] = os.getloadavg()[0]
    print("", *report.claims(results["cases"]), sep="\n")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.markdown:
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        options.markdown.write_text(report.report(results) + "\n")


if __name__ == "__main__":
    main()
