"""The engine: batches, the cache, progress, cancelling, counts, and input that it refuses before any work."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.decoding import loop
from lumina_core.decoding.loop import decode
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import NEW_DRAFTS, DecodeResult, DecodeSettings, StepReport
from lumina_core.errors import InputError
from lumina_core.model.kv_cache import KVCache
from lumina_core.model.transformer import Transformer
from lumina_core.pipeline import Lumina

from .toys import Toy, toy_transformer, toy_vocabulary

CODES, PICTURES = 64, 3
SETTINGS = DecodeSettings(cfg_scale=3.0, top_k=8, temperature=0.7, seed=5, window_size=7)
DECODERS = ("ar", "gumbel", "sjd", "coupled")
every_decoder = pytest.mark.parametrize("decoder", DECODERS)


@pytest.fixture(scope="module")
def toy() -> Toy:
    """Six rows of five codes, the first given: 29 tokens to draw in each picture of a batch of three prompts."""
    given = torch.randint(0, CODES, (1, 5), generator=torch.Generator().manual_seed(1))
    prompts = ((20, 21, 22, 4), (23, 4), (24, 25, 26, 27, 28, 29, 4))
    return Toy(toy_transformer(CODES, hidden=32, spread=2.0), 6, 5, prompts, given)


@pytest.fixture(scope="module", params=DECODERS)
def result(request: pytest.FixtureRequest, toy: Toy) -> DecodeResult:
    return toy.decode(replace(SETTINGS, decoder=request.param), PICTURES)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of all forwards that follow."""
    shapes: list[tuple[int, ...]] = []
    hidden_states = Transformer.hidden_states

    def counted(self: Transformer, embeddings: Tensor, plan: object) -> Tensor:
        shapes.append(tuple(embeddings.shape))
        return hidden_states(self, embeddings, plan)

    monkeypatch.setattr(Transformer, "hidden_states", counted)
    return shapes


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[KVCache]]:
    """The caches of all runs that follow."""
    made: list[weakref.ref[KVCache]] = []
    init: Callable[..., None] = KVCache.__init__

    def noted(self: KVCache, *arguments: object, **options: object) -> None:
        init(self, *arguments, **options)
        made.append(weakref.ref(self))

    monkeypatch.setattr(KVCache, "__init__", noted)
    return made


def line_ids(toy: Toy, prompt: tuple[int, ...], codes: Tensor) -> list[int]:
    return [*prompt, *toy.picture_ids[:3], *toy.vocabulary.row_tokens(codes)]


@pytest.mark.parametrize("way", NEW_DRAFTS)
@every_decoder
def test_picture_k_is_the_picture_of_seed_plus_k_alone(toy: Toy, decoder: str, way: str) -> None:
    settings = replace(SETTINGS, decoder=decoder, new_drafts=way)
    together = toy.decode(settings, PICTURES)
    for k, prompt in enumerate(toy.prompts):
        alone = replace(toy, prompts=(prompt,)).decode(replace(settings, seed=settings.seed + k), 1)
        assert torch.equal(alone.codes[0], together.codes[k])
        assert alone.accept_lengths[0] == together.accept_lengths[k]
        assert torch.equal(alone.accept_step[0], together.accept_step[k])


NEGATIVES = ((30, 31, 4), (24, 25, 26, 27, 28, 29, 30, 31, 4), ())


def negative_drawn(toy: Toy, settings: DecodeSettings, *negatives: tuple[int, ...], **changes: object) -> DecodeResult:
    values = {"prompts": toy.prompts[: len(negatives)], **changes}
    request = Request(**values, grid_h=6, grid_w=5, given_codes=toy.given_codes, settings=settings)
    return decode(toy.transformer, toy.vocabulary, replace(request, negative_prompts=negatives))


@every_decoder
def test_each_picture_of_a_batch_has_its_own_negative_prompt(toy: Toy, decoder: str) -> None:
    settings = replace(SETTINGS, decoder=decoder, tree=4 if decoder == "gumbel" else 0)
    together = negative_drawn(toy, settings, *NEGATIVES).codes
    for k, (prompt, negative) in enumerate(zip(toy.prompts, NEGATIVES, strict=True)):
        own = replace(settings, seed=settings.seed + k)
        assert torch.equal(negative_drawn(toy, own, negative, prompts=(prompt,)).codes[0], together[k])
    assert torch.equal(together[2], toy.decode(settings, PICTURES).codes[2]), "an empty one is none"
    assert not torch.equal(together[:2], toy.decode(settings, PICTURES).codes[:2])
    ar = negative_drawn(toy, replace(SETTINGS, decoder="ar"), *NEGATIVES).codes
    assert torch.equal(together, ar) == (decoder in ("ar", "gumbel"))


