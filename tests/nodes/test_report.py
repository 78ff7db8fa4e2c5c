"""The sampler's report and acceptance map, and the growing preview."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def report(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.report")


@pytest.fixture
def result(pack):
    decoding = importlib.import_module(f"{pack.__name__}.lumina_core.decoding.settings")
    steps = torch.tensor([[[-1, -1], [0, 0], [0, 1], [2, 2]]])
    return decoding.DecodeResult(
        codes=torch.zeros(1, 4, 2, dtype=torch.int64),
        nfe=3,
        accept_lengths=((4, 1, 2),),
        accept_step=steps,
        log_likelihood=(-12.3,),
        seconds=0.5,
        settings=decoding.DecodeSettings(seed=7, decoder="sjd", window_size=16, kv_cache="int8"),
        matmul_kernel="tinygemm (self-test passed)",
        attention_kernel="torch (no Triton)",
    )


@pytest.fixture
def weights(pack):
    schemes = importlib.import_module(f"{pack.__name__}.lumina_core.quant.schemes").SCHEMES
    module = importlib.import_module(f"{pack.__name__}.lumina_core.quant.weights")
    return module.WeightsPlan(torch.bfloat16, schemes["int4"])


def test_report_has_settings_counts_speed_and_kernels(report, result, weights):
    text = report.report_text(result, weights, "int8")
    assert "16x32" in text and "seed 7" in text and "sjd, window 16" in text
    assert "6 tokens in 3 forwards: 2.00 a forward" in text
    assert "0.50 s; 12.0 tokens a second" in text.splitlines()
    assert "1 x1, 2 x1, 4 x1" in text
    assert "matmuls: tinygemm (self-test passed); attention: torch (no Triton)" in text
    assert "nats per code: -2.050" in text and "LoRA" not in text


def test_report_has_the_loras_in_use(report, result, weights, pack):
    applied, file = (
        importlib.import_module(f"{pack.__name__}.lumina_core.lora.{name}") for name in ("applied", "file")
    )
    loras = [applied.AppliedLora(file.Lora(Path(f"{name}.safetensors"), {}, ""), name) for name in (0.5, 0, 2)]
    assert "LoRAs: 0.5.safetensors:0.5, 2.safetensors:2" in report.report_text(result, weights, "int8", loras).split(
        "\n"
    )


@pytest.mark.parametrize(
    ("seconds", "warm_up", "expected"),
    [
        (10.5, 10.0, "10.50 s, of which 10.00 s warm-up; 12.0 tokens a second without the warm-up"),
        (0.0, 0.0, "0.00 s; - tokens a second"),
    ],
)
def test_report_tells_the_speed_without_the_warm_up(report, result, weights, seconds, warm_up, expected):
    result = replace(result, seconds=seconds, warm_up_seconds=warm_up)
    assert expected in report.report_text(result, weights, "int8").splitlines()


@pytest.mark.parametrize(
    ("drawn", "asked", "expected"),
    [
        ("int8", "int8", "int4 weights, int8 cache"),
        ("int8", "auto", "int4 weights, int8 cache (chosen by auto)"),
        ("auto", "auto", "int4 weights, bf16 cache"),
    ],
)
def test_report_names_weights_and_cache(report, result, weights, drawn, asked, expected):
    result = replace(result, settings=replace(result.settings, kv_cache=drawn))
    assert expected in report.report_text(result, weights, asked).splitlines()


def test_acceptance_map_colours_codes_by_step(report, result):
    picture = report.acceptance_map(result.accept_step, 8)
    assert picture.shape == (1, 32, 16, 3) and picture.min() >= 0 and picture.max() <= 1
    cells = picture[0, ::8, ::8]
    assert (cells[0] == 0.5).all()
    assert torch.equal(cells[1, 0], torch.tensor(report.RAMP[0])) and torch.equal(cells[1, 0], cells[2, 0])
    torch.testing.assert_close(cells[3, 1], torch.tensor(report.RAMP[-1]))
    assert not torch.equal(cells[2, 1], cells[2, 0])


@pytest.mark.parametrize("whole", [True, False])
def test_preview_decodes_a_small_picture_whole_and_each_row_of_a_large_one_once(pack, whole, monkeypatch):
    preview = importlib.import_module(f"{pack.__name__}.nodes.preview")
    decoded = []
    monkeypatch.setattr(preview, "WHOLE_CODES", 8 if whole else 7)

    def decode_rows(codes, first_row, end_row):
        decoded.append((codes[0, :, 0].tolist(), first_row, end_row))
        return torch.ones(1, 3, 8 * (end_row - first_row), 8 * codes.shape[2])

    growing = preview.GrowingPreview(SimpleNamespace(upscale_ratio=8, decode_rows=decode_rows), 4, 2)
    codes = torch.tensor([[[0, 1], [2, 3], [4, 5], [6, 7]]])
    pictures = []
    for rows in (0, 1, 1, 3, 4):
        growing._next_time = 0
        pictures.append(growing.draw(codes, rows))
    filled = [([0, 0, 0, 0], 0, 4), ([0, 2, 4, 4], 0, 4), ([0, 2, 4, 6], 0, 4)]
    assert decoded == (filled if whole else [([0], 0, 1), ([0, 2, 4], 1, 3), ([0, 2, 4, 6], 3, 4)])
    assert [picture is not None for picture in pictures] == [False, True, False, True, True]
    assert pictures[1].size == (16, 32)
    assert pictures[1].getpixel((0, 7)) == (255, 255, 255) and pictures[1].getpixel((0, 8)) == (128, 128, 128)


def test_previews_are_limited_to_a_share_of_the_time(pack):
    preview = importlib.import_module(f"{pack.__name__}.nodes.preview")
    movqgan = SimpleNamespace(upscale_ratio=8, decode_rows=lambda codes, first, end: torch.zeros(1, 3, 8 * end, 16))
    growing = preview.GrowingPreview(movqgan, 4, 2)
    growing._next_time = float("inf")
    codes = torch.zeros(1, 4, 2, dtype=torch.int64)
    assert growing.draw(codes, 3) is None and growing.draw(codes, 4) is not None
