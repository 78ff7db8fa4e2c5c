"""The threads of a run on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lumina_core.decoding.settings import DecodeSettings
from lumina_core.host.threads import ONE_THREAD_WORK, threads_for
from lumina_core.movqgan.config import PUBLISHED_MOVQGAN
from lumina_core.pipeline import Lumina
from lumina_core.timing.synthetic import SYNTHETIC

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_little_work_has_one_thread_and_the_number_is_set_back() -> None:
    with threads_for(ONE_THREAD_WORK - 1, CPU):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(KeyError), threads_for(0, CPU):
        raise KeyError
    assert torch.get_num_threads() == 3


def test_much_work_and_other_devices_keep_their_threads() -> None:
    for work, device in ((ONE_THREAD_WORK, CPU), (0, torch.device("cuda"))):
        with threads_for(work, device):
            assert torch.get_num_threads() == 3


def test_the_demo_draws_and_decodes_in_one_thread() -> None:
    lumina, seen = Lumina.load("demo"), list[int]()
    drawing = lumina.draw("a red circle", 96, 96, on_step=lambda _: seen.append(torch.get_num_threads()))
    decode = lumina.movqgan.decode

    def watched(*arguments: object) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return decode(*arguments)

    lumina.movqgan.decode = watched
    assert drawing.images and set(seen) == {1} and len(seen) > 2
    assert torch.get_num_threads() == 3


def test_published_sizes_use_all_threads() -> None:
    config = SYNTHETIC["2b"].config
    least = config.num_hidden_layers * 3 * config.hidden_size * config.intermediate_size
    rows = 2 * DecodeSettings().width
    assert rows * least > ONE_THREAD_WORK
    assert PUBLISHED_MOVQGAN.multiplications(32, 32) > ONE_THREAD_WORK
