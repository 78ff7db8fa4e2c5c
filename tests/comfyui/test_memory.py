"""Too little memory, estimated or at an allocation: one clear message on the node, and a smaller run then works."""

from __future__ import annotations

import numpy as np
import pytest
from workflows import DECODE, MODEL, SAMPLER, SAVE, text_to_image

# A custom node that simulates a host with little memory, or a full one, while a file of that name exists.
FAULTS = """
from pathlib import Path

import torch

NODE_CLASS_MAPPINGS = {}
BASE = Path(__file__).parents[1]
bmm, silu = torch.bmm, torch.nn.functional.silu
read_text = Path.read_text


def small(path, *args, **kwargs):
    if path != Path("/proc/meminfo") or not (BASE / "small").exists():
        return read_text(path, *args, **kwargs)
    return "MemTotal: 24000000 kB\\nMemAvailable: 200000 kB\\n"


def full(queries, *args, **kwargs):
    # Attention over the cache of eight rows, each of the demo's four heads.
    if (BASE / "full").exists() and len(queries) >= 8 * 4:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    return bmm(queries, *args, **kwargs)


def full_picture(x, inplace=False):
    if (BASE / "no strips").exists() and x.ndim == 4 or (BASE / "no whole").exists() and x.ndim == 4 and not inplace:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    return silu(x, inplace)


torch.nn.functional.silu = full_picture
Path.read_text = small
torch.bmm = full
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    """A separate server, since the faults patch its process."""
    from comfy_server import ComfyServer, find_comfyui

    class FaultyServer(ComfyServer):
        def _make_folders(self) -> None:
            super()._make_folders()
            (self.base / "custom_nodes" / "faults.py").write_text(FAULTS)

    found = find_comfyui()
    if isinstance(found, str):
        pytest.skip(found)
    with FaultyServer(*found, tmp_path_factory.mktemp("faults")) as running:
        yield running


@pytest.fixture
def fault(server):
    """Enables a fault until the test ends."""
    made = []

    def switch(name: str):
        made.append(server.base / name)
        made[-1].touch()
        return made[-1]

    yield switch
    for path in made:
        path.unlink(missing_ok=True)


def test_a_run_that_cannot_fit_is_refused_before_it_starts(server, fault):
    fault("small")
    refused = server.run(text_to_image(seed=1, batch_size=64))
    assert refused.error["node_id"] == SAMPLER and SAMPLER not in {node for node, *_ in refused.progress}
    message = refused.error["exception_message"]
    assert (
        "64 pictures of 96x96 would take about" in message
        and "there are 0.2 GB; smaller settings that fit: batch " in message
    )
    assert refused.error["exception_type"] == "MemoryError"
    assert server.run(text_to_image(seed=1, batch_size=2)).succeeded


def test_out_of_memory_during_a_run_is_an_error_and_a_smaller_run_works(server, fault):
    fault("full")
    failed = server.run(text_to_image(seed=2, batch_size=4))
    assert failed.error["node_id"] == SAMPLER
    message = failed.error["exception_message"]
    assert (
        "out of memory while drawing 4 pictures of 96x96" in message and "smaller settings that fit: batch " in message
    )
    smaller = server.run(text_to_image(seed=2, batch_size=1))
    assert smaller.succeeded and MODEL not in smaller.executed


def test_the_same_run_works_once_memory_is_free(server, fault):
    path = fault("full")
    assert server.run(text_to_image(seed=3, batch_size=4)).error
    path.unlink()
    assert server.run(text_to_image(seed=3, batch_size=4)).succeeded


@pytest.mark.parametrize("decode", ["VAEDecode", "LuminaMGPT2_MoVQGANDecode"])
def test_a_picture_that_does_not_fit_whole_is_decoded_in_strips(server, fault, decode):
    workflow = text_to_image(seed=4)
    workflow[DECODE]["class_type"] = decode
    expected = server.pictures(server.run(workflow), SAVE)[0]
    server.free()
    fault("no whole")
    run = server.run(workflow)
    assert run.succeeded, run.error
    assert "out of memory while decoding a picture of 96x96 whole: retrying in strips" in server.log
    off = np.abs(np.asarray(server.pictures(run, SAVE)[0], int) - np.asarray(expected, int))
    assert off.max() <= 1


def test_a_picture_that_does_not_fit_in_strips_either_is_an_error(server, fault):
    path = fault("no strips")
    failed = server.run(text_to_image(seed=6))
    assert failed.error["node_id"] == DECODE and failed.error["exception_type"] == "MemoryError"
    assert "out of memory while decoding a picture of 96x96, which takes about" in failed.error["exception_message"]
    path.unlink()
    assert server.run(text_to_image(seed=6)).succeeded
