"""The estimate of a run's memory grows with the request, and the smaller settings that are named fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.memory import Case, measure
from lumina_core import load_movqgan, load_transformer
from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.published import UNUSED_PREFIX, published_shapes
from lumina_core.decoding.forward_bytes import kernels_expected
from lumina_core.decoding.memory_plan import Demand, movqgan_bytes, plan_memory
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.device import available_bytes, gigabytes
from lumina_core.errors import OutOfMemory
from lumina_core.memory import Budget, advice, check_fits, weights_of
from lumina_core.model.kv_cache import KVCache
from lumina_core.movqgan.autoencoder import MoVQGAN
from lumina_core.movqgan.config import infer_config
from lumina_core.quant.schemes import SCHEMES
from lumina_core.quant.weights import CHOICES, WeightsPlan, plan_weights
from lumina_core.timing.synthetic import SYNTHETIC, make_movqgan, make_transformer

from .cli_runs import CommandLine

CPU = torch.device("cpu")
BF16, INT4 = WeightsPlan(torch.bfloat16), WeightsPlan(torch.bfloat16, SCHEMES["int4"])
SEVEN, CODEC = SYNTHETIC["7b"].config, SYNTHETIC["7b"].movqgan
GB = 1e9


def canvas(width: int, height: int, prompt: int = 64, batch: int = 1, **settings: object) -> Request:
    return Request([[0] * prompt] * batch, height // 8, width // 8, settings=DecodeSettings(**settings))


def demand(request: Request, weights: WeightsPlan = BF16, **how: bool) -> Demand:
    return Demand(SEVEN, weights, request, CODEC, **how)


def run_bytes(request: Request, weights: WeightsPlan = BF16) -> int:
    return plan_memory(demand(request, weights)).run


# The plan


def test_bytes_grow_with_every_demand() -> None:
    base = canvas(512, 512)
    for more in (canvas(512, 768), canvas(768, 512), canvas(512, 512, prompt=2000), canvas(512, 512, batch=2)):
        assert run_bytes(base) < run_bytes(more)
    assert run_bytes(base) < run_bytes(canvas(512, 512, window_size=128))
    for batch in (2, 3, 16):
        assert run_bytes(canvas(512, 512, batch=batch)) == pytest.approx(batch * run_bytes(base), rel=0.1)
    assert 1.9 < run_bytes(base, WeightsPlan(torch.float32)) / run_bytes(base) <= 2


def test_guidance_doubles_the_cache_and_int8_halves_it() -> None:
    guided, plain, few = (
        plan_memory(demand(canvas(768, 768, **settings))).cache
        for settings in ({}, {"cfg_scale": 1.0}, {"kv_cache": "int8"})
    )
    assert guided == 2 * plain and few / guided == 132 / 256


def test_bytes_of_the_published_model_are_those_of_its_cache() -> None:
    """0.5 MiB a token and sequence in bf16, two sequences of about 9,400 tokens; the rest is small beside it."""
    needed = run_bytes(canvas(768, 768))
    cache = 2 * (9312 + 64) * 2**19
    assert cache < needed < 1.1 * cache


def test_what_is_decoded_counts_when_the_cache_is_gone() -> None:
    plan = plan_memory(demand(canvas(768, 768)))
    assert plan.total == plan.weights + plan.movqgan + max(plan.cache + plan.forward, plan.decode_in_strips)
    small_cache = replace(plan, cache=0, forward=0)
    assert small_cache.total == plan.weights + plan.movqgan + plan.decode_in_strips
    assert replace(small_cache, decode=1).total == plan.weights + plan.movqgan + 1


def test_a_picture_that_decodes_in_strips_fits() -> None:
    """Its cache takes 2.5 GB, its decoding 6.6 GB whole and 2.2 GB in strips."""
    plan = plan_memory(wanted := demand(canvas(768, 768, cfg_scale=1.0, kv_cache="int8")))
    assert plan.decode_in_strips < plan.run < plan.decode
    check_fits(wanted, Budget(plan.weights + plan.movqgan + plan.run))


@pytest.mark.parametrize("choice", CHOICES)
def test_weights_take_the_bytes_that_are_estimated(checkpoint: Path, choice: str) -> None:
    model = load_transformer(checkpoint, dtype=torch.float32, weights=choice)
    weights = plan_weights(choice, None, torch.float32)
    assert weights_of(model) == weights
    plan = plan_memory(Demand(model.config, weights, Request([[0]], 4, 4)))
    assert plan.weights == sum(part.nbytes for part in model.parameters())
    assert (plan.movqgan, plan.decode, plan.decode_in_strips) == (0, 0, 0)


def test_movqgan_takes_the_bytes_that_are_estimated(checkpoint: Path) -> None:
    model = load_movqgan(checkpoint / "movqgan.safetensors")
    assert movqgan_bytes(model.config) == sum(part.nbytes for part in model.parameters())


def test_captured_steps_of_plain_torch_hold_a_forward_twice() -> None:
    plain, captured = (plan_memory(demand(canvas(768, 768), captured=each)) for each in (False, True))
    assert captured.forward > 1.5 * plain.forward
    assert replace(captured, forward=plain.forward) == plain


def forward_bytes(**settings: object) -> int:
    """Of a picture drawn by kernels."""
    return plan_memory(demand(canvas(768, 768, **settings), captured=True, kernels=True)).forward


def test_kernels_hold_one_set_of_buffers() -> None:
    """That of the widest step: narrower ones and captured ones share it."""
    assert forward_bytes() == plan_memory(demand(canvas(768, 768), kernels=True)).forward
    slot = forward_bytes() // 32
    assert [forward_bytes(window_size=width) / slot for width in (16, 33, 64, 128)] == [16, 33, 64, 128]


def test_kernels_read_the_cache_as_it_is_stored() -> None:
    assert forward_bytes(kv_cache="int8") == forward_bytes(kv_cache="int4") == forward_bytes()
    assert plan_memory(demand(canvas(768, 768, kv_cache="int8"))).forward > 4 * forward_bytes()


def test_sjd_holds_the_probabilities_of_targets_and_drafts() -> None:
    more = forward_bytes(decoder="sjd") - forward_bytes()
    assert more == 32 * 2 * 4 * SEVEN.codebook_size
    assert forward_bytes(decoder="coupled") == forward_bytes(decoder="sjd")


@pytest.mark.parametrize(
    ("dtype", "reason", "expected"),
    [(torch.bfloat16, "", True), (torch.float32, "", False), (torch.bfloat16, "triton cannot be imported", False)],
)
def test_kernels_are_expected_where_nothing_speaks_against_them(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, reason: str, expected: bool
) -> None:
    monkeypatch.setattr("lumina_core.decoding.forward_bytes.unsupported_reason", lambda _: reason)
    assert kernels_expected(SEVEN, dtype, CPU) is expected
    assert not kernels_expected(replace(SEVEN, swin_norm=True), dtype, CPU)


@pytest.mark.parametrize(("kv_cache", "most"), [("int8", 10), ("int4", 8)])
def test_a_picture_of_the_7b_with_int4_weights_fits_small_cards(kv_cache: str, most: float) -> None:
    """Everything resident: weights, MoVQGAN, cache, the steps' buffers, and decoding in strips."""
    wanted = demand(canvas(768, 768, kv_cache=kv_cache), INT4, captured=True, kernels=True)
    assert 0.9 * most * GB < plan_memory(wanted).total <= most * GB


