"""Results as tables in Markdown, which also read well in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def report(results: dict[str, Any]) -> str:
    """The whole report: the machine, the claims, then every contender of every case."""
    about = results["machine"]
    lines = [
        f"{about['processor']}; {about['cores']} cores, {about['threads']} threads; {about['backend']}; "
        f"torch {about['torch']}.",
        f"{results['rounds']} rounds of {results['clock']}; load average {about['load']:.1f} before, "
        f"{results['load_after']:.1f} after.",
        "",
        *claims(results["cases"]),
    ]
    for result in results["cases"]:
        lines += ["", f"### {result['case']['name']}", "", *(times(result) if "times" in result else peaks(result))]
    return "\n".join(lines)


def claims(cases: Iterable[dict[str, Any]]) -> list[str]:
    """Every bar with the measured ratio, quartiles in brackets."""
    rows = []
    for result in cases:
        for claim in result["claims"]:
            against = claim["against"] + (f" ({claim['contender']})" if claim["contender"] != claim["against"] else "")
            value = claim["median"]
            verdict = "aim" if value <= claim["aim"] else "bar" if value <= claim["bar"] else "missed"
            rows.append((result["case"]["name"], claim["measure"], against, *_ratio(claim), _number(claim["bar"]),
                         _number(claim["aim"]), verdict))  # fmt: skip
    return table(("case", "measure", "ours /", "ratio", "of minima", "bar", "aim", "reached"), rows)


def times(result: dict[str, Any]) -> list[str]:
    """Milliseconds of every contender of a case and the ratio of ours to it."""
    rows = []
    for measure, spreads in result["times"].items():
        for name, spread in spreads.items():
            ratio = result["ratios"][measure].get(name)
            milliseconds = [f"{1e3 * spread[key]:.3f}" for key in ("minimum", "median")]
            quartiles = f"{1e3 * spread['lower']:.3f} .. {1e3 * spread['upper']:.3f}"
            error = result["errors"].get(name)
            rows.append((measure, name, *milliseconds, quartiles, *(_ratio(ratio) if ratio else ("", "")),
                         f"{error:.0e}" if error is not None else ""))  # fmt: skip
    header = (
        "measure",
        "contender",
        "min ms",
        "median ms",
        "quartiles",
        f"{result['ours']} / it",
        "of minima",
        "error",
    )
    left_out = [f"{name}: left out, {why}." for name, why in result["left_out"].items()]
    return [*table(header, rows), *(["", *left_out] if left_out else [])]


def peaks(result: dict[str, Any]) -> list[str]:
    """Peak memory of every contender."""
    ours = result["peak_bytes"][result["ours"]]
    rows = [(name, f"{size / 2**20:.0f}", f"{ours / size:.2f}") for name, size in result["peak_bytes"].items()]
    return table(("contender", "peak of a training step, MiB", f"{result['ours']} / it"), rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (header, *rows)]
    cells.insert(1, ["-" * width for width in widths])
    return [f"| {' | '.join(row)} |" for row in cells]


def _ratio(ratio: dict[str, float]) -> tuple[str, str]:
    if "lower" not in ratio:
        return _number(ratio["median"]), ""
    spread = f"{_number(ratio['median'])} [{_number(ratio['lower'])}, {_number(ratio['upper'])}]"
    return spread, _number(ratio["of_minima"])


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1 else f"{value:.2f}"