def test_empty_negative_prompts_draw_as_none(toy: Toy) -> None:
    found, expected = negative_drawn(toy, SETTINGS, (), (), ()), toy.decode(SETTINGS, PICTURES)
    assert torch.equal(found.codes, expected.codes) and found.accept_lengths == expected.accept_lengths
    assert found.log_likelihood == expected.log_likelihood


def test_the_unconditional_branch_is_a_plain_run_of_the_negative_prompt(toy: Toy) -> None:
    """Guidance of 0 leaves that branch alone, so the pictures are those of the negative prompts without guidance."""
    settings = replace(SETTINGS, cfg_scale=0.0)
    found = negative_drawn(toy, settings, *NEGATIVES[:2])
    expected = replace(toy, prompts=NEGATIVES[:2]).decode(replace(settings, cfg_scale=1.0), 2)
    assert torch.equal(found.codes, expected.codes)
    torch.testing.assert_close(found.log_likelihood, expected.log_likelihood)


def test_a_negative_prompt_equal_to_the_prompt_draws_without_guidance(toy: Toy) -> None:
    guided = negative_drawn(toy, SETTINGS, *toy.prompts).codes
    assert torch.equal(guided, toy.decode(replace(SETTINGS, cfg_scale=1.0), PICTURES).codes)


def test_the_cache_holds_a_negative_prompt_that_is_longer_than_the_prompt(toy: Toy) -> None:
    """And without guidance none is read, so its length does not count."""
    longest = (30,) * 200
    request = Request([PROMPT], 6, 5, toy.given_codes, SETTINGS, [longest])
    assert request.longest_prompt == 200
    assert replace(request, settings=replace(SETTINGS, cfg_scale=1.0)).longest_prompt == len(PROMPT)
    results = [negative_drawn(toy, replace(SETTINGS, decoder=one), longest, prompts=(PROMPT,)) for one in DECODERS[:2]]
    assert torch.equal(results[0].codes, results[1].codes)


def test_negative_prompts_are_one_for_each_picture(toy: Toy) -> None:
    with pytest.raises(InputError, match="2 negative prompts; expected 3, one for each picture"):
        negative_drawn(toy, SETTINGS, (), (), prompts=toy.prompts)


def test_seeds_differ_and_repeat(toy: Toy) -> None:
    same_prompt = replace(toy, prompts=toy.prompts[:1])
    first, again = (same_prompt.decode(SETTINGS, PICTURES).codes for _ in range(2))
    assert torch.equal(first, again)
    assert len({tuple(codes.flatten().tolist()) for codes in first}) == PICTURES


