"""Fixtures of these tests."""

import numpy as np
import pytest

from tests.helpers.command_line import houses, run


@pytest.fixture
def fitted(tmp_path, capsys):
    """A table with gaps, its model and report, and what was printed."""
    table = houses()
    table.loc[::40, "size m2"] = np.nan
    table.loc[::50, "town"] = None
    table.loc[7, "price"] = np.nan
    table.to_csv(tmp_path / "houses.csv", index=False)
    assert run("fit", tmp_path / "houses.csv", "--target", "price", "--steps", 150, "--quiet") == 0
    return tmp_path, capsys.readouterr()
