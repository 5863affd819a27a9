"""Damaged files end in a ValueError that names the file, or load right; `fuzz/files.py` does so at length."""

import pytest

from tests.fuzz.file_kinds import KINDS
from tests.fuzz.files import run


@pytest.mark.parametrize("kind", KINDS)
def test_damage(kind, tmp_path):
    if kind in ("estimator", "table"):
        pytest.importorskip("sklearn")
        pytest.importorskip("pandas")
    found = run(kind, 60, tmp_path)
    assert found["ValueError"] + found["RuntimeError"] > 10
    assert found["right"] or kind == "network"
