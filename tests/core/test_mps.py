"""A draw asks nothing of Apple's GPU that PyTorch refuses there, and random numbers are those of a CPU.

No such device is at hand: a stand-in refuses what PyTorch's sources say that it refuses.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchgen
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lumina_core.decoding.loop import _Run
from lumina_core.kernels import linear as linear_module
from lumina_core.kernels import noise, reference
from lumina_core.model import kv_cache
from lumina_core.pipeline import Lumina
from lumina_core.quant import select

TABLE = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
# Of PyTorch 2.5, whose table names no kernel of these for MPS. The one of later versions may.
OLDER_REFUSALS = {"index_copy.out"}


@cache
def refused_by_mps() -> frozenset[str]:
    """Operators for which PyTorch's table names kernels of other devices, and none of MPS or of every device."""
    entries = {}
    for entry in TABLE.read_text(encoding="utf-8").split("\n- func: ")[1:]:
        name = entry.partition("(")[0]
        delegate = re.search(r"^  structured_delegate: (\S+)", entry, re.MULTILINE)
        kernels = re.search(r"^  dispatch:\n((?:    .*\n)+)", entry, re.MULTILINE)
        entries[name] = delegate[1] if delegate else None, kernels[1] if kernels else "Composite"
    refused = {name for name, (_, kernels) in entries.items() if not re.search("MPS|Composite", kernels)}
    refused |= OLDER_REFUSALS
    return frozenset(name for name, (delegate, _) in entries.items() if (delegate or name) in refused)


class LikeMPS(TorchDispatchMode):
    """Refuses what MPS refuses: float64 (pytorch/pytorch#122602), and operators without a kernel."""

    on_host = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not self.on_host:
            name = function.name().removeprefix("aten::")
            assert name not in refused_by_mps(), f"MPS has no {name}"
            tensors = (each for each in tree_leaves((args, kwargs, result)) if isinstance(each, Tensor))
            assert all(each.dtype != torch.float64 for each in tensors), f"MPS has no float64, for {name}"
        return result

    @contextmanager
    def host(self) -> Iterator[None]:
        """What runs on the host, after the device."""
        self.on_host = True
        try:
            yield
        finally:
            self.on_host = False


@pytest.fixture
def like_mps(monkeypatch: pytest.MonkeyPatch) -> LikeMPS:
    """The mode; the engine computes as on a GPU without kernels."""

    def attend(self: Any, layer: int, query: Tensor, buffers: object = None) -> Tensor:
        cached = self.cache.layers[layer]
        return reference.window_attention(query, cached.keys, cached.values, self.input_pos, self.kv_len)

    mode, result = LikeMPS(), _Run.result

    def on_host(run: _Run, seconds: float) -> Any:
        with mode.host():
            return result(run, seconds)

    monkeypatch.setattr(kv_cache.WindowPlan, "attend_cached", attend)
    monkeypatch.setattr(select, "CPU_SCHEMES", ())
    monkeypatch.setattr(linear_module, "_onednn", lambda: None)
    monkeypatch.setattr(_Run, "result", on_host)
    return mode


def test_the_stand_in_refuses(like_mps: LikeMPS) -> None:
    index, values = torch.zeros(1, dtype=torch.int64), torch.zeros(3)
    with like_mps, pytest.raises(AssertionError, match="MPS has no float64"):
        values.double()
    with like_mps, pytest.raises(AssertionError, match="MPS has no index_copy_"):
        values.index_copy_(0, index, torch.ones(1))


DECODERS, CACHES = ("gumbel", "ar", "sjd", "coupled"), ("auto", "int8", "int4")
WEIGHTS = (("auto", "fp16"), ("int8", "fp16"), ("int4", "bf16"))
QUICK = {("gumbel", "auto"), ("ar", "int4"), ("sjd", "int8"), ("coupled", "int8")}


@pytest.mark.parametrize(
    ("decoder", "kv_cache"),
    [
        pytest.param(*each, marks=[] if each in QUICK else pytest.mark.slow)
        for each in itertools.product(DECODERS, CACHES)
    ],
)
def test_a_draw_asks_nothing_of_mps_that_it_refuses(
    checkpoint: Path, like_mps: LikeMPS, decoder: str, kv_cache: str
) -> None:
    """With each kind of weights in some of them."""
    weights, dtype = WEIGHTS[(2 * CACHES.index(kv_cache) + DECODERS.index(decoder)) % 3]
    with like_mps:
        lumina = Lumina.load(checkpoint, device="cpu", weights=weights, dtype=dtype)
        drawing = lumina.draw("a red square", 32, 32, decoder=decoder, kv_cache=kv_cache, window_size=4)
        assert drawing.images


@pytest.mark.parametrize("ways", ["guess", *(pytest.param(way, marks=pytest.mark.slow) for way in ("left", "random"))])
def test_new_drafts_ask_nothing_of_mps_that_it_refuses(small: Lumina, like_mps: LikeMPS, ways: str) -> None:
    for decoder in ("gumbel", "coupled"):
        with like_mps:
            small.draw("a red square", 32, 32, decoder=decoder, new_drafts=ways, window_size=4)


# Random numbers


class Truncated(TorchDispatchMode):
    """A device whose products of int64 are those of int32."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        is_product = function is torch.ops.aten.mul.Tensor and result.dtype == torch.int64
        return result.int().long() if is_product else result


def test_a_device_with_other_int64_products_leaves_random_numbers_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keys, index = noise.picture_keys([1, 2], "cpu"), torch.arange(6).view(2, 3)
    expected = noise.gumbel_noise(keys, index, 5)
    monkeypatch.setattr(noise, "KNOWN_DEVICES", ())
    test = noise.computes_hashes.__wrapped__
    assert test(torch.device("cpu"))
    mix, calls = noise.mix, []

    def mix_badly(x: Tensor) -> Tensor:
        calls.append(x)
        with Truncated():
            return mix(x) if len(calls) > 2 else x

    monkeypatch.setattr(noise, "mix", mix_badly)
    assert not test(torch.device("cpu")) and "random numbers come from the CPU" in caplog.text
    monkeypatch.setattr(noise, "mix", mix)
    monkeypatch.setattr(noise, "computes_hashes", lambda _: False)
    assert torch.equal(noise.gumbel_noise(keys, index, 5), expected)
