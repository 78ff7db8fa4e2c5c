"""Buffers hand out the same memory again, and never move what a graph holds."""

from __future__ import annotations

import torch

from lumina_core.kernels.buffers import Buffers, empty


def test_a_result_has_the_same_memory_every_time() -> None:
    buffers = Buffers("cpu")
    first = buffers.empty("sums", (2, 3), torch.float32)
    assert first.shape == (2, 3) and first.dtype == torch.float32
    assert buffers.empty("sums", (2, 3), torch.float32) is first


def test_results_of_other_names_and_dtypes_have_memory_of_their_own() -> None:
    buffers = Buffers("cpu")
    keys = (("a", torch.float32), ("b", torch.float32), ("a", torch.bfloat16))
    places = {buffers.empty(name, (4,), dtype).data_ptr() for name, dtype in keys}
    assert len(places) == len(keys)


def test_smaller_shapes_share_the_memory_of_the_largest() -> None:
    buffers = Buffers("cpu")
    large = buffers.empty("x", (8, 4), torch.float32)
    assert buffers.empty("x", (2, 4), torch.float32).data_ptr() == large.data_ptr()
    assert buffers.nbytes == large.nbytes


def test_a_larger_shape_leaves_what_was_handed_out_in_place() -> None:
    buffers = Buffers("cpu")
    small = buffers.empty("x", (2,), torch.int64).fill_(7)
    large = buffers.empty("x", (9,), torch.int64).fill_(0)
    assert small.tolist() == [7, 7] and buffers.empty("x", (2,), torch.int64) is small
    assert buffers.nbytes == small.nbytes + large.nbytes


def test_without_buffers_every_result_is_new() -> None:
    first, second = (empty(None, "x", (4,), torch.float32, torch.device("cpu")) for _ in range(2))
    assert first.data_ptr() != second.data_ptr()
