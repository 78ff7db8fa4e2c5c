"""How far something is and how long it takes, in words, as a bar, and what is told of a warm-up."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.checkpoint.published import EMBEDDING, HEAD, published_shapes
from lumina_core.decoding.cuda_graph import CapturedSteps, CaptureLog
from lumina_core.kernels import select
from lumina_core.kernels.self_test import Sample, SelfTest
from lumina_core.kernels.warm_up import CAPTURE, KERNELS, tell, told_to
from lumina_core.model.load import loaded_bytes
from lumina_core.pipeline import Lumina
from lumina_core.quant.weights import plan_weights
from lumina_core.timing import log_bar
from lumina_core.timing.amounts import Bytes, Count, RecentRate, duration, loading, run_text, time_left
from lumina_core.timing.log_bar import LogBar
from lumina_core.timing.progress import TEXT_SECONDS, Progress

TOKENS = Count(9216, "tokens")


@dataclass
class Clock:
    """Stands still unless it is moved."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Shown:
    """A progress whose texts are recorded."""

    clock: Clock = field(default_factory=Clock)
    texts: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def progress(self, amounts: Any = TOKENS, title: str = "", **options: Any) -> Progress:
        return Progress(amounts, title, show=self.texts.append, say=self.lines.append, clock=self.clock, **options)


@pytest.fixture
def shown() -> Shown:
    return Shown()


def work(shown: Shown, progress: Progress, rate: float, start: int, end: int, step: int = 1) -> None:
    """Does things one by one at a rate."""
    for done in range(start, end + 1, step):
        shown.clock.now += step / rate
        progress.update(done)


# Words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (2.34, "2.3 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (160, "2 min 40 s"),
        (3599.6, "1 h"),
        (3900, "1 h 5 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.01, "1 s"),
        (11.2, "12 s"),
        (59, "59 s"),
        (59.5, "1 min"),
        (64, "1 min"),
        (163, "2 min 40 s"),
        (4000, "1 h 7 min"),
    ],
)
def test_time_left_is_coarse(seconds: float, text: str) -> None:
    assert time_left(seconds) == text


def test_amounts() -> None:
    assert TOKENS.share(1840) == "1,840 of 9,216 tokens"
    assert [TOKENS.rate(rate) for rate in (1780.4, 45, 0.83)] == ["1,780/s", "45/s", "0.8/s"]
    whole = Bytes(15.9e9)
    assert [whole.share(done) for done in (50e6, 3.2e9, 15.9e9)] == [
        "50 MB of 15.9 GB",
        "3.2 of 15.9 GB",
        "15.9 of 15.9 GB",
    ]
    assert Bytes(2.4e6).share(0) == "0 of 2 MB" and whole.rate(1.1e9) == "1.1 GB/s" and whole.rate(40e6) == "40 MB/s"


@pytest.mark.parametrize(
    ("seconds", "warm_up", "text"),
    [
        (2.3, 0.0, "4,096 tokens in 2.3 s (1,781/s)"),
        (12.3, 10.0, "4,096 tokens in 12 s, 10 s of it warm-up (1,781/s without it)"),
        (0.0, 0.0, "4,096 tokens in 0.0 s"),
        (3.0, 3.0, "4,096 tokens in 3.0 s, 3.0 s of it warm-up"),
    ],
)
def test_the_rate_of_a_run_leaves_the_warm_up_out(seconds: float, warm_up: float, text: str) -> None:
    assert run_text(Count(4096, "tokens"), seconds, warm_up) == text


# The rate


def test_there_is_no_rate_before_there_is_work_to_base_it_on() -> None:
    rate = RecentRate()
    seen = []
    for tick in range(8):
        rate.tick(10 * tick, 0.5 * tick)
        seen.append(rate.per_second)
    assert seen == [None] * 4 + [pytest.approx(20)] * 4


@pytest.mark.parametrize("seconds", [0.5, 4.0])
def test_the_rate_follows_slowly_and_does_not_jump(seconds: float) -> None:
    """`seconds` from tick to tick: those of a slow model are as far apart as its forwards."""
    rate, done, now, seen = RecentRate(), 0.0, 0.0, []
    for tick in range(200):
        done += (30 if tick % 2 else 10) * (1 if tick < 100 else 0.5)
        now += seconds
        rate.tick(done, now)
        seen.append(rate.per_second or 20 / seconds)
    steady, last = seen[60:100], seen[-1]
    assert max(steady) / min(steady) < 1.1 and seen[100] / seen[99] > 0.95
    assert last == pytest.approx(10 / seconds, rel=0.1)