# What is resident where a memory manager streams weights in


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_quantised_weights_are_resident_where_plain_ones_are_streamed(scheme: str) -> None:
    request = canvas(768, 768)
    plain, quantised = (plan_memory(demand(request, plan_weights(name, None, BF16.dtype))) for name in ("bf16", scheme))
    tables = 2 * SEVEN.codebook_size * SEVEN.hidden_size * BF16.dtype.itemsize
    assert plain.streamed.weights == pytest.approx(tables, rel=0.01) and plain.streamed.weights > tables
    assert quantised.streamed.weights == quantised.weights and quantised.streamable == 0
    for plan in (plain, quantised):
        assert plan.streamed.total == plan.weights - plan.streamable + plan.run


def test_int4_weights_count_in_a_streamed_budget() -> None:
    """With a plain cache they take 13.7 GB, too much for a card of 12 GiB, though their cache alone would fit."""
    wanted, budget = demand(canvas(768, 768), INT4), Budget(12 * 2**30, streamed=True)
    assert plan_memory(wanted).run < budget.capacity and not budget.fits(wanted)
    with pytest.raises(OutOfMemory, match=r"would take about 13.7 GB \(weights 3.7 GB, cache 9.9 GB, forward 65 MB\)"):
        check_fits(wanted, budget)


