"""Captured steps: the same tokens as one by one, whatever fails; graphs that live from run to run."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lumina_core.decoding import cuda_graph, loop
from lumina_core.decoding.adaptive_window import AdaptiveWindow, WidthBy, window_widths
from lumina_core.decoding.cuda_graph import CapturedSteps, CaptureLog, Graph, PlainSteps, Step, WeightAddresses
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DECODERS, DecodeResult, DecodeSettings
from lumina_core.decoding.window import Window
from lumina_core.errors import InputError, OutOfMemory
from lumina_core.kernels.select import reference_of
from lumina_core.model.compile import set_compile
from lumina_core.model.run_kernels import BlockKernels, RunKernels
from lumina_core.model.transformer import Transformer
from lumina_core.pipeline import Lumina
from lumina_core.quant.linear import MatmulBackend, multiply_plain

from .demo_requests import short_request

OF_A_BLOCK = ("embed_window", "qkv_norm_rope_store", "silu_gate", "add_rms_norm")
Patch = pytest.MonkeyPatch
Log = pytest.LogCaptureFixture


class RecordedSteps:
    """Captures as a GPU does: capturing runs nothing, a replay does what the step would do.

    A graph holds the addresses that the weights had: a replay after they moved fails, as a GPU would. `before_capture`
    and `after_replay` are called then; `room` is why there is none.
    """

    def __init__(
        self,
        before_capture: Callable[[int], object] = lambda count: None,
        after_replay: Callable[[int], object] = lambda count: None,
        room: str = "",
    ):
        self.before_capture, self.after_replay, self.room = before_capture, after_replay, room
        self.captured, self.replayed, self.freed, self.firsts = 0, 0, 0, 0
        self.transformer: Transformer | None = None

    def unavailable(self) -> str:
        return self.room

    def first(self, step: Step) -> None:
        self.firsts += 1
        step()

    def capture(self, step: Step) -> Graph:
        self.captured += 1
        self.before_capture(self.captured)
        addresses = WeightAddresses(self.transformer)() if self.transformer is not None else None
        live = [True]

        def replay() -> None:
            assert live[0], "a graph is replayed after it was freed"
            if self.transformer is not None:
                assert WeightAddresses(self.transformer)() == addresses, "a graph is replayed after weights moved"
            self.replayed += 1
            step()
            self.after_replay(self.replayed)

        def reset() -> None:
            live[0] = False
            self.freed += 1

        return Graph(replay, reset)

    @property
    def live(self) -> int:
        return self.captured - self.freed


@pytest.fixture
def demo() -> Lumina:
    """A model whose runs leave nothing for other tests; the weights are loaded once."""
    return Lumina(*_loaded())


@lru_cache
def _loaded() -> tuple[Any, ...]:
    lumina = Lumina.load("demo", dtype=torch.float32, device="cpu")
    return lumina.transformer, lumina.vocabulary, lumina.tokenizer, lumina.movqgan


def request(lumina: Lumina, decoder: str = "gumbel", prompt: str = "a red circle", **settings: Any) -> Request:
    settings = {"adapt_window": False, "window_size": 16, **settings}
    chosen = DecodeSettings(decoder=decoder, **settings)
    return short_request(lumina, f"{prompt} left of a blue square", 2, chosen)


def drawn(lumina: Lumina, decoder: str = "gumbel", **settings: Any) -> DecodeResult:
    return lumina.sample(request(lumina, decoder, **settings))


@lru_cache
def plain(decoder: str = "gumbel", **settings: Any) -> DecodeResult:
    """What steps one by one draw, whatever is captured in the test that asks."""
    with Patch.context() as patch:
        patch.setattr(loop, "make_steps", lambda window, log: PlainSteps(window))
        return drawn(Lumina(*_loaded()), decoder, **settings)


def capture_by(patch: Patch, capture: cuda_graph.Capture) -> list[Window]:
    """Captures the steps of all runs that follow; returns the windows that are made."""
    windows: list[Window] = []

    def make_steps(window: Window, log: CaptureLog) -> CapturedSteps:
        windows.append(window)
        return CapturedSteps(window, capture, log)

    patch.setattr(loop, "make_steps", make_steps)
    return windows


def same(first: DecodeResult, second: DecodeResult) -> bool:
    return (
        torch.equal(first.codes, second.codes)
        and torch.equal(first.accept_step, second.accept_step)
        and first.accept_lengths == second.accept_lengths
        and first.log_likelihood == second.log_likelihood
    )


def lines(caplog: Log) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("decoder", DECODERS)
def test_replays_draw_what_the_steps_draw(demo: Lumina, monkeypatch: Patch, decoder: str) -> None:
    expected, recorded = plain(decoder), RecordedSteps()
    capture_by(monkeypatch, recorded)
    captured = drawn(demo, decoder)
    assert same(expected, captured)
    assert 0 < recorded.captured < recorded.replayed
    assert 0 < captured.warm_up_seconds < captured.seconds and expected.warm_up_seconds == 0


@pytest.fixture
def as_on_a_gpu(monkeypatch: Patch) -> None:
    """The loop chooses widths, and lengths of the cache, as for graphs."""
    monkeypatch.setattr(loop, "is_gpu", lambda device: True)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_run_has_one_graph_a_width_of_a_short_list(demo: Lumina, monkeypatch: Patch, seed: int) -> None:
    """The last tokens of a picture, of which fewer are left than the window has, need no graph of their own."""
    recorded = RecordedSteps()
    capture_by(monkeypatch, recorded)
    adaptive = drawn(demo, adapt_window=True, window_size=64, seed=seed)
    assert 1 <= recorded.captured <= len(window_widths(64, 4))
    assert torch.equal(adaptive.codes, plain(seed=seed).codes)
    before = recorded.captured
    drawn(demo, "coupled", seed=seed)
    assert recorded.captured == before + 1


def test_a_step_counts_as_captured_only_when_it_is_replayed(demo: Lumina, monkeypatch: Patch) -> None:
    seen = []

    class Watched(CapturedSteps):
        def __call__(self, kv_len: int, width: int) -> None:
            before = recorded.replayed
            super().__call__(kv_len, width)
            seen.append((self.captured, recorded.replayed > before))

    recorded = RecordedSteps()
    monkeypatch.setattr(loop, "make_steps", lambda window, log: Watched(window, recorded, log))
    drawn(demo, "ar")
    assert seen[:2] == [(False, False), (True, True)] and all(captured == replayed for captured, replayed in seen)
    assert not PlainSteps.captured


# Graphs live from run to run


@pytest.mark.usefixtures("as_on_a_gpu")
def test_the_second_picture_has_no_warm_up(demo: Lumina, monkeypatch: Patch) -> None:
    recorded = RecordedSteps()
    windows = capture_by(monkeypatch, recorded)
    first = drawn(demo)
    captured, firsts = recorded.captured, recorded.firsts
    for settings in ({"seed": 5}, {"prompt": "a circle"}, {}):
        later = drawn(demo, **settings)
        assert torch.equal(later.codes, plain(**settings).codes), settings
        assert later.warm_up_seconds < first.warm_up_seconds / 4
    assert torch.equal(first.codes, plain().codes) and len(windows) == 1
    assert (recorded.captured, recorded.firsts) == (captured, firsts)


@pytest.mark.parametrize(
    "changes",
    [
        {"top_k": 40},
        {"decoder": "coupled"},
        *(
            pytest.param(change, marks=pytest.mark.slow)
            for change in ({"cfg_scale": 2.0}, {"temperature": 0.9}, {"top_p": 0.8}, {"window_size": 8})
        ),
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_settings_take_graphs_of_their_own(demo: Lumina, monkeypatch: Patch, changes: dict[str, Any]) -> None:
    """All numbers that a graph holds: a replay with others would draw another picture."""
    windows = capture_by(monkeypatch, RecordedSteps())
    drawn(demo)
    held = weakref.ref(windows.pop())
    assert same(drawn(demo, **changes), plain(**changes))
    gc.collect()
    assert held() is None, "what the first run left is freed"


def test_graphs_are_freed_with_the_model(demo: Lumina, monkeypatch: Patch) -> None:
    windows = capture_by(monkeypatch, RecordedSteps())
    drawn(demo)
    held, nbytes = weakref.ref(windows.pop()), demo.runs.nbytes
    assert nbytes >= held().cache.nbytes > 0
    assert demo.runs.free() == nbytes and demo.runs.nbytes == 0
    assert held() is None and demo.runs.free() == 0
    drawn(demo)
    held = weakref.ref(windows.pop())
    gc.disable()
    try:
        del demo.__dict__["runs"]
        assert held() is None, "nothing but the model holds it, and no circle"
    finally:
        gc.enable()


def test_a_run_is_prepared_for_the_bytes_that_it_does_not_hold_yet(demo: Lumina, monkeypatch: Patch) -> None:
    capture_by(monkeypatch, RecordedSteps())
    drawn(demo)
    held = demo.runs.nbytes
    assert demo.runs.prepare(request(demo, seed=9).with_tree(False)) == held == demo.runs.nbytes
    assert demo.runs.prepare(request(demo, top_k=7)) == 0 == demo.runs.nbytes


@pytest.mark.parametrize(("free", "is_kept"), [(10**12, True), (0, False), (None, True)])
def test_what_a_run_left_gives_way_to_the_codec(
    demo: Lumina, monkeypatch: Patch, free: int | None, is_kept: bool
) -> None:
    capture_by(monkeypatch, RecordedSteps())
    codes = drawn(demo).codes[:1]
    monkeypatch.setattr("lumina_core.pipeline.free_bytes", lambda device: free)
    pixels = torch.zeros(1, 3, 96, 96)
    for use in (lambda: demo.decode(codes), lambda: demo.encode(pixels)):
        drawn(demo)
        use()
        assert (demo.runs.nbytes > 0) == is_kept


def test_steps_one_by_one_leave_nothing(demo: Lumina) -> None:
    drawn(demo)
    assert demo.runs.nbytes == 0


def test_a_second_run_beside_it_makes_its_own(demo: Lumina, monkeypatch: Patch) -> None:
    """Both draw what they draw alone, and the next run finds what the last of them left."""
    windows, results, inside = capture_by(monkeypatch, RecordedSteps()), {}, threading.Barrier(2)
    drawn(demo)

    def run(seed: int) -> None:
        first = iter([True])
        wait = lambda: inside.wait() if next(first, False) else None  # noqa: E731
        results[seed] = demo.sample(request(demo, seed=seed), before_forward=wait)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(results[seed], plain(seed=seed)) for seed in (3, 4))
    assert len(windows) == 2 and demo.runs.nbytes > 0


BACKENDS = {
    "triton": (MatmulBackend("triton", multiply_plain, alike=True), True, WidthBy.SECONDS),
    "triton, blocks not fused": (MatmulBackend("triton", multiply_plain, alike=True), False, WidthBy.ACCEPT_LENGTH),
    "tinygemm": (MatmulBackend("tinygemm", multiply_plain, tile_rows=16), False, WidthBy.ONE_TILE),
    "plain": (MatmulBackend("plain", multiply_plain), True, WidthBy.ACCEPT_LENGTH),
    "cuBLAS": (None, True, WidthBy.ACCEPT_LENGTH),
}


@pytest.mark.parametrize("name", BACKENDS)
def test_the_window_follows_seconds_only_where_they_cannot_change_the_picture(
    demo: Lumina, monkeypatch: Patch, as_on_a_gpu: None, name: str
) -> None:
    backend, fused, expected = BACKENDS[name]
    codes, followed = plain().codes, []

    def adaptive(settings: DecodeSettings, pictures: int, by: WidthBy) -> AdaptiveWindow:
        followed.append(by)
        return AdaptiveWindow(settings, pictures, by)

    blocks = BlockKernels(*map(reference_of, OF_A_BLOCK)) if fused else None
    monkeypatch.setattr(Transformer, "backends", {backend})
    monkeypatch.setattr(Transformer, "rounds_alike", backend is not None and backend.alike)
    monkeypatch.setattr(Transformer, "choose_kernels", lambda *_: RunKernels(blocks=blocks))
    monkeypatch.setattr(loop, "AdaptiveWindow", adaptive)
    assert torch.equal(drawn(demo).codes, codes)
    assert followed == [expected]


# What fails


def at(count: int, error: BaseException) -> Callable[[int], None]:
    """Raises an error at one of several calls."""

    def call(number: int) -> None:
        if number == count:
            raise error

    return call


@pytest.mark.parametrize("decoder", ["gumbel", pytest.param("coupled", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("capture", "reason"),
    [
        ({"before_capture": at(1, RuntimeError("operation not permitted\nmore"))}, "(operation not permitted)"),
        ({"before_capture": at(2, RuntimeError())}, "(RuntimeError)"),
        ({"before_capture": at(1, torch.OutOfMemoryError("CUDA out of memory"))}, "(CUDA out of memory)"),
        ({"before_capture": at(1, KeyError("not an error of CUDA"))}, "('not an error of CUDA')"),
        ({"after_replay": at(1, RuntimeError("CUDA error: launch failed"))}, "(CUDA error: launch failed)"),
    ],
    ids=["no capture", "a later capture", "no memory", "any error", "no replay"],
)
def test_a_step_that_cannot_be_captured_runs_one_by_one(
    demo: Lumina, monkeypatch: Patch, caplog: Log, capture: dict[str, Any], reason: str, decoder: str
) -> None:
    # With `coupled`, whose width is fixed, a wider window has too few steps for a graph to be used again.
    width = 8 if decoder == "coupled" else 32
    recorded, settings = RecordedSteps(**capture), {"adapt_window": True, "window_size": width}
    monkeypatch.setattr(loop, "KV_LEN_STEP", 16)
    expected = drawn(Lumina(*_loaded()), decoder, **settings)
    capture_by(monkeypatch, recorded)
    for _ in range(2):
        assert same(expected, drawn(demo, decoder, **settings))
    (line,) = lines(caplog)
    assert "a step cannot be captured" in line and reason in line and "same picture" in line
    # Only a graph whose very first replay failed is left to the garbage collector.
    assert recorded.live <= 1 and demo.runs.nbytes == 0


@pytest.mark.parametrize("state", ["tokens", "accept_step", "pos", "steps"])
def test_a_replay_that_changes_the_window_differently_is_not_used(
    demo: Lumina, monkeypatch: Patch, caplog: Log, state: str
) -> None:
    recorded = RecordedSteps(after_replay=lambda _: getattr(windows[0].state, state).add_(1))
    windows = capture_by(monkeypatch, recorded)
    assert same(plain(), drawn(demo))
    assert "a captured step accepted other tokens than the step itself" in caplog.text
    assert recorded.replayed == 1 and recorded.live == 0


def calls_in_prefill(demo: Lumina) -> int:
    """Blocks of the forwards over the prompt and without it, before each of which a caller can cancel."""
    return 2 * len(demo.transformer.layers)


def move_weight(transformer: Transformer, name: str) -> None:
    """Puts a weight elsewhere, as a memory manager does: a new parameter in the same module."""
    module, _, own = name.rpartition(".")
    part = transformer.get_submodule(module)
    setattr(part, own, torch.nn.Parameter(getattr(part, own).clone(), requires_grad=False))


@pytest.mark.parametrize("name", ["layers.1.mlp.down_proj.weight", "code_head.weight", "code_embedding.weight"])
def test_weights_that_move_between_two_steps_are_noticed_before_a_replay(
    demo: Lumina, monkeypatch: Patch, caplog: Log, name: str
) -> None:
    recorded, moves = RecordedSteps(), iter([False] * (calls_in_prefill(demo) + 5) + [True])
    recorded.transformer = demo.transformer
    capture_by(monkeypatch, recorded)

    def before_forward() -> None:
        if next(moves, False):
            move_weight(demo.transformer, name)

    assert same(plain("ar"), demo.sample(request(demo, "ar"), before_forward=before_forward))
    assert recorded.freed >= 1 and recorded.live >= 1 and not lines(caplog)
    move_weight(demo.transformer, name)
    assert same(plain("ar", seed=2), drawn(demo, "ar", seed=2)), "between two runs"


def test_weights_that_leave_the_device_end_the_graphs_not_the_run(
    demo: Lumina, monkeypatch: Patch, caplog: Log
) -> None:
    away, recorded = iter([True] * 6), RecordedSteps()
    capture_by(monkeypatch, recorded)
    monkeypatch.setattr(cuda_graph, "on_device", lambda transformer: not next(away, False))
    assert same(plain("ar"), drawn(demo, "ar"))
    assert recorded.captured == 0 and "some of the weights are not on the GPU" in caplog.text
    move_weight(demo.transformer, "norm.weight")
    for _ in away:
        pass
    assert same(plain("ar"), drawn(demo, "ar")) and recorded.captured


def test_without_room_no_step_is_captured_and_it_is_said_once(demo: Lumina, monkeypatch: Patch, caplog: Log) -> None:
    recorded = RecordedSteps(room="0.1 GB are free")
    capture_by(monkeypatch, recorded)
    for _ in range(2):
        assert same(plain(), drawn(demo))
    (line,) = lines(caplog)
    assert "0.1 GB are free" in line and recorded.captured == 0
    recorded.room = ""
    drawn(demo)
    assert recorded.captured, "there is room later"


class Cancelled(Exception):
    """What ComfyUI raises."""


@pytest.mark.parametrize("decoder", ["gumbel", "sjd"])
def test_after_a_cancelled_run_the_next_uses_its_graphs(demo: Lumina, monkeypatch: Patch, decoder: str) -> None:
    recorded, forwards = RecordedSteps(), iter(range(100))
    windows = capture_by(monkeypatch, recorded)

    def cancel() -> None:
        if next(forwards) == calls_in_prefill(demo) + 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        demo.sample(request(demo, decoder, seed=8), before_forward=cancel)
    assert recorded.live and demo.runs.nbytes
    assert same(drawn(demo, decoder), plain(decoder)) and len(windows) == 1


def test_a_run_that_the_device_ends_leaves_nothing_and_the_next_works(demo: Lumina, monkeypatch: Patch) -> None:
    windows = capture_by(monkeypatch, RecordedSteps(after_replay=at(3, torch.OutOfMemoryError("CUDA out of memory"))))
    with pytest.raises(OutOfMemory, match="out of memory while drawing"):
        drawn(demo, "ar")
    assert demo.runs.nbytes == 0
    assert same(drawn(demo, "ar"), plain("ar")) and len(windows) == 2


# Where steps are captured


@pytest.fixture
def on_a_gpu(monkeypatch: Patch) -> list[bool]:
    """A device that captures; the list holds how the probe was asked."""
    asked: list[bool] = []

    def works(device: torch.device, allocates: bool) -> str:
        asked.append(allocates)
        return ""

    monkeypatch.setattr(cuda_graph, "captures", lambda choice, device: choice != "off")
    monkeypatch.setattr(cuda_graph, "capture_failure", works)
    monkeypatch.setattr(cuda_graph, "CudaCapture", lambda device: RecordedSteps())
    return asked


def window_of(lumina: Lumina, allocates: bool = True, choice: str = "auto", streamed: bool = False) -> Any:
    transformer = SimpleNamespace(
        compile_choice=choice, device=torch.device("cpu"), modules=lumina.transformer.modules, streamed=streamed
    )
    return SimpleNamespace(transformer=transformer, kernels=RunKernels(allocates=allocates))


@pytest.mark.parametrize("choice", ["auto", "on"])
def test_steps_are_captured_where_the_probe_finds_that_it_works(
    demo: Lumina, on_a_gpu: list[bool], choice: str
) -> None:
    """It is asked about steps that allocate where references are used."""
    for allocates in (False, True):
        assert isinstance(cuda_graph.make_steps(window_of(demo, allocates, choice), CaptureLog()), CapturedSteps)
    assert on_a_gpu == [False, True]


def test_steps_run_one_by_one_where_the_probe_fails_and_it_is_said_once(
    demo: Lumina, on_a_gpu: list[bool], monkeypatch: Patch, caplog: Log
) -> None:
    monkeypatch.setattr(cuda_graph, "capture_failure", lambda device, allocates: "the driver has no graphs")
    log = CaptureLog()
    for _ in range(2):
        assert isinstance(cuda_graph.make_steps(window_of(demo), log), PlainSteps)
    (line,) = lines(caplog)
    assert "the driver has no graphs" in line and not on_a_gpu


def test_streamed_weights_are_not_captured_and_it_is_said_once(demo: Lumina, on_a_gpu: list[bool], caplog: Log) -> None:
    log = CaptureLog()
    for _ in range(2):
        assert isinstance(cuda_graph.make_steps(window_of(demo, streamed=True), log), PlainSteps)
    (line,) = lines(caplog)
    assert "streamed" in line and not on_a_gpu


def test_off_captures_nothing(demo: Lumina, on_a_gpu: list[bool], caplog: Log) -> None:
    assert isinstance(cuda_graph.make_steps(window_of(demo, choice="off"), CaptureLog()), PlainSteps)
    assert not on_a_gpu and not lines(caplog)


def test_other_choices_are_refused() -> None:
    with pytest.raises(InputError, match="compile is 'yes'; expected one of auto, on, off"):
        set_compile(torch.nn.Module(), "yes")


def test_on_is_auto_and_says_so(caplog: Log) -> None:
    with caplog.at_level(logging.INFO):
        assert set_compile(torch.nn.Module(), "on").compile_choice == "on"
    assert "the same as auto" in caplog.text


@pytest.mark.parametrize("filled", [1, 500, 512, 513, 700, 3000, 9000])
def test_without_the_attention_kernel_lengths_grow_geometrically(filled: int) -> None:
    """Few graphs a picture; at most half more is read than is filled, from 512 on."""
    window = SimpleNamespace(
        cache=SimpleNamespace(kernels=SimpleNamespace(attention=SimpleNamespace(is_kernel=False)), length=9472),
        width=1,
        canvas=SimpleNamespace(last=9400),
        slots_run=lambda width: width,
        transformer=SimpleNamespace(device=torch.device("cuda")),
    )
    read = partial(loop.read_length, window, 0, since_sync=0, width=1)
    assert filled < read(filled) <= max(512, 1.5 * (filled + 1))
    assert len({read(position) for position in range(9400)}) <= 10
