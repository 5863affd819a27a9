"""The demo: handwritten digits, the diabetes table and two moons; text, pictures and a JSON file with all figures."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from kan_fast._support import files
from kan_fast._version import __version__
from kan_fast.demo import diabetes, digits, moons
from kan_fast.ops.dispatch import backends


def run(out: Path) -> dict[str, Any]:
    """Run all parts, print what they find and write pictures and `figures.json` into the folder `out`.

    Returns:
        The content of `figures.json`.
    """
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    cpu = backends()["cpu"]
    print(f"kan_fast {__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads, cpu backend {cpu}")
    figures: dict[str, Any] = {
        "kan_fast": __version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "cpu_backend": str(cpu),
    }
    for part in (digits, diabetes, moons):
        print(f"\n{part.TITLE}")
        figures[part.__name__.rpartition(".")[2]] = part.run(out)
    figures["seconds"] = time.perf_counter() - start
    files.write(out / "figures.json", f"{json.dumps(figures, indent=2)}\n".encode())
    print(f"\n{figures['seconds']:.0f} s. Pictures and figures.json are in {out}")
    return figures