@pytest.mark.slow
def test_a_large_batch_of_the_demo_takes_about_what_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks of a process of its own before and after the widest forwards are compared; memory that malloc keeps counts.

    The peak is rarely twice as high as usual, so the lesser of two runs counts.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    measured = min((measure(Case(batch=24, forwards=2)) for _ in range(2)), key=lambda one: one.grown)
    assert measured.grown > 200e6 and 0.6 < measured.estimated / measured.grown < 1.5


# Synthetic models


def test_sizes_are_the_published_ones(golden: Path) -> None:
    published = json.loads((golden / "lumina_mgpt2_7b_state_dict.json").read_text())["tensors"]
    expected = {name: tuple(shape) for name, shape in published.items() if UNUSED_PREFIX not in name}
    assert published_shapes(SEVEN) == expected
    codecs = json.loads((golden / "movqgan_state_dicts.json").read_text())
    shapes = {name: tuple(shape) for name, shape in codecs["270M"]["tensors"].items()}
    assert infer_config(shapes) == CODEC
    with torch.device("meta"):
        parameters = {name: tuple(part.shape) for name, part in MoVQGAN(CODEC).state_dict().items()}
    assert parameters == shapes


@pytest.mark.parametrize("choice", ["fp32", "bf16", "int8", "int4"])
def test_synthetic_weights_are_those_of_the_plan(choice: str) -> None:
    sizes, weights = SYNTHETIC["tiny"], plan_weights(choice, None, torch.float32)
    model = make_transformer(sizes.config, weights, CPU)
    plan = plan_memory(Demand(sizes.config, weights, Request([[0]], 4, 4), sizes.movqgan))
    assert weights_of(model) == weights
    assert plan.weights == sum(part.nbytes for part in model.parameters())
    cache = KVCache(model.config, 1, 8, dtype=model.dtype, device="cpu")
    hidden = model.hidden_states(model.code_embedding(torch.arange(8)[None]), cache.prefill_plan(0, 8))
    logits = model.code_logits(hidden)
    assert logits.shape == (1, 8, 256) and logits.isfinite().all() and logits.float().std() > 0
    pixels = make_movqgan(sizes.movqgan, CPU).decode(torch.zeros(1, 4, 4, dtype=torch.int64))
    assert pixels.shape == (1, 3, 32, 32) and pixels.isfinite().all()


# Smaller settings


def told(request: Request, capacity: float, weights: WeightsPlan = BF16, **budget: bool) -> str:
    with pytest.raises(OutOfMemory) as caught:
        check_fits(demand(request, weights), Budget(capacity, **budget))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_that_fits_is_let_through() -> None:
    request = canvas(768, 768)
    check_fits(demand(request), Budget(plan_memory(demand(request)).total))
    plan = plan_memory(demand(request))
    check_fits(demand(request), Budget(plan.weights - plan.streamable + plan.run, streamed=True))
    assert "takes" not in told(request, plan_memory(demand(request)).total - 1)


def test_the_refusal_says_what_it_takes_and_what_there_is() -> None:
    request = canvas(768, 768, batch=4)
    plan = plan_memory(demand(request))
    line = told(request, 24 * GB)
    assert line.startswith(f"4 pictures of 768x768 would take about {gigabytes(plan.total)} (weights ")
    assert f"cache {gigabytes(plan.cache)}" in line and "and there are 24.0 GB; smaller settings that fit: " in line


