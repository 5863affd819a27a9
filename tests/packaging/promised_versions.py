"""What pyproject.toml promises to run with, as requirements for pip: `oldest` prints exact bounds, `newest` ranges.

Triton is left to torch, each release of which brings the one it works with.
"""

import re
import sys
from pathlib import Path

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def promised() -> list[str]:
    """Every requirement with a lower bound, of the package, its extras and its build, as `name>=version`."""
    found = set(re.findall(r'"(\w[\w.-]*(?:\[\w+\])?>=[\w.]+)', PYPROJECT.read_text()))
    return sorted(requirement for requirement in found if not requirement.startswith("triton"))


if __name__ == "__main__":
    exact = sys.argv[1] == "oldest"
    for requirement in promised():
        print(requirement.replace(">=", "==") if exact else requirement)
