"""`bench` times what it says it times, on models of any size without a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeSettings, StepReport
from lumina_core.kernels.select import Choice, reference_of
from lumina_core.model import run_kernels
from lumina_core.model.kv_cache import WindowPlan
from lumina_core.model.load import load_transformer
from lumina_core.model.transformer import Transformer
from lumina_core.pipeline import Lumina
from lumina_core.quant.cpu_matmul import cpu_backend
from lumina_core.quant.linear import MatmulBackend, QuantizedLinear, multiply_plain
from lumina_core.quant.weights import plan_weights
from lumina_core.timing.steps import PROMPT_TOKENS, WARM_UP_STEPS, StepTime, StepTimer, canvas_reaching
from lumina_core.timing.synthetic import SYNTHETIC, make_transformer

from .cli_runs import CommandLine

CPU = torch.device("cpu")
QUICK = ("--synthetic", "tiny", "--device", "cpu", "--steps", 2, "--context", 80, 200, "--windows", 1, 8)


def bench(lumina: CommandLine, *options: object) -> tuple[list[str], list[dict], dict]:
    """The lines for people, the JSON line of each setting, and the report."""
    lines = lumina.run("bench", *options).succeeded().out.splitlines()
    *settings, report = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in lines if not line.startswith("{")], settings, report


@pytest.mark.parametrize("options", [(), ("--weights", "int4", "--kv", "int8"), ("--weights", "bf16", "--cfg", 1)])
def test_every_window_is_timed_at_every_context(lumina: CommandLine, options: tuple) -> None:
    lines, settings, report = bench(lumina, *QUICK, *options)
    assert lines[0].startswith("synthetic tiny, ") and "GB/s" in lines[0]
    assert [line.split(":")[0] for line in lines[1:3]] == ["ceiling at 80", "ceiling at 200"]
    assert [(step["context"], step["window"]) for step in report["steps"]] == [(80, 1), (80, 8), (200, 1), (200, 8)]
    assert settings == report["steps"]
    for step in report["steps"]:
        assert 0 < step["seconds"] < 60 and 0 < step["first"] < 60
        assert step["share"] == pytest.approx(step["ceiling"] / step["seconds"])
        assert step["tokens_per_second"] == pytest.approx(step["accepted"] / step["seconds"])
        assert step["kv_len"] == (128 if step["context"] == 80 else 256) and step["captured"] is False
    assert report["peak_bytes"] > 2**20 and report["decode_seconds"] > 0 and report["load_seconds"] >= 0
    assert (report["device"], report["picture"]) == ("cpu", "64x64")
    assert report["accepted_from"].startswith("assumed") and report["accepted_from"] in "\n".join(lines)


@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        ((), "torch"),
        (("--weights", "int8"), cpu_backend("int8").name),
        (("--weights", "bf16"), "torch"),
    ],
)
def test_the_report_names_what_multiplied_and_what_attended(lumina: CommandLine, options: tuple, kernel: str) -> None:
    _, settings, report = bench(lumina, *QUICK, *options)
    for one in (*settings, report):
        assert one["kernel"] == kernel and one["attention"] == "torch (in chunks, as on every CPU)"


def test_a_setting_is_printed_before_the_next_is_timed(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[int] = []
    measure = StepTimer.measure

    def noted(self: StepTimer, *arguments: object) -> StepTime:
        printed.append(sum(line.startswith("{") for line in lumina.said().splitlines()))
        return measure(self, *arguments)

    monkeypatch.setattr(StepTimer, "measure", noted)
    lumina.run("bench", *QUICK)
    assert printed == [0, 1, 1, 1]


def test_a_checkpoint_is_timed_too(lumina: CommandLine) -> None:
    options = ("--checkpoint", lumina.checkpoint, "--context", 80, "--windows", 2, "--steps", 1)
    lines, _, report = bench(lumina, *options, "--device", "cpu")
    assert lines[0].startswith(f"{lumina.checkpoint}, fp32 weights on cpu") and report["picture"] == "32x32"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--windows", 0), "windows is 0; expected 1 to 128"),
        (("--windows", 1, 200), "windows is 200"),
        (("--context", 3), "context is 3; expected 72 to"),
        (("--steps", 0), "steps is 0"),
        (("--synthetic", "70b"), "invalid choice: '70b'"),
        (("--cfg", -1), "cfg is -1.0"),
    ],
)
def test_options_out_of_range(lumina: CommandLine, options: tuple, expected: str) -> None:
    assert expected in lumina.run("bench", *QUICK, *options).refusal()


def test_what_cannot_fit_is_refused_before_it_is_made(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lumina_core.cli.common.available_bytes", lambda _: 10**9)
    monkeypatch.setattr("lumina_core.cli.bench.make_transformer", lambda *_: pytest.fail("weights were made"))
    line = lumina.run("bench", "--synthetic", "7b", "--device", "cpu").refusal()
    assert "would take about" in line and "there are 1.0 GB" in line


@pytest.mark.parametrize("cfg_scale", [4.0, 1.0])
@pytest.mark.parametrize("kv_cache", ["auto", "int8"])
def test_bytes_of_a_step_are_what_it_reads(cfg_scale: float, kv_cache: str) -> None:
    model = make_tiny("int8")
    timer = StepTimer(model, 200, 8, DecodeSettings(cfg_scale=cfg_scale, kv_cache=kv_cache))
    weights = sum(part.nbytes for name, part in model.named_parameters() if not name.startswith("code_embedding"))
    token = 2 * 2 * 2 * (32 * 4 if kv_cache == "auto" else 32 + 4)
    assert timer.bytes_read(200) == weights + (2 if cfg_scale != 1 else 1) * 200 * token


def noted_reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Of each window's forward: its rows, the first slot of its first row, and how much of the cache it reads."""
    noted: list[tuple[int, int, int]] = []
    hidden_states = Transformer.hidden_states

    def note(self: Transformer, embeddings: torch.Tensor, plan) -> torch.Tensor:
        if isinstance(plan, WindowPlan):
            noted.append((embeddings.shape[0], int(plan.input_pos[0, 0]), plan.kv_len))
        return hidden_states(self, embeddings, plan)

    monkeypatch.setattr(Transformer, "hidden_states", note)
    return noted