@pytest.mark.parametrize(
    ("request_", "capacity", "expected"),
    [
        (canvas(768, 768, batch=4), 50, "batch 3, or the int8 cache, or int4 weights, or 704x704"),
        (canvas(768, 768), 20, "the int8 cache, or int4 weights, or 544x544"),
        (canvas(768, 768), 12.5, "the int8 cache and int4 weights"),
        (canvas(768, 768, batch=4), 12.5, "batch 1 and the int8 cache and int4 weights"),
        (canvas(768, 768, batch=4), 8, "batch 1 and the int4 cache and int4 weights and 704x704"),
        (canvas(512, 1024, batch=2), 21, "the int4 cache, or 288x576"),
    ],
)
def test_smaller_settings(request_: Request, capacity: float, expected: str) -> None:
    line = told(request_, capacity * GB)
    assert line.split("smaller settings that fit: ")[1] == expected


def test_nothing_fits() -> None:
    assert told(canvas(768, 768), 1 * GB).endswith("no picture of this model would fit")


def test_int4_weights_are_not_offered_twice() -> None:
    assert "int4" not in told(canvas(768, 768), 12 * GB, INT4)
    assert "int4" not in told(canvas(768, 768, batch=9), 20 * GB, streamed=True).split("settings that fit")[1]


def test_a_smaller_picture_keeps_the_aspect_ratio_and_the_given_rows() -> None:
    given = torch.zeros(64, 64, dtype=torch.int64)
    request = replace(canvas(512, 1024, window_size=128), given_codes=given)
    assert (
        advice(demand(request), Budget(20 * GB))
        == "smaller settings that fit: the int8 cache, or int4 weights, or 384x800"
    )
    tiny = replace(canvas(32, 64, window_size=16), given_codes=torch.zeros(4, 4, dtype=torch.int64))
    assert told(tiny, 0).endswith("no picture of this model would fit")


def test_memory_of_this_machine_is_known() -> None:
    assert available_bytes(CPU) > 2**28


# The command line


def test_info_tells_of_a_model_without_a_checkpoint(lumina: CommandLine) -> None:
    def info(*options: object) -> dict:
        return json.loads(lumina.run("info", "--synthetic", "7b", "--json", *options).succeeded().out)

    plain, few = info("--weights", "bf16"), info("--weights", "bf16", "--kv", "int8", "--batch", 3)
    assert (plain["picture"], plain["checkpoint"], plain["layers"]) == ("768x768, batch 1", "synthetic 7b", 32)
    assert few["cache_bytes"] * 256 == 3 * 132 * plain["cache_bytes"]
    for values in (plain, few):
        assert values["run_bytes"] == values["cache_bytes"] + values["forward_bytes"]
        assert values["total_bytes"] >= values["weight_bytes_on_device"] + values["run_bytes"]
        assert values["fits"] == "yes" or values["fits"].startswith("no; ")
    assert info("--weights", "bf16", "--width", 512, "--height", 512)["picture"] == "512x512, batch 1"


def test_info_names_smaller_settings(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lumina_core.cli.info.available_bytes", lambda _: 50 * 10**9)
    options = ("info", "--synthetic", "7b", "--weights", "bf16", "--batch", 4)
    assert "no; smaller settings that fit: batch 3" in lumina.run(*options).succeeded().out
    monkeypatch.setattr("lumina_core.cli.info.available_bytes", lambda _: None)
    lines = lumina.run(*options).succeeded().out.splitlines()
    assert [line.split()[-2:] for line in lines[-2:]] == [["not", "known"]] * 2


def test_a_run_that_cannot_fit_is_refused_before_the_weights_are_read(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("lumina_core.pipeline.load_transformer", never)
    monkeypatch.setattr("lumina_core.cli.common.available_bytes", lambda _: 3 * 10**6)
    lumina.refuses_to_generate("--batch", 8, expected="8 pictures of 32x32 would take about")
    lumina.refuses_to_generate("--batch", 8, expected="there are 3 MB; smaller settings that fit: batch 4")


def test_published_config_of_the_command_line_is_the_files(golden: Path) -> None:
    config = json.loads((golden / "lumina_mgpt2_7b_state_dict.json").read_text())["config"]
    assert TransformerConfig.from_dict(config) == SEVEN
