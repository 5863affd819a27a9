"""Random calls of the operators and of the public Python interface, right ones and wrong ones.

    python -m tests.fuzz.calls 10000         # that many calls; `make sanitize` makes some under AddressSanitizer
    python -m tests.fuzz.calls 1 --seed 4711 # one of them again

A wrong call must end in a TypeError or ValueError that says something; what a right one gives is compared with the
reference in float64. Every call has its own seed, which is printed with a failure.
"""

from __future__ import annotations

import argparse
import random
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable

import torch

from tests.fuzz import interface, operators

KINDS: dict[str, Callable[[random.Random], str]] = {
    "operator": operators.call,
    "functional": interface.functional_call,
    "layer": interface.layer_calls,
    "grids": interface.grid_call,
    "network": interface.network_calls,
}
SHARES = (5, 1, 2, 1, 1)
# Errors of torch itself that come before or instead of ours.
TORCH = ("kan_fast::", "can be differentiated once", "not enough memory", "DefaultCPUAllocator")


def attempt(seed: int) -> str:
    """One call; returns what kind it was and how it ended.

    Raises:
        Exception: anything but a right result or an error with a message.
    """
    choose = random.Random(seed)
    torch.manual_seed(seed)
    (kind,) = choose.choices(list(KINDS), SHARES)
    try:
        return f"{kind}: {KINDS[kind](choose)}"
    except (TypeError, ValueError) as error:
        if len(str(error)) < 10 or _of_python(error):
            raise
        return f"{kind}: {type(error).__name__}"
    except RuntimeError as error:
        if not any(part in str(error) for part in TORCH):
            raise
        return f"{kind}: RuntimeError of torch"


def _of_python(error: Exception) -> bool:
    """Whether it was not raised on purpose: the last line that ran is no `raise` and not in torch."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "raise" not in (last.line or "raise") and "/torch/" not in last.filename


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("calls", type=int, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the next ones have the next seeds")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    ends: Counter[str] = Counter()
    for seed in range(options.seed, options.seed + options.calls):
        if seed % 500 == 0:
            print(f"from seed {seed} on", flush=True)  # where to look after a crash
        try:
            ends[attempt(seed)] += 1
        except Exception:
            ends["FAILED"] += 1
            print(f"seed {seed}:\n{traceback.format_exc(limit=-8)}", flush=True)
    for end, count in sorted(ends.items()):
        print(f"{count:6} {end}")
    return int(ends["FAILED"] > 0)


if __name__ == "__main__":
    sys.exit(main())
