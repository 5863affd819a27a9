"""Tests of the Triton kernels in Triton's interpreter: a session of their own, started by tests/ops/test_triton.py."""

import os

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]
else:
    import pytest

    import kan_fast.ops.triton
    import tests.ops.interpreted.triton_interpreter  # noqa: F401  (before the kernels)
    from kan_fast.ops import dispatch, operators, reference, tuning

    SAMPLES = tuning.SAMPLES
    TILES = dict(tuning.TILES)

    @pytest.fixture(autouse=True)
    def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
        """The backend "triton" exists, on the CPU, with tiles so small that a few numbers need many of them."""

        def module(name: str):
            return kan_fast.ops.triton if name == "triton" else reference

        monkeypatch.setattr(dispatch, "module", module)
        monkeypatch.setattr(operators, "module", module)
        monkeypatch.setattr(tuning, "SAMPLES", 16)
        for units in TILES:
            monkeypatch.setitem(tuning.TILES, units, (16, 16))

    @pytest.fixture
    def default_tiles(small_tiles: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tuning, "SAMPLES", SAMPLES)
        for units, tile in TILES.items():
            monkeypatch.setitem(tuning.TILES, units, tile)