def make_tiny(weights: str = "fp32") -> Transformer:
    return make_transformer(SYNTHETIC["tiny"].config, plan_weights(weights, None, torch.float32), CPU)


@pytest.mark.parametrize("window", [1, 8])
def test_steps_read_the_cache_where_they_are_placed(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = noted_reads(monkeypatch)
    StepTimer(make_tiny(), 150, window, DecodeSettings()).measure(window, 150, 3, 1e9)
    assert noted == [(2, 150, 192)] * (WARM_UP_STEPS + 3)


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("window", [1, 8, 24])
def test_a_step_reads_as_much_of_the_cache_as_drawing_does_there(
    window: int, kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel:
        monkeypatch.setattr(
            run_kernels,
            "choose",
            lambda name, *_: Choice(reference_of(name), name == "window_attention", ""),
        )
    sizes, noted = SYNTHETIC["tiny"], noted_reads(monkeypatch)
    transformer = make_tiny("bf16")
    # A wide picture like that of the bench, so that the caches are of the same length.
    request = Request([[9] * PROMPT_TOKENS], 8, 96, settings=DecodeSettings(window_size=window, adapt_window=False))

    def stop_after_40_forwards(_: StepReport) -> None:
        if len(noted) > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Lumina(transformer, sizes.vocabulary).sample(request, stop_after_40_forwards)
    drawn, noted[:] = noted[::10], []
    timer = StepTimer(transformer, 500, window, DecodeSettings(), request.canvas)
    for _, context, _ in drawn:
        timer.measure(window, context, 1, 1e9)
    assert noted[:: WARM_UP_STEPS + 1] == drawn


def test_the_picture_reaches_past_the_window_and_is_no_smaller_than_768() -> None:
    assert (canvas_reaching(1024, 64).grid_h, canvas_reaching(9216, 64).grid_h) == (96, 96)
    for context in (9360, 9400, 20_000):
        assert context - PROMPT_TOKENS + 64 <= canvas_reaching(context, 64).last + 1


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_synthetic_model_multiplies_as_a_loaded_one(
    weights: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repacked = []
    backend = MatmulBackend("marked", multiply_plain, repack=repacked.append)
    monkeypatch.setattr("lumina_core.model.load.choose_backend", lambda *_: backend)
    loaded = load_transformer(checkpoint, weights=weights)
    assert len(repacked) == sum(isinstance(layer, QuantizedLinear) for layer in loaded.modules()) > 0
    repacked.clear()
    made = make_tiny(weights)
    layers = [layer for layer in made.modules() if isinstance(layer, QuantizedLinear)]
    assert layers and all(layer.backend is backend for layer in layers) and repacked == layers


def test_numbers_of_a_step() -> None:
    one = StepTime(8, 100, seconds=0.02, ceiling=0.005, first=1.0)
    assert one.share == 0.25 and one.tokens_per_second == pytest.approx(2.5 / 0.02)
    accepted = [replace(one, window=window).accepted for window in (1, 7, 8, 16, 24, 31, 32, 128)]
    assert accepted == [1.0, 1.0, 2.5, 3.1, 3.1, 3.1, 3.5, 3.5]
    trees = (2, 3), (8, 15), (32, 16), (4, 20)
    assert [replace(one, window=window, tree=tree).accepted for window, tree in trees] == [1.0, 2.5, 4.3, 1.0]
