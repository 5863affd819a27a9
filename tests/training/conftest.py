"""Fixtures of these tests."""

import pytest
import torch

from tests.helpers.fitting import target


@pytest.fixture
def dataset():
    x, test = torch.rand(200, 2).double() * 2 - 1, torch.rand(100, 2).double() * 2 - 1
    return {"train_input": x, "train_label": target(x), "test_input": test, "test_label": target(test)}
