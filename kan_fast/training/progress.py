"""The progress bar of `fit`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from tqdm import tqdm

from kan_fast._support.checks import listed
from kan_fast.training.loop import Entry, History

_REFRESH = 0.1  # seconds between new numbers


def show(bar: tqdm, entries: Iterator[Entry], shown: Sequence[str], log: int) -> None:
    """Run through the steps; the bar shows new numbers every `log` steps, but not more often than the eye can read."""
    last, entry = -_REFRESH, None
    for step, entry in enumerate(entries):
        bar.update()
        if not bar.disable and step % log == 0 and time.monotonic() - last >= _REFRESH:
            last = time.monotonic()
            bar.set_description(_text(entry, shown), refresh=False)
    if entry is not None:
        bar.set_description(_text(entry, shown), refresh=False)


def _text(entry: Entry, shown: Sequence[str]) -> str:
    return " | ".join(f"{name}: {entry[name]:.2e}" for name in shown)


def shown_names(names: str | Sequence[str] | None, history: History, tested: bool) -> Sequence[str]:
    """The names of the lists that the bar shows; by default losses and reg, that of the test if there is one.

    Raises:
        ValueError: the history has no list of a name.
    """
    if names is None:
        names = ("train_loss", "test_loss", "reg") if tested else ("train_loss", "reg")
    shown = [names] if isinstance(names, str) else listed("display_metrics", names)
    unknown = [name for name in shown if name not in history]
    if unknown:
        raise ValueError(f"unknown display_metrics {', '.join(unknown)}; allowed: {', '.join(history)}")
    return shown
