"""pytest-benchmark: every case, contender and measure of the side-by-side runner as a benchmark of its own.

    pytest bench -k 1000x2x5 --benchmark-autosave
    pytest-benchmark compare --group-by=group

One group for each case and measure. For claims take the side-by-side runner, whose ratios survive a busy machine.
"""

from __future__ import annotations

from functools import lru_cache

import pytest

from bench.cases import CASES, Case
from bench.contenders import MEASURES, Contender, build, names

PAIRS = [pytest.param(case, name, id=f"{case.name}-{name}") for case in CASES for name in names(case)]


@lru_cache(maxsize=1)
def built(case: Case) -> tuple[dict[str, Contender], dict[str, str]]:
    """The contenders of a case, behind the gate, and why others are left out."""
    return build(case, with_peers=True)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(("case", "name"), PAIRS)
def test_case(benchmark, case, name, measure):
    contenders, left_out = built(case)
    if name in left_out:
        pytest.skip(left_out[name])
    benchmark.group = f"{case.name}: {measure}"
    benchmark(MEASURES[measure](contenders[name]))
