"""What is saved loads in a fresh process and answers with the same bits, whatever it was made of."""

import subprocess
import sys
from pathlib import Path

import pytest

from kan_fast.ops import native
from tests.fuzz.good_files import KINDS, write

ROOT = Path(__file__).parents[2]
FILES = 15


@pytest.mark.slow
def test_a_fresh_process_reads_what_was_written(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("pandas")
    for kind in [*KINDS, "checkpoint"]:
        for seed in range(FILES):
            write(kind, seed, tmp_path)
    command = [sys.executable, "-m", "tests.fuzz.good_files", str(tmp_path), *filter(None, [native.isa()])]
    reader = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert reader.returncode == 0, reader.stdout + reader.stderr
