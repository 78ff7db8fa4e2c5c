"""A run by the kernels draws with a draft tree what it draws without one, in Triton's interpreter."""

from __future__ import annotations

import importlib.util

import pytest

from .test_kernels import report_of

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.mark.slow
def test_a_tree_draws_what_ar_draws_by_the_kernels_and_saves_forwards() -> None:
    runs = report_of("tests.tree_decodes", TRITON_INTERPRET="1")
    assert runs["tree"]["codes"] == runs["no tree"]["codes"] == runs["ar"]["codes"]
    assert sum(runs["tree"]["lengths"]) == sum(runs["ar"]["lengths"])
    assert runs["tree"]["nfe"] < runs["no tree"]["nfe"] < runs["ar"]["nfe"]