# Texts


def test_the_text_says_how_far_how_fast_and_how_long(shown: Shown) -> None:
    progress = shown.progress()
    work(shown, progress, 45, 1, 1840)
    assert re.fullmatch(r"1,8\d\d of 9,216 tokens, 45/s, 2 min [45]0 s left", shown.texts[-1])
    assert shown.texts[0] == "23 of 9,216 tokens" and shown.texts[3] == "92 of 9,216 tokens, 45/s, 3 min 20 s left"


def test_texts_come_twice_a_second_whatever_the_speed(shown: Shown) -> None:
    progress = shown.progress()
    work(shown, progress, 3000, 1, 9216)
    assert len(shown.texts) == int(9216 / 3000 / TEXT_SECONDS)
    slow = Shown()
    work(slow, slow.progress(), 0.5, 1, 10)
    assert len(slow.texts) == 10 and slow.texts[-1].endswith("0.5/s, 5 h 7 min left")


def test_what_is_short_shows_nothing_but_its_last_line(shown: Shown) -> None:
    with shown.progress(Count(64, "tokens")) as progress:
        work(shown, progress, 1000, 1, 64)
        assert shown.texts == []
        progress.finish(0.5, 0.0)
    assert shown.texts == ["64 tokens in 0.5 s (128/s)"]
    with shown.progress(Count(64, "tokens")) as progress:
        work(shown, progress, 1000, 1, 64)
    assert len(shown.texts) == 1


def test_a_warm_up_is_told_as_such_and_is_not_in_the_rate(shown: Shown) -> None:
    with shown.progress() as progress:
        for what in (KERNELS, KERNELS, CAPTURE):
            tell(what)
            shown.clock.now += 20
        assert shown.texts == shown.lines == [f"warming up: {KERNELS}", f"warming up: {CAPTURE}"]
        progress.update(1, warm_up_seconds=60.0)
        assert shown.texts[-1] == "1 of 9,216 tokens"
        warm_up = 60.0
        for done in range(2, 200):
            shown.clock.now += 0.02
            if done == 150:  # another width of the window
                for what in (CAPTURE, "something new"):
                    tell(what)
                shown.clock.now += 3
                warm_up += 3
            progress.update(done, warm_up)
        rated = [text for text in shown.texts if "left" in text]
    assert len(rated) >= 4 and all(", 50/s, " in text for text in rated)
    assert len(shown.lines) == 2
    tell(KERNELS)
    assert len(shown.lines) == 2


def test_a_warm_up_while_loading_lasts_until_the_next_update(shown: Shown) -> None:
    with shown.progress(Bytes(10e9), "quantising to int4") as progress:
        progress.update(0)
        tell(KERNELS)
        shown.clock.now += 30
        for done in range(1, 101):
            progress.update(done * 1e8)
            shown.clock.now += 0.1
    assert shown.texts[:2] == [f"warming up: {KERNELS}", "quantising to int4: 0.1 of 10.0 GB"]
    assert "quantising to int4: 2.5 of 10.0 GB, 1.0 GB/s, 8 s left" in shown.texts
    assert shown.texts[-1] == "quantising to int4: 10.0 GB in 40 s, 30 s of it warm-up (1.0 GB/s without it)"


def test_an_exception_ends_the_texts(shown: Shown) -> None:
    def cancelled(progress: Progress) -> None:
        with progress:
            work(shown, progress, 45, 1, 100)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cancelled(shown.progress())
    assert shown.texts[-1] == "stopped after 100 of 9,216 tokens"


def test_a_check_can_end_a_warm_up(shown: Shown) -> None:
    def cancel() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), shown.progress(check=cancel):
        tell(KERNELS)
    assert shown.texts == []


# The bar


class Log(io.StringIO):
    """A file, or a terminal, and what was drawn there."""

    def __init__(self, terminal: bool, encoding: str = "utf-8"):
        super().__init__()
        self.terminal, self._encoding = terminal, encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self.terminal


