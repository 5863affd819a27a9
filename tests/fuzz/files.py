"""Damages files of every kind that the package writes: what comes of it must be a ValueError, or right.

    python -m tests.fuzz.files 10000            # of each kind; prints what was found, ends with 1 if something is wrong
    python -m tests.fuzz.files 10000 checkpoint # of one kind

"Right" after damage to bytes means: the same as without. Values in the data of a file can be replaced by others that
are as good; "right" then means a network or estimator that computes and can be saved and loaded again.
"""

from __future__ import annotations

import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

from tests.fuzz.file_kinds import KINDS


def run(name: str, count: int, folder: Path, seed: int = 0, stop: bool = True) -> Counter[str]:
    """Damage `count` files of a kind, half of them in their bytes; how often each end came."""
    kind, found = KINDS[name](folder), Counter[str]()
    for number in range(count):
        chance = random.Random(f"{name} {seed} {number}")
        damage = kind.of_data if number % 2 else kind.of_bytes
        try:
            found[damage(chance)] += 1
        except Exception as error:
            if stop:
                raise AssertionError(f"damage {number} of {name}, seed {seed}") from error
            found[f"WRONG {type(error).__name__}: {error!s:.160}"] += 1
            print(f"  {number}: {type(error).__name__}: {error!s:.160}", flush=True)
            print(*traceback.format_tb(error.__traceback__)[-3:], flush=True)
    return found


def main() -> int:
    import resource

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    wrong = 0
    warnings.simplefilter("ignore")
    for name in sys.argv[2:] or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            found = run(name, count, Path(folder), stop=False)
        wrong += sum(number for end, number in found.items() if end.startswith("WRONG"))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{name}: {dict(found.most_common())}; at most {memory:.0f} MiB so far", flush=True)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
