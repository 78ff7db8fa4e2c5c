"""What a node shows of its progress: ComfyUI's bar, texts, a bar in the log. ComfyUI's own modules are stood in for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

TOKENS = 9216


class Interrupted(BaseException):
    """As ComfyUI's own."""


@dataclass
class Seen:
    """What the frontend got, and whether the user cancelled."""

    texts: list[str] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    previews: list[Any] = field(default_factory=list)
    cancelled: bool = False
    now: float = 0.0

    def check(self) -> None:
        if self.cancelled:
            raise Interrupted

    def bar(self, total: int) -> Any:
        def update_absolute(value: int, preview: Any = None) -> None:
            self.values.append(value)
            self.previews += [] if preview is None else [preview]

        return SimpleNamespace(total=total, update_absolute=update_absolute)


@pytest.fixture
def seen(nodes: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen, progress, comfy_ui = Seen(), nodes("nodes.progress"), nodes("nodes.comfy_adapter")
    utils = SimpleNamespace(ProgressBar=seen.bar, PROGRESS_BAR_ENABLED=True)
    monkeypatch.setattr(progress, "comfy", SimpleNamespace(utils=utils))
    monkeypatch.setattr(progress, "args", SimpleNamespace(preview_size=512))
    monkeypatch.setattr(comfy_ui, "show_text", seen.texts.append)
    monkeypatch.setattr(comfy_ui, "check_interrupted", seen.check)
    monkeypatch.setattr(comfy_ui, "preview_wanted", lambda: False)
    return seen


def clocked(progress: Any, seen: Seen) -> Any:
    """The progress with a clock of the test's own."""
    progress._clock = lambda: seen.now
    progress._started, progress._next = 0.0, 0.5
    return progress


def request(pictures: int = 1, grid: int = 96) -> Any:
    drawn = torch.ones(pictures, grid, grid, dtype=torch.bool)
    return SimpleNamespace(codes_to_draw=pictures * grid * grid, grid_h=grid, grid_w=grid, drawn=drawn)


def draw(nodes: Any, seen: Seen, pictures: int, forwards: int) -> None:
    """Forwards of 0.2 s that accept 4 tokens of each picture, after a warm-up of 9 s."""
    report = nodes("lumina_core.decoding.settings").StepReport
    watcher = clocked(nodes("nodes.progress").Watcher(None, request(pictures)), seen)
    with watcher:
        nodes("lumina_core.kernels.warm_up").tell("capturing CUDA graphs")
        seen.now += 9
        for forward in range(1, forwards + 1):
            seen.now += 0.2
            accepted = (4 * forward,) * pictures
            watcher.on_step(report(torch.zeros(pictures, 96, 96), accepted, TOKENS, forward, warm_up_seconds=9.0))
        watcher.on_result(SimpleNamespace(seconds=seen.now, warm_up_seconds=9.0))


@pytest.mark.parametrize(
    ("pictures", "expected", "last"),
    [
        (
            1,
            "208 of 9,216 tokens, 20/s, 7 min 30 s left",
            "9,216 tokens in 1 min 49 s, 9.0 s of it warm-up (92/s without it)",
        ),
        (
            2,
            "416 of 18,432 tokens, 40/s, 7 min 30 s left",
            "18,432 tokens in 1 min 49 s, 9.0 s of it warm-up (184/s without it)",
        ),
    ],
)
def test_a_run_tells_warm_up_speed_and_time_left_of_all_pictures(
    nodes: Any, seen: Seen, capsys: pytest.CaptureFixture[str], pictures: int, expected: str, last: str
) -> None:
    draw(nodes, seen, pictures, 500)
    assert seen.texts[0] == "warming up: capturing CUDA graphs" and seen.texts[-1] == last
    assert expected in seen.texts and len(seen.texts) < 2.2 * 109
    assert seen.values[-1] == pictures * 2000
    assert capsys.readouterr().err.splitlines()[-1] == f"100%|████████████████████| {last}"


def test_bars_in_the_log_can_be_disabled(nodes: Any, seen: Seen, capsys: pytest.CaptureFixture[str]) -> None:
    nodes("nodes.progress").comfy.utils.PROGRESS_BAR_ENABLED = False
    draw(nodes, seen, 1, 5)
    assert seen.texts and capsys.readouterr().err == ""


def test_the_preview_is_of_the_complete_rows(nodes: Any, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes("nodes.comfy_adapter"), "preview_wanted", lambda: True)
    movqgan = SimpleNamespace(upscale_ratio=8, decode_rows=lambda codes, first, end: torch.zeros(1, 3, 8 * end, 16))
    report = nodes("lumina_core.decoding.settings").StepReport
    watcher = nodes("nodes.progress").Watcher(movqgan, request(grid=2))
    for accepted in (1, 2, 4):
        codes = torch.zeros(1, 2, 2, dtype=torch.int64)
        watcher.on_step(last := report(codes, (accepted,), 4, accepted, reached=(accepted,)))
    assert watcher.last_report is last and seen.values == [1, 2, 4]
    assert [(kind, size) for kind, _, size in seen.previews][-1] == ("JPEG", 512)


def test_the_last_preview_of_a_mask_has_the_given_rows_after_it(nodes: Any, seen: Seen, monkeypatch: Any) -> None:
    decoded = list[int]()

    def decode_rows(codes: torch.Tensor, first: int, end: int) -> torch.Tensor:
        decoded.append(int(codes.ne(0).sum()))
        return torch.zeros(1, 3, 8 * end, 32)

    monkeypatch.setattr(nodes("nodes.comfy_adapter"), "preview_wanted", lambda: True)
    asked = request(grid=4)
    asked.drawn[:, 2:] = False
    movqgan = SimpleNamespace(upscale_ratio=8, decode_rows=decode_rows)
    report = nodes("lumina_core.decoding.settings").StepReport
    watcher, codes = nodes("nodes.progress").Watcher(movqgan, asked), torch.zeros(1, 4, 4, dtype=torch.int64)
    codes[:, 3] = 7
    for accepted in (4, 8):
        watcher.on_step(report(codes, (accepted,), 8, 1, reached=(accepted,)))
    assert decoded == [0, 4] and len(seen.previews) == 2


def test_loading_says_what_it_reads_and_moves_the_bar_by_shares(nodes: Any, seen: Seen) -> None:
    checkpoint = nodes("lumina_core.checkpoint.find").open_checkpoint("demo")
    plan = nodes("lumina_core.quant.weights").plan_weights("int4", None, torch.float32)
    with clocked(nodes("nodes.progress").loading_progress(checkpoint, plan), seen) as progress:
        for done in range(10_001):
            seen.now += 0.0005
            progress.update_share(done, 10_000)
    assert seen.values == list(range(1001))
    size = nodes("lumina_core.device").gigabytes(nodes("lumina_core.model.load").loaded_bytes(checkpoint))
    assert 10 <= len(seen.texts) <= 12 and all(text.startswith("quantising to int4: ") for text in seen.texts)
    assert seen.texts[4].endswith("s left") and seen.texts[-1].startswith(f"quantising to int4: {size} in 5.0 s (")


def test_a_cancel_while_kernels_are_built_ends_the_run(nodes: Any, seen: Seen) -> None:
    progress = nodes("nodes.progress").Progress(nodes("lumina_core.timing.amounts").Count(64, "tokens"))
    seen.cancelled = True
    with pytest.raises(Interrupted), progress:
        nodes("lumina_core.kernels.warm_up").tell("building and testing kernels")
    with pytest.raises(Interrupted), progress:
        progress.update_share(1, 2)
    assert seen.texts == []


def test_the_text_of_a_cancelled_run_says_where_it_stopped(nodes: Any, seen: Seen) -> None:
    def cancel_after(watcher: Any) -> None:
        with watcher:
            for done in range(1, 10):
                seen.now += 0.3
                watcher.update(done)
            seen.cancelled = True
            watcher.update_share(1, 2)

    with pytest.raises(Interrupted):
        cancel_after(clocked(nodes("nodes.progress").Watcher(None, request()), seen))
    assert seen.texts[-1] == "stopped after 9 of 9,216 tokens"


@pytest.mark.parametrize("call", ["update", "update_share"])
def test_updates_cost_microseconds(nodes: Any, seen: Seen, call: str) -> None:
    """The demo draws thousands of tokens a second on a CPU. Measured: about 1 µs; the limit is for a busy machine."""
    progress = nodes("nodes.progress").Progress(nodes("lumina_core.timing.amounts").Count(100_000, "tokens"))
    arguments = (100_000,) if call == "update_share" else ()
    start = time.perf_counter()
    with progress:
        for done in range(100_000):
            getattr(progress, call)(done, *arguments)
    assert (time.perf_counter() - start) / 100_000 < 20e-6