def test_a_file_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", log := Log(terminal=False))
    clock = Clock()
    bar = LogBar(100, clock=clock)
    for done in range(100):
        clock.now += 0.3
        bar.draw(done, f"{done} things")
    bar.draw(100, "100 things in 30 s", last=True)
    bar.close()
    lines = log.getvalue().splitlines()
    assert (
        lines[0] == " 33%|██████▌             | 33 things"
        and lines[-1] == "100%|████████████████████| 100 things in 30 s"
    )
    assert len(lines) == 3 and "\r" not in log.getvalue() and log.getvalue().endswith("\n")


def test_a_log_without_blocks_gets_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", log := Log(terminal=False, encoding="cp1252"))
    LogBar(2).draw(1, "half", last=True)
    assert log.getvalue() == " 50%|##########          | half\n"


@pytest.mark.parametrize("stays", [True, False])
def test_a_terminal_gets_one_line_that_changes(monkeypatch: pytest.MonkeyPatch, stays: bool) -> None:
    monkeypatch.setattr(sys, "stderr", log := Log(terminal=True))
    bar = LogBar(100, stays)
    bar.draw(40, "forty")
    bar.draw(50, "fifty")
    bar.say("a line of its own")
    bar.close()
    bar.close()
    assert " 40%|████████" in log.getvalue() and "a line of its own\n" in log.getvalue()
    assert log.getvalue().count("\n") == 1 + stays and (stays or not log.getvalue().split("\r")[-1].strip())
    assert not list(log_bar.tqdm._instances)


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_a_log_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None) -> None:
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    bar = LogBar(3)
    bar.draw(1, "one", last=True)
    bar.say("line")
    bar.close()


def test_the_bar_is_closed_when_the_work_fails(monkeypatch: pytest.MonkeyPatch, shown: Shown) -> None:
    monkeypatch.setattr(sys, "stderr", log := Log(terminal=True))

    def failing(progress: Progress) -> None:
        with progress:
            work(shown, progress, 45, 1, 100)
            assert list(log_bar.tqdm._instances)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        failing(shown.progress(bar=LogBar(TOKENS.total)))
    assert not list(log_bar.tqdm._instances)
    assert log.getvalue().endswith("\n") and "stopped after 100 of 9,216 tokens" in log.getvalue()


# The engine


def test_loading_says_whether_it_quantises() -> None:
    checkpoint = open_checkpoint("demo")
    plans = [plan_weights(choice, None, torch.float32) for choice in ("fp32", "int4")]
    assert [loading(checkpoint, plan)[0] for plan in plans] == ["reading weights", "quantising to int4"]


def test_the_bytes_of_a_checkpoint_are_those_that_loading_reads() -> None:
    checkpoint = open_checkpoint("demo")
    config, sizes = checkpoint.config, dict(published_shapes(checkpoint.config))
    values = sum(torch.Size(shape).numel() for name, shape in sizes.items() if name not in (EMBEDDING, HEAD))
    values += 2 * config.codebook_size * config.hidden_size
    widths = {checkpoint.tensors.dtypes[name] for name in sizes}
    assert loaded_bytes(checkpoint) == values * (2 if widths == {"BF16"} else 4)


def test_a_kernel_is_told_of_when_it_is_built_and_never_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "unsupported_reason", lambda device: "")
    monkeypatch.setattr(select, "load", select.reference_of)
    monkeypatch.setattr(select, "self_test", lambda *_: SelfTest(0.0, ""))
    heard: list[str] = []
    samples = (Sample.of(lambda device: (), marker="only in this test"),)
    with told_to(heard.append):
        choices = [select.choose("silu_gate", "cpu", samples) for _ in range(2)]
    assert heard == [KERNELS] and choices[0] is choices[1] and choices[0].is_kernel


def test_captured_steps_tell_before_each_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    steps = CapturedSteps.__new__(CapturedSteps)
    steps.log, steps.warm_up_seconds = CaptureLog(), 0.0
    with told_to(heard.append):
        assert steps._timed(lambda: list(heard)) == [CAPTURE]


def test_nothing_is_told_on_a_cpu() -> None:
    heard: list[str] = []
    with told_to(heard.append):
        Lumina.load("demo", device="cpu", weights="int8").draw("a red circle", 96, 96)
    assert heard == []
