"""Tests of the Triton kernels in Triton's interpreter: a session of their own, started by tests/test_triton.py."""

import os

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]
else:
    import pytest
    import triton_interpreter  # noqa: F401  (before the kernels)

    import kan_fast._triton
    from kan_fast import dispatch, ops, reference
    from kan_fast._triton import plan

    TILES = dict(plan.TILES)
    SMALL = {"forward": (16, 32, 32), "grad_input": (16, 64, 16), "edge_magnitude": (16, 16, 0)}

    @pytest.fixture(autouse=True)
    def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
        """The backend "triton" exists, on the CPU, with tiles so small that a few numbers need many of them."""

        def module(name: str):
            return kan_fast._triton if name == "triton" else reference

        monkeypatch.setattr(dispatch, "module", module)
        monkeypatch.setattr(ops, "module", module)
        for kernel, entries in TILES.items():
            tile = plan.Tile(*SMALL.get(kernel.replace("edge_grad_input", "edge_magnitude"), (16, 32, 16)), 4, 1)
            monkeypatch.setitem(plan.TILES, kernel, dict.fromkeys(entries, (tile,)))

    @pytest.fixture
    def default_tiles(small_tiles: None, monkeypatch: pytest.MonkeyPatch) -> None:
        for kernel, entries in TILES.items():
            monkeypatch.setitem(plan.TILES, kernel, entries)