@every_decoder
def test_rejected_drafts_leave_no_trace_in_the_cache(toy: Toy, decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the last accepted token that was read, it holds what one pass over the finished picture writes."""
    kept: list[KVCache] = []
    init: Callable[..., None] = KVCache.__init__

    def noted(self: KVCache, *arguments: object, **options: object) -> None:
        init(self, *arguments, **options)
        kept.append(self)

    monkeypatch.setattr(KVCache, "__init__", noted)
    result, model = toy.decode(replace(SETTINGS, decoder=decoder), PICTURES), toy.transformer
    assert decoder == "ar" or any(1 in lengths for lengths in result.accept_lengths)
    for row, prompt in enumerate([*toy.prompts, (), (), ()]):
        ids = line_ids(toy, prompt, result.codes[row % PICTURES])[: len(prompt) + toy.canvas.last]
        fresh = KVCache(model.config, 1, len(ids), dtype=torch.float32, device="cpu")
        model.hidden_states(model.embed(torch.tensor([ids])), fresh.prefill_plan(0, len(ids)))
        for found, expected in zip(kept[0].layers, fresh.layers, strict=True):
            for written, whole in ((found.keys, expected.keys), (found.values, expected.values)):
                read, all_at_once = (part.read(len(ids), torch.float32) for part in (written, whole))
                torch.testing.assert_close(read[row], all_at_once[0], atol=1e-5, rtol=1e-5)


class Interrupted(Exception):
    """Raised by a caller."""


def interrupt_at(forward: int) -> Callable[[StepReport], None]:
    def on_step(report: StepReport) -> None:
        if report.nfe == forward:
            raise Interrupted(f"after {forward} forwards")

    return on_step


@every_decoder
def test_an_exception_of_the_caller_ends_the_run_and_the_next_one_is_right(toy: Toy, decoder: str) -> None:
    settings = replace(SETTINGS, decoder=decoder)
    before = toy.decode(settings, 1)
    for forward in range(1, before.nfe + 1):
        with pytest.raises(Interrupted, match=f"after {forward} forwards"):
            toy.decode(settings, 1, interrupt_at(forward))
    assert torch.equal(toy.decode(settings, 1, lambda _: None).codes, before.codes)


def test_a_run_that_is_interrupted_holds_nothing(toy: Toy, caches: list[weakref.ref[KVCache]]) -> None:
    with pytest.raises(Interrupted):
        toy.decode(SETTINGS, PICTURES, interrupt_at(2))
    gc.collect()
    assert len(caches) == 1 and caches[0]() is None


def test_a_caller_can_end_the_run_before_any_forward(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the host synchronises seldom, as with a GPU."""
    monkeypatch.setattr(loop, "forwards_per_sync", lambda device: 8)
    forwards, reports = iter(range(100)), list[StepReport]()
    result = toy.decode(SETTINGS, 1, reports.append, before_forward=lambda: next(forwards))
    assert result.nfe > 1 and next(forwards) >= result.nfe > len(reports)
    for last in range(4):
        calls = iter(range(last))
        with pytest.raises(StopIteration):
            toy.decode(SETTINGS, 1, before_forward=functools.partial(next, calls))
        assert next(calls, None) is None


def test_ctrl_c_in_a_callback_comes_through(toy: Toy) -> None:
    def interrupt(_: StepReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.decode(SETTINGS, 1, interrupt)


@every_decoder
def test_reports_grow_to_the_final_picture(toy: Toy, decoder: str) -> None:
    reports: list[StepReport] = []
    result = toy.decode(replace(SETTINGS, decoder=decoder), PICTURES, on_step=reports.append)
    given, total = len(toy.given_codes) * toy.grid_w, int(toy.drawn.sum())
    assert [report.nfe for report in reports] == list(range(1, result.nfe + 1))
    assert reports[-1].accepted == (total,) * PICTURES and torch.equal(reports[-1].codes, result.codes)
    for report, following in zip(reports, [*reports[1:], reports[-1]], strict=True):
        assert report.total == total and report.codes.shape == result.codes.shape
        assert all(now <= later for now, later in zip(report.accepted, following.accepted, strict=True))
        for k, accepted in enumerate(report.accepted):
            end = given + accepted
            assert torch.equal(report.codes[k].flatten()[:end], result.codes[k].flatten()[:end])
            steps = result.accept_step[k].flatten()
            assert (steps[:end] <= report.nfe).all() and (steps[end:] > report.nfe).all()


def test_counts_agree(toy: Toy, result: DecodeResult) -> None:
    width = result.settings.width
    for lengths in result.accept_lengths:
        assert sum(lengths) + 1 == toy.canvas.tokens_left
        assert all(1 <= length <= width for length in lengths)
    assert result.nfe == max(map(len, result.accept_lengths))
    assert result.sampled_tokens == PICTURES * int(toy.drawn.sum())
    assert sum(result.accept_histogram.values()) == sum(map(len, result.accept_lengths))
    assert sum(length * count for length, count in result.accept_histogram.items()) == sum(
        map(sum, result.accept_lengths)
    )


def test_accept_steps_agree_with_accept_lengths(toy: Toy, result: DecodeResult) -> None:
    canvas, given = toy.canvas, len(toy.given_codes)
    index = torch.arange(canvas.first, canvas.last + 1)
    for lengths, steps in zip(result.accept_lengths, result.accept_step, strict=True):
        accepted_by = [0, *(step for step, length in enumerate(lengths, 1) for _ in range(length))]
        assert (steps[:given] == -1).all()
        assert torch.equal(torch.tensor(accepted_by)[~canvas.layout.is_end_of_row(index)], steps[given:].flatten())


def test_codes_are_codes_and_given_rows_stay(toy: Toy, result: DecodeResult) -> None:
    assert result.codes.dtype == torch.int64 and result.codes.device.type == "cpu"
    assert int(result.codes.min()) >= 0 and int(result.codes.max()) < CODES
    assert (result.codes[:, :1] == toy.given_codes).all()


def test_windows_save_forwards(toy: Toy) -> None:
    """Else nothing here would have been tested."""
    forwards = {decoder: toy.decode(replace(SETTINGS, decoder=decoder), PICTURES).nfe for decoder in DECODERS}
    assert forwards["ar"] == toy.canvas.tokens_left - 1
    assert max(forwards[decoder] for decoder in DECODERS[1:]) < forwards["ar"]


def test_nfe_counts_the_forwards_after_the_prompts(toy: Toy, forwards: list[tuple[int, ...]]) -> None:
    result = toy.decode(SETTINGS, PICTURES)
    different_sequences = PICTURES + 1
    assert len(forwards) == different_sequences + result.nfe
    assert {shape[0] for shape in forwards[different_sequences:]} == {2 * PICTURES}


@every_decoder
def test_the_smallest_picture_is_drawn_from_the_prompt_alone(toy: Toy, decoder: str) -> None:
    tiny = Toy(toy.transformer, 1, 1, toy.prompts, torch.zeros(0, 1, dtype=torch.int64))
    result = tiny.decode(replace(SETTINGS, decoder=decoder, window_size=1), PICTURES)
    assert (result.nfe, result.accept_lengths, result.codes.shape) == (0, ((),) * PICTURES, (PICTURES, 1, 1))
    assert not result.accept_step.any()


# What cannot be drawn

GRID = torch.zeros(8, 4, dtype=torch.int64)
PROMPT = (20, 4)


def sample(toy: Toy, *prompts: tuple[int, ...], **request: object) -> Tensor:
    """Codes by the checked way: a canvas of 8 rows of 4 codes where none is named."""
    values = {"grid_h": 8, "grid_w": 4, "settings": SETTINGS, **request}
    lumina = Lumina(toy.transformer, toy_vocabulary(CODES))
    return lumina.sample(Request(prompts, **values)).codes


@dataclass(frozen=True)
class Refusal:
    """A request, and what its error says."""

    says: str
    prompts: tuple[tuple[int, ...], ...] = (PROMPT,)
    grid: tuple[int, int] = (8, 4)
    given_codes: Tensor | None = None


REFUSALS = {
    "nothing left to draw": Refusal("8 rows are given; expected at most 7 of 8", given_codes=GRID),
    "given rows of another width": Refusal(r"\(2, 3\); expected \[rows,4\]", given_codes=GRID[:2, :3]),
    "given rows of other pictures": Refusal(r"expected \[rows,4\] or \[1,rows,4\]", given_codes=GRID.view(2, 4, 4)),
    "one line of codes": Refusal(r"\(4,\); expected", given_codes=GRID[0]),
    "given codes out of the codebook": Refusal("codes run from 0 to 64", given_codes=GRID[:1] + CODES),
    "given codes that are no whole numbers": Refusal("torch.float32", given_codes=GRID[:1].float()),
    "no prompt": Refusal("the request has no prompt", prompts=()),
    "a side of no whole units": Refusal("multiple", grid=(8, 6)),
    "a picture beyond the context": Refusal("nearest size that the model was trained on", grid=(16, 16)),
    "a prompt beyond the context": Refusal("nearest size that the model was trained on", prompts=((20,) * 215,)),
    "a prompt that fills the context": Refusal("leaves no room", prompts=((20,) * 250,)),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_refused_before_the_first_forward(toy: Toy, forwards: list[tuple[int, ...]], refusal: Refusal) -> None:
    grid_h, grid_w = refusal.grid
    with pytest.raises(InputError, match=refusal.says):
        sample(toy, *refusal.prompts, grid_h=grid_h, grid_w=grid_w, given_codes=refusal.given_codes)
    assert forwards == []


@pytest.mark.parametrize("given_rows", [0, 7])
@every_decoder
def test_a_window_larger_than_what_is_left_is_reduced_to_that(toy: Toy, decoder: str, given_rows: int) -> None:
    given, left = GRID[:given_rows], (8 - given_rows) * 5 - 1
    settings = replace(SETTINGS, decoder=decoder, window_size=128)
    request = Request([PROMPT], 8, 4, given, settings)
    assert request.settings == replace(settings, window_size=left)
    fitting = sample(toy, PROMPT, given_codes=given, settings=replace(settings, window_size=left))
    assert torch.equal(sample(toy, PROMPT, given_codes=given, settings=settings), fitting)
    if decoder == "gumbel":
        ar = replace(settings, decoder="ar")
        assert torch.equal(sample(toy, PROMPT, given_codes=given, settings=ar), fitting)


def test_the_longest_prompt_that_fits_is_drawn(toy: Toy) -> None:
    config: TransformerConfig = toy.transformer.config
    longest = config.max_position_embeddings - (3 + 8 * 5 + 1)
    assert sample(toy, (20,) * longest, (21,)).shape == (2, 8, 4)


def test_an_empty_prompt_draws_without_guidance(toy: Toy) -> None:
    guided, unguided = (sample(toy, (), settings=replace(SETTINGS, cfg_scale=scale)) for scale in (3.0, 1.0))
    assert torch.equal(guided, unguided)
