"""Out of memory at any point: one clear message, all memory is freed, and the next run works."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lumina_core.cli.common import SMALLER
from lumina_core.cli.main import COMMANDS
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.device import explain_out_of_memory
from lumina_core.errors import CheckpointError, LuminaError, OutOfMemory
from lumina_core.kernels import reference
from lumina_core.model import kv_cache
from lumina_core.model.kv_cache import KVCache
from lumina_core.movqgan.autoencoder import MoVQGAN
from lumina_core.pipeline import Lumina

from .cli_runs import CommandLine
from .toys import toy_transformer, toy_vocabulary

CODES, LAYERS = 64, 2
REQUEST = Request([(20, 21, 4)] * 3, 8, 4, settings=DecodeSettings(window_size=7, seed=3))
REFUSALS = {
    "gpu": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "host": MemoryError,
    "cpu": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate."),
}


@pytest.fixture(scope="module")
def lumina_toy() -> Lumina:
    return Lumina(toy_transformer(CODES, hidden=32, spread=2.0), toy_vocabulary(CODES))


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref]:
    """The caches that are made from now on."""
    made: list[weakref.ref] = []
    init = KVCache.__init__

    def noted(self: KVCache, *args: object, **kwargs: object) -> None:
        init(self, *args, **kwargs)
        made.append(weakref.ref(self))

    monkeypatch.setattr(KVCache, "__init__", noted)
    return made


def refuse_at(monkeypatch: pytest.MonkeyPatch, call: int, error: Callable[[], BaseException]) -> None:
    """Attention, of prompts and of steps, raises an error at its `call`-th call, once."""
    calls = iter(range(10**6))

    def refusing(attention: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def refuse(*args: object, **kwargs: object) -> Tensor:
            if next(calls) == call:
                raise error()
            return attention(*args, **kwargs)

        return refuse

    monkeypatch.setattr(reference, "attend", refusing(reference.attend))
    monkeypatch.setattr(kv_cache, "chunked_attention", refusing(kv_cache.chunked_attention))


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("forward", [0, 1, 2, 5], ids=["prompt", "second prompt", "first step", "on the way"])
def test_says_so_frees_everything_and_works_again(
    lumina_toy: Lumina, caches: list[weakref.ref], monkeypatch: pytest.MonkeyPatch, refusal: str, forward: int
) -> None:
    expected = lumina_toy.sample(REQUEST).codes
    refuse_at(monkeypatch, forward * LAYERS + 1, REFUSALS[refusal])
    with pytest.raises(OutOfMemory) as caught:
        lumina_toy.sample(REQUEST)
    message = str(caught.value)
    assert re.match("out of memory while drawing 3 pictures of 32x64, which takes about [0-9.]+ MB", message)
    assert "smaller settings that fit: batch 2" in message
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    gc.collect()
    assert len(caches) == 2 and all(cache() is None for cache in caches)
    smaller = replace(REQUEST, prompts=REQUEST.prompts[:2])
    assert torch.equal(lumina_toy.sample(smaller).codes, expected[:2])


def test_out_of_memory_where_the_cache_is_made(lumina_toy: Lumina, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise REFUSALS["gpu"]()

    with monkeypatch.context() as patch:
        patch.setattr(KVCache, "__init__", refuse)
        with pytest.raises(OutOfMemory, match="out of memory while drawing"):
            lumina_toy.sample(REQUEST)
    assert lumina_toy.sample(REQUEST).codes.shape == (3, 8, 4)


def test_other_errors_come_through(lumina_toy: Lumina, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_at(monkeypatch, 5, lambda: RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        lumina_toy.sample(REQUEST)


def test_memory_held_within_is_free_when_the_error_is_told() -> None:
    held: list[weakref.ref] = []

    def run() -> None:
        tensor = torch.ones(10)
        held.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemory, match=r"^freed: True$"):
        explain_out_of_memory(run, lambda: f"freed: {held[0]() is None}")


def test_the_allocators_own_refusal_is_known() -> None:
    """Not an error made up here: what PyTorch says when the CPU has no room."""
    with pytest.raises(OutOfMemory, match="too much"):
        explain_out_of_memory(lambda: torch.empty(2**60, dtype=torch.uint8), lambda: "too much")


# The command line


@pytest.mark.parametrize("weights", ["fp32", "int4"])
def test_out_of_memory_while_loading(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise REFUSALS["gpu"]()

    with monkeypatch.context() as patch:
        patch.setattr("lumina_core.model.load.fill", refuse)
        lumina.refuses_to_generate("--weights", weights, expected="out of memory while loading")
        line = lumina.generate("--weights", weights).refusal()
    assert f"{weights} weights take" in line and ("int4 weights take" in line.split("take", 1)[1]) == (
        weights == "fp32"
    )
    lumina.generate("--weights", weights).succeeded()


def test_out_of_memory_while_drawing(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        refuse_at(patch, 7, REFUSALS["gpu"])
        lumina.refuses_to_generate("--batch", 2, expected="out of memory while drawing 2 pictures of 32x32")
    lumina.generate().succeeded()


def test_out_of_memory_while_decoding_keeps_what_was_drawn(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise REFUSALS["gpu"]()

    lumina.generate("--batch", 2, name="good").succeeded()
    with monkeypatch.context() as patch:
        patch.setattr(MoVQGAN, "decode", refuse)
        line = lumina.generate("--batch", 2).refusal()
    assert "while decoding a picture of 32x32" in line
    assert f"the tokens are saved in {lumina.path('o.json')}" in line
    assert lumina.tokens() == lumina.tokens("good") and not lumina.path("o.stats.json").exists()


ARGUMENTS = {
    "generate": ("--checkpoint", "demo", "--prompt", "p", "--width", 96, "--height", 96, "--out", "o.png"),
    "encode": ("p.png", "--tokens-out", "t.json"),
    "decode": ("t.json", "--out", "p.png"),
    "convert": ("--checkpoint", "demo", "--weights", "int4", "--out", "o.safetensors"),
    "info": (),
    "bench": (),
}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("could not create a primitive"), OSError(12, "No room")])
@pytest.mark.parametrize("command", COMMANDS)
def test_the_advice_fits_the_command(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch, command: str, error: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(COMMANDS[command], "run", refuse)
        line = lumina.run(command, *ARGUMENTS[command]).refusal()
    assert line == f"lumina_core: out of memory; {SMALLER[command]}"
    options = (option.strip("(),") for option in line.split() if option.strip("(").startswith("--"))
    with pytest.raises(SystemExit):
        lumina.run(command, "--help")
    usage = lumina.said()
    assert all(f"{option} " in usage for option in options), line


def test_a_checkpoint_that_could_not_be_read_for_want_of_memory_is_not_called_damaged(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise CheckpointError("model.safetensors is damaged: download it again") from MemoryError()

    monkeypatch.setattr(COMMANDS["info"], "run", refuse)
    assert lumina.run("info").refusal() == "lumina_core: out of memory; close other programs that use the memory"


def test_it_is_one_of_our_errors() -> None:
    assert issubclass(OutOfMemory, LuminaError)
