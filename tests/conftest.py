"""For all tests."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small models gain nothing from threads, which on a busy machine wait for one another."""
    torch.set_num_threads(1)
