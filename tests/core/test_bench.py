"""`bench` times what it says it times, on models of any size without a checkpoint."""

from __future__ import annotations

import json

import pytest
import torch

from lumina_core.decoding import DecodeSettings
from lumina_core.model import Transformer
from lumina_core.quant import plan_weights
from lumina_core.synthetic import SYNTHETIC, make_transformer
from lumina_core.timing import SETTING_UP, StepTime, StepTimer, accepted_by

from .cli_runs import CommandLine

CPU = torch.device("cpu")
QUICK = ("--synthetic", "tiny", "--device", "cpu", "--steps", 2, "--context", 80, 200, "--windows", 1, 8)


def bench(lumina: CommandLine, *options: object) -> tuple[list[str], dict]:
    """The lines for people, and the JSON."""
    *lines, last = lumina.run("bench", *options).succeeded().out.splitlines()
    return lines, json.loads(last)


@pytest.mark.parametrize("options", [(), ("--weights", "int4", "--kv", "int8"), ("--weights", "bf16", "--cfg", 1)])
def test_every_window_is_timed_at_every_context(lumina: CommandLine, options: tuple) -> None:
    lines, report = bench(lumina, *QUICK, *options)
    assert lines[0].startswith("synthetic tiny, ") and "GB/s" in lines[0]
    assert [line.split(":")[0] for line in lines[1:3]] == ["ceiling at 80", "ceiling at 200"]
    assert [(step["context"], step["window"]) for step in report["steps"]] == [(80, 1), (80, 8), (200, 1), (200, 8)]
    for step in report["steps"]:
        assert 0 < step["seconds"] < 60 and 0 < step["first"] < 60
        assert step["share"] == pytest.approx(step["ceiling"] / step["seconds"])
        assert step["tokens_per_second"] == pytest.approx(step["accepted"] / step["seconds"])
    assert report["peak_bytes"] > 2**20 and report["decode_seconds"] > 0 and report["load_seconds"] >= 0
    assert (report["device"], report["picture"]) == ("cpu", "64x64")


def test_a_checkpoint_is_timed_too(lumina: CommandLine) -> None:
    options = ("--checkpoint", lumina.checkpoint, "--context", 80, "--windows", 2, "--steps", 1)
    lines, report = bench(lumina, *options, "--device", "cpu")
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
    monkeypatch.setattr("lumina_core.cli.bench.available_bytes", lambda _: 10**9)
    monkeypatch.setattr("lumina_core.cli.bench.make_transformer", lambda *_: pytest.fail("weights were made"))
    line = lumina.run("bench", "--synthetic", "7b", "--device", "cpu").refusal()
    assert "would take about" in line and "there are 1.0 GB" in line


@pytest.mark.parametrize("cfg_scale", [4.0, 1.0])
@pytest.mark.parametrize("kv_cache", ["auto", "int8"])
def test_bytes_of_a_step_are_what_it_reads(cfg_scale: float, kv_cache: str) -> None:
    model = make_transformer(SYNTHETIC["tiny"].transformer, plan_weights("int8", None, torch.float32), CPU)
    timer = StepTimer(model, 200, 8, DecodeSettings(cfg_scale=cfg_scale, kv_cache=kv_cache))
    weights = sum(part.nbytes for name, part in model.named_parameters() if not name.startswith("code_embedding"))
    token = 2 * 2 * 2 * (32 * 4 if kv_cache == "auto" else 32 + 4)
    assert timer.bytes_of(200) == weights + (2 if cfg_scale != 1 else 1) * 200 * token


@pytest.mark.parametrize("window", [1, 8])
def test_steps_stand_where_they_are_said_to(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    positions: list[list[int]] = []
    hidden_states = Transformer.hidden_states

    def noted(self: Transformer, embeddings: torch.Tensor, plan) -> torch.Tensor:
        positions.append([embeddings.shape[0], int(plan.slots[0]), plan.kv_len])
        return hidden_states(self, embeddings, plan)

    monkeypatch.setattr(Transformer, "hidden_states", noted)
    model = make_transformer(SYNTHETIC["tiny"].transformer, plan_weights("fp32", None, torch.float32), CPU)
    StepTimer(model, 150, window, DecodeSettings()).measure(window, 150, 3, 1e9)
    assert positions == [[2, 150, 192]] * (SETTING_UP + 3)


def test_numbers_of_a_step() -> None:
    one = StepTime(8, 100, seconds=0.02, ceiling=0.005, first=1.0)
    assert one.share == 0.25 and one.tokens_per_second(4.0) == 200
    assert [accepted_by(window) for window in (1, 7, 8, 31, 32, 128)] == [1.0, 1.0, 4.37, 5.63, 6.04, 6.04]
