"""The demo's training runs from end to end at a small scale, and what it writes is a checkpoint."""

from __future__ import annotations

import json
import logging
import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from lumina_core import load_movqgan, load_tokenizer, load_transformer
from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.kernels.reference import apply_rope
from lumina_core.model.rope import rope_table
from lumina_core.pictures.sizes import HEADER_LENGTH
from lumina_core.pipeline import Lumina
from lumina_core.tokens.vocabulary import Vocabulary
from training import __main__ as whole
from training import codes, matching, movqgan, questions, transformer
from training.progress import Progress, TrainingState
from training.world import (
    CANVAS,
    CATEGORIES,
    COLOURS,
    KINDS,
    SIZES,
    TRAINING_WEIGHTS,
    Claim,
    Spec,
    begins_code,
    code_factors,
    code_vectors,
    fresh_samples,
    looks,
    render,
    sample,
    scene_codes,
    training_rng,
)
from training.world import GRID as GRID_PX
from training.world.cells import KIND, Look
from training.world.scenes import STATED_VALUES, drawn_claims, pick_weighted, stated_numbers

MOST_BYTES = 24_000_000
GRID = CANVAS // 8
STEPS = ("--movqgan-steps", "2", "--transformer-steps", "2")
STATES = (movqgan.STATE, transformer.STATE)
HEAD_BATCHES, HEAD_FITS = 15, 1500


def make_small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(movqgan, "BATCH", 2)
    patch.setattr(transformer, "BATCH", 4)
    patch.setattr(transformer, "TASK_BATCH", 2)
    patch.setattr(transformer, "WITHOUT_TEXT", 2)
    patch.setattr(matching, "BATCHES", 2)
    patch.setattr(matching, "FITS", 5)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that a few steps of are over at once."""
    make_small(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that `python -m training` makes in a few steps."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip(f"PyTorch {torch.__version__} has no Muon, the optimizer of the training")
    folder = tmp_path_factory.mktemp("training") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        whole.main(["--out", str(folder), "--seed", "1", "--device", "cpu", *STEPS])
    return folder


def untrained(made: Path, seed: int) -> tuple[transformer.Data, transformer.TrainingModel]:
    """A source of batches, and a model of random weights, for the tokenizer and the config of a checkpoint."""
    tokenizer, config = load_tokenizer(made), TransformerConfig.from_file(made / "config.json")
    data = transformer.Data(training_rng(seed), tokenizer, Vocabulary.of(tokenizer, config))
    return data, transformer.TrainingModel(config, code_factors())


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Everything in one command


def test_what_is_written_is_a_checkpoint(made: Path) -> None:
    checkpoint = open_checkpoint(made)
    assert checkpoint.tensors.paths == (made / "model.safetensors",)
    assert checkpoint.movqgan == made / "movqgan.safetensors"
    assert sorted(path.name for path in made.iterdir()) == [
        *("config.json", "model.safetensors", "movqgan.safetensors", "movqgan.training.pt"),
        *("tokenizer.json", "tokenizer_config.json", "transformer.training.pt"),
    ]
    config = checkpoint.config
    assert config.trained_sizes == ((CANVAS, CANVAS), (CANVAS, 2 * CANVAS))
    assert config.codebook_size == load_movqgan(checkpoint.movqgan).config.codebook_size == len(looks())


def test_it_is_small_enough_to_be_embedded(made: Path) -> None:
    assert sum(path.stat().st_size for path in made.iterdir() if path.name not in STATES) <= MOST_BYTES


def test_it_draws(made: Path) -> None:
    lumina = Lumina.load(made, dtype=torch.float32, device="cpu")
    assert lumina.draw("a red circle", CANVAS, CANVAS, top_k=1).images[0].size == (CANVAS, CANVAS)


def test_tensors_are_half_precision_and_finite(made: Path) -> None:
    for name, dtype in (("model.safetensors", torch.bfloat16), ("movqgan.safetensors", torch.float16)):
        tensors = load_file(made / name)
        assert {tensor.dtype for tensor in tensors.values()} == {dtype}
        assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_head_has_rows_of_image_codes_alone(made: Path) -> None:
    config, head = TransformerConfig.from_file(made / "config.json"), load_transformer(made).text_head
    first = config.image_token_offset
    assert not head[:first].any() and head[first:].any(1).all() and len(head) == first + config.codebook_size


# The codec


def test_codec_of_one_command_is_the_codec_of_its_own(made: Path, tmp_path: Path) -> None:
    for seed, same in (("1", True), ("2", False)):
        movqgan.main(["--out", str(tmp_path / seed), "--steps", "2", "--seed", seed, "--device", "cpu"])
        assert ((tmp_path / seed / movqgan.FILE_NAME).read_bytes() == (made / movqgan.FILE_NAME).read_bytes()) == same


def test_stacked_batches_are_canvases_of_two_panels() -> None:
    batch = movqgan.scene_batch(np.random.default_rng(7), 6)
    stacked = movqgan.stack(batch)
    assert stacked.pixels.shape == (3, 3, 2 * CANVAS, CANVAS) and stacked.codes.shape == (3, 2 * GRID, GRID)
    for part in ("seen", "pixels", "weights", "codes"):
        whole, halves = getattr(stacked, part), getattr(batch, part)
        assert torch.equal(torch.cat(whole.chunk(2, dim=-2)), halves)


def test_every_cell_of_every_scene_has_a_code_of_its_own_look() -> None:
    """One code is never of two looks: painting each by one cell that it had elsewhere gives the picture."""
    seen: dict[tuple[int, str], np.ndarray] = {}
    for category in CATEGORIES:
        for item in fresh_samples(category, 40, seed=2):
            picture = render(item.scene)
            for (y, x), code in np.ndenumerate(scene_codes(item.scene)):
                cell = picture[8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
                known = seen.setdefault((code, item.scene.background), cell)
                assert (known == cell).all()


def test_an_object_begins_with_a_code_that_does_not_say_what_it_is() -> None:
    for category in CATEGORIES:
        for item in fresh_samples(category, 20, seed=3):
            codes_of = scene_codes(item.scene)
            begun = {(y, x) for y, x in np.argwhere(codes_of == begins_code())}
            assert begun == {(thing.y // GRID_PX, thing.x // GRID_PX - 1) for thing in item.scene.objects}


def test_looks_with_one_factor_in_common_share_its_row() -> None:
    factors = code_factors()
    assert len({tuple(row) for row in factors}) == len(looks()) and factors.min() == 0
    table = transformer.FactorTable(factors, 4, 0.5)
    with torch.no_grad():
        table.own.zero_()
    cat, dog, lower_cat, lower_dog = (
        looks().index(Look("object", None, None, kind, None, "large", row, 2))
        for row in (1, 2)
        for kind in ("cat", "dog")
    )
    rows = table()
    assert table.shares.sum(1).eq(factors.shape[1]).all()
    torch.testing.assert_close(rows[lower_cat] - rows[cat], rows[lower_dog] - rows[dog])


def test_code_vectors_are_all_different() -> None:
    vectors = torch.from_numpy(code_vectors())
    assert vectors.shape == (len(looks()), movqgan.CONFIG.code_channels) and vectors.isfinite().all()
    assert len(vectors.unique(dim=0)) == len(vectors)


def test_codec_learns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a few steps at a high rate, of which warming up leaves a part."""
    monkeypatch.setattr(movqgan, "PEAK_RATE", 0.05)
    batch, errors = movqgan.scene_batch(np.random.default_rng(7), 4), []
    for steps in (0, 3):
        torch.manual_seed(0)
        model = movqgan.MoVQGAN(movqgan.CONFIG)
        if steps:
            model = movqgan.train(model, Progress(steps), tmp_path / "state", 0, False)
        errors.append(movqgan.run_both(model, batch, torch.zeros(4, dtype=torch.bool))[0].item())
    assert errors[1] < 0.99 * errors[0]


def test_rate_rises_and_falls() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=9.0)
    rates, progress = [], Progress(500)
    while not progress.done:
        progress.set_rate(optimizer, 2.0, 100, 0.5)
        rates.append(optimizer.param_groups[0]["lr"])
        progress.advance()
    assert rates[:100] == sorted(rates[:100]) and rates[99:] == sorted(rates[99:], reverse=True) and len(rates) == 500
    assert math.isclose(rates[249], 2.0) and 0.006 <= rates[-1] < 0.0061


def test_time_ends_a_training_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(10, seconds=60)
    now[0] = 145.0
    assert progress.share == 0.75 and not progress.done
    resumed = Progress(10, seconds=60)
    resumed.load(progress.state())
    now[0] = 161.0
    assert resumed.done and resumed.elapsed == 61


@pytest.mark.parametrize("part", ["movqgan", "transformer"])
def test_a_resumed_training_ends_like_one_in_one_go(made: Path, tmp_path: Path, part: str) -> None:
    """The first run is ended in its middle, as by a power cut after its state was saved."""
    module, file = {"movqgan": (movqgan, movqgan.FILE_NAME), "transformer": (transformer, "model.safetensors")}[part]
    for name in ("tokenizer.json", "tokenizer_config.json", movqgan.FILE_NAME):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    save, rest = TrainingState.save_at_times, ["--steps", "2", "--seed", "1", "--device", "cpu"]

    def save_and_stop(state: TrainingState) -> None:
        state.save()
        raise KeyboardInterrupt

    TrainingState.save_at_times = save_and_stop
    try:
        with pytest.raises(KeyboardInterrupt):
            module.main(["--out", str(tmp_path), *rest])
    finally:
        TrainingState.save_at_times = save
    module.main(["--out", str(tmp_path), "--resume", *rest])
    assert equal(load_file(tmp_path / file), load_file(made / file))


# The transformer


def test_transformer_of_one_command_is_the_transformer_of_its_own(made: Path, tmp_path: Path) -> None:
    names = ("tokenizer.json", "tokenizer_config.json", "movqgan.safetensors")
    for seed, same in ((1, True), (2, False)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes((made / name).read_bytes())
        transformer.main(["--out", str(folder), "--steps", "2", "--seed", str(seed), "--device", "cpu"])
        assert json.loads((folder / "config.json").read_text()) == json.loads((made / "config.json").read_text())
        assert equal(load_file(folder / "model.safetensors"), load_file(made / "model.safetensors")) == same


def test_training_logs_its_loss(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is learnt yet: the loss is that of a guess among all codes."""
    for name in ("tokenizer.json", "tokenizer_config.json", "movqgan.safetensors"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    with caplog.at_level(logging.INFO):
        transformer.make(tmp_path, 1, None, 0, False, torch.device("cpu"))
    assert f"nats a code {math.log(len(looks())):.4f}" in caplog.text


def test_training_draws_every_category() -> None:
    assert set(CATEGORIES) <= set(TRAINING_WEIGHTS)


def test_batches_predict_every_code_from_the_token_before(made: Path) -> None:
    tokenizer, config = load_tokenizer(made), TransformerConfig.from_file(made / "config.json")
    vocabulary = Vocabulary.of(tokenizer, config)
    captioned, plain = codes.make_batches(training_rng(5), 9, 4, tokenizer, vocabulary)
    for batch, size in ((captioned, 9), (plain, 4)):
        assert batch.codes.shape == (size, GRID * GRID)
        following = batch.input_ids.gather(1, batch.positions + 1) - config.image_token_offset
        assert torch.equal(following, batch.codes)
        starts = batch.positions[:, :1] - (HEADER_LENGTH - 1)
        assert (batch.input_ids.gather(1, starts) == vocabulary.image_start).all()
    assert torch.equal(plain.codes, captioned.codes[:4])
    assert (plain.positions[:, 0] == HEADER_LENGTH - 1).all() and (captioned.positions[:, 0] > HEADER_LENGTH).all()


def test_loss_counts_text_its_absence_and_stray_codes(made: Path) -> None:
    """At cfg 1 guidance does nothing: what strays there is what the branch with text gives to unlikely codes."""
    tokenizer, config = load_tokenizer(made), TransformerConfig.from_file(made / "config.json")
    vocabulary = Vocabulary.of(tokenizer, config)
    model = transformer.TrainingModel(config, code_factors())
    torch.nn.init.normal_(model.codes_out.own, std=0.08)
    captioned, plain = codes.make_batches(training_rng(6), 4, 4, tokenizer, vocabulary)
    keep = transformer.kept_codes(training_rng(7), captioned.codes)
    _, loss = model.loss(captioned, plain, keep, torch.ones(4), 0.3)
    (told, answers), (untold, _) = (model.logits(batch, keep, model.tables()) for batch in (captioned, plain))
    probs, truth = told.softmax(-1), captioned.codes[keep]
    unlikely = (probs < transformer.STRAY).scatter(-1, truth[..., None], False)
    strays, weights = -(1 - (probs * unlikely).sum(-1)).log(), transformer.code_weights(captioned, keep)
    stray = (strays * weights).sum() / weights.sum()
    assert stray > 0.05
    shown, entropy = transformer.what_codes_show(), transformer.cross_entropy
    expected = entropy(told, captioned, keep) + entropy(untold, plain, keep) + 0.3 * stray
    for logits, batch in ((told, captioned), (untold, plain)):
        expected += transformer.WHAT_WEIGHT * entropy(logits, batch, keep, shown)
    expected += questions.answers_loss(answers, captioned, keep)
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=1e-2)


def test_codes_that_are_left_out_of_the_loss_are_stood_for() -> None:
    """All codes that decide something count, and so many of the others that the weights sum to those of all.

    First codes of objects weigh more.
    """
    tokenizer = load_tokenizer("demo")
    vocabulary = Vocabulary.of(tokenizer, TransformerConfig.from_dict(transformer.demo_config(1000, len(looks()))))
    batch, _ = codes.make_batches(training_rng(8), 40, 1, tokenizer, vocabulary)
    keep = transformer.kept_codes(training_rng(9), batch.codes)
    first = transformer.first_codes()[batch.codes]
    deciding = first | (batch.codes == begins_code())
    assert keep[deciding].all() and keep[~deciding].float().mean() < 0.6
    weights, follows = transformer.code_weights(batch, keep), ~first[keep]
    assert math.isclose(weights[follows].sum(), batch.weights[~first].sum(), rel_tol=0.05)
    assert (weights[~follows] == transformer.FIRST_WEIGHT).all()


def test_an_objects_first_code_follows_on_its_beginning() -> None:
    """So that its weight in the loss changes no probability."""
    for item in fresh_samples("mixed", 20, seed=3):
        grid = scene_codes(item.scene)
        first = transformer.first_codes().numpy()[grid]
        assert first.sum() == len(item.scene.objects)
        assert np.array_equal(first[:, 1:], grid[:, :-1] == begins_code()) and not first[:, 0].any()


def test_objects_to_come_begin_at_a_code_or_after_it() -> None:
    begins, other = begins_code(), 0
    grid = torch.tensor([[other, begins, other, begins, other]])
    assert questions.to_come(grid).tolist() == [[2, 2, 1, 1, 0]]


def test_what_texts_state_of_the_objects_is_in_the_order_of_drawing() -> None:
    claims = Claim(1, "cat", size="small"), Claim(1, "star", "blue")
    numbers = {
        relation: stated_numbers(drawn_claims(Spec("position", claims, relation))) for relation in ("left of", "below")
    }
    cat, star = [KINDS.index("cat") + 1, 0, 1], [KINDS.index("star") + 1, tuple(COLOURS).index("blue") + 1, 0]
    assert numbers == {"left of": cat + star + [0] * 6, "below": star + cat + [0] * 6}
    assert stated_numbers(drawn_claims(Spec("counting", (Claim(3, "cat"),))))[::3] == [cat[0]] * 3 + [0]
    assert stated_numbers((None, claims[1])) == [0, 0, 0, *star] + [0] * 6


def test_answers_cost_nothing_where_they_are_right() -> None:
    """And much where they are wrong; what a task gives, and codes of which nothing is known, do not count."""
    shown = torch.tensor([[begins_code(), 0, begins_code(), 0]])
    weights, changed = torch.tensor([[0.1, 0.1, 1.0, 1.0]]), torch.tensor([[codes.UNKNOWN, codes.UNKNOWN, 1, 0]])
    sizes = torch.tensor([[codes.UNKNOWN, codes.UNKNOWN, 2, codes.UNKNOWN]])
    stated = torch.tensor([stated_numbers((Claim(1, "cat"),))])
    batch = codes.Batch(shown, shown, shown, weights, stated, changed, sizes)
    keep = torch.ones(1, 4, dtype=torch.bool)
    told = [F.one_hot(number, count) for number, count in zip(stated[0], STATED_VALUES, strict=True)]
    right = questions.Answers(
        40.0 * torch.cat(told)[None],
        40.0 * F.one_hot(torch.tensor([4, 4, 1, 0]), 5),
        40.0 * F.one_hot(torch.tensor([0, 0, 1, 0]), 2),
        40.0 * F.one_hot(torch.tensor([0, 0, 2, 2]), 3),
    )
    assert questions.answers_loss(right, batch, keep) < 1e-3
    for name in right._fields:
        wrong = right._replace(**{name: -getattr(right, name)})
        assert questions.answers_loss(wrong, batch, keep) > 1, name


def test_the_next_size_is_the_subjects_from_where_it_is_the_next_to_begin(made: Path) -> None:
    tokenizer, config = load_tokenizer(made), TransformerConfig.from_file(made / "config.json")
    vocabulary = Vocabulary.of(tokenizer, config)
    batch, _ = codes.make_task_batches(training_rng(13), 20, 1, tokenizer, vocabulary, ("subject",))
    earlier = 0
    for grid, sizes in zip(batch.codes, batch.next_size, strict=True):
        known = (sizes != codes.UNKNOWN).nonzero().flatten().tolist()
        last, firsts = known[-1], transformer.first_codes()[grid].nonzero().flatten().tolist()
        assert known == list(range(known[0], last + 1)) and firsts.count(last) == 1
        assert {looks()[grid[last]].size} == {tuple(SIZES)[sizes[index]] for index in known}
        # The given panel has one object; what begins between is none of the subject's panel.
        before = [first for first in firsts[1:] if first < last]
        assert known[0] == (before[-1] + 1 if before else GRID * GRID)
        earlier += len(before)
    assert earlier > 3
    edits, _ = codes.make_task_batches(training_rng(13), 4, 1, tokenizer, vocabulary, ("edit", "control"))
    assert (edits.next_size == codes.UNKNOWN).all()


def test_a_size_head_reads_the_size_of_a_given_object(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On states that know what each cell shows: every state in the other panel knows its size."""
    monkeypatch.setattr(matching, "BATCHES", HEAD_BATCHES)
    data, model = untrained(made, 14)
    layer = model.transformer.layers[matching.SIZE_LAYER]
    shown = torch.randn(len(SIZES), model.transformer.config.hidden_size)
    size_of = torch.tensor([tuple(SIZES).index(look.size) if look.style == "object" else -1 for look in looks()])

    def known(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        states = 1 + 0.1 * torch.randn_like(output)
        for row, (grid, positions) in enumerate(zip(batch.codes, batch.positions, strict=True)):
            given = size_of[grid[: GRID * GRID]]
            states[row, positions[: GRID * GRID][given >= 0] + 1] += shown[given[given >= 0]]
        return states

    def draw(*tasks: str) -> codes.Batch:
        nonlocal batch
        batch = codes.make_task_batches(data.rng, 12, 1, data.tokenizer, data.vocabulary, tasks)[0]
        return batch

    batch = draw("edit:remove")
    layer.input_layernorm.register_forward_hook(known)
    matching.set_size_head(model, partial(draw, "edit:remove", "edit:replace"))
    subjects = draw("subject")
    keep = subjects.next_size != codes.UNKNOWN
    answers = model.logits(subjects, keep, model.tables())[1].next_size.argmax(-1)
    assert (answers == subjects.next_size[keep]).float().mean() > 0.95


def test_a_run_of_no_length_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = (["--transformer-steps", "0"], ["--movqgan-steps", "-1"])
    for wrong in (*steps, *(["--seconds", seconds] for seconds in ("0", "nan", "inf"))):
        with pytest.raises(SystemExit) as ended:
            whole.main(["--out", str(tmp_path / "new"), "--device", "cpu", *wrong])
        assert ended.value.code == 2 and "expected a step or more" in capsys.readouterr().err
        assert not (tmp_path / "new").exists()


def test_a_transformer_without_its_tokenizer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        transformer.main(["--out", str(tmp_path), "--device", "cpu", "--steps", "1"])
    assert ended.value.code == 2 and "tokenizer" in capsys.readouterr().err


def test_a_matching_head_finds_the_object_that_the_text_names(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On states that know the kinds: a cell's head looks at the state that was told its kind, and at no other's."""
    monkeypatch.setattr(matching, "BATCHES", HEAD_BATCHES)
    data, model = untrained(made, 12)
    layer = model.transformer.layers[matching.MATCHING_LAYER]
    kinds = torch.randn(len(KINDS), model.transformer.config.hidden_size)
    of_code = torch.from_numpy(code_factors()[:, KIND])

    def known(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        """Each cell's state is its object's kind, and the state before the picture the one that the text names."""
        states = 0.1 * torch.randn_like(output)
        for row, batch_row in enumerate(batch.positions):
            states[row, batch_row[0]] += kinds[batch.stated[row, 0] - 1] + 5
            for code, place in zip(batch.codes[row], batch_row + 1, strict=True):
                if of_code[code]:
                    states[row, place] += kinds[of_code[code] - 1]
        return states

    def draw() -> codes.Batch:
        nonlocal batch
        batch = transformer.asked_batch(data)
        return batch

    batch = draw()
    layer.input_layernorm.register_forward_hook(known)
    matching.set_matching_head(model, draw)
    asked = draw()
    keep = torch.ones(asked.codes.shape, dtype=torch.bool)
    changed = model.logits(asked, keep, model.tables())[1].changed
    score = (changed[:, 1] - changed[:, 0]).view(asked.codes.shape)[:, 1:]
    left = of_code[asked.codes[:, :-1]]
    same, other = left == asked.stated[:, :1], (left > 0) & (left != asked.stated[:, :1])
    assert score[same].median() > score[other].quantile(0.9)


def test_a_reading_head_looks_at_the_same_place_of_the_panel_above(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "FITS", HEAD_FITS)
    config = TransformerConfig.from_file(made / "config.json")
    attention = transformer.TrainingModel(config, code_factors()).transformer.layers[0].self_attn
    query, key = matching._distance_vectors(attention, config.rope_theta)
    cos, sin = rope_table(300, attention.head_dim, config.rope_theta, dtype=torch.float32, device="cpu")
    queries, keys = (
        apply_rope(norm(vector[None, None])[0].expand(300, -1), cos, sin)
        for norm, vector in ((attention.q_norm, query), (attention.k_norm, key))
    )
    seen = (queries @ keys.T / attention.head_dim**0.5).masked_fill(torch.ones(300, 300).triu(1) > 0, -torch.inf)
    rows = torch.arange(200, 300)
    assert (seen.softmax(-1)[rows, rows - matching.DISTANCE] > 0.5).all()
    # The code at the right of the one above: 12 codes and an end of line in each of 12 rows between.
    assert matching.DISTANCE == 12 * 13 - 2


def test_batches_that_are_only_asked_end_with_their_given_panel(made: Path) -> None:
    tokenizer, config = load_tokenizer(made), TransformerConfig.from_file(made / "config.json")
    vocabulary = Vocabulary.of(tokenizer, config)
    batch = transformer.asked_batch(transformer.Data(training_rng(11), tokenizer, vocabulary))
    assert batch.codes.shape == (transformer.BATCH, GRID * GRID) == batch.changed.shape
    following = batch.input_ids.gather(1, batch.positions + 1) - config.image_token_offset
    assert torch.equal(following, batch.codes)
    assert (batch.changed == 1).any(1).all() and batch.stated[:, 0].all()
    model = transformer.TrainingModel(config, code_factors())
    model.asked_loss(batch).backward()
    assert model.questions.kinds.weight.grad.abs().max() > 0 and model.codes_out.rows.grad is None


def test_what_a_code_shows_is_counted_without_the_details_of_the_ground() -> None:
    """All ground is one; a code whose probability is wrongly spread over one object's cells costs nothing."""
    shown = transformer.what_codes_show()
    ground = [number for number, look in enumerate(looks()) if look.ground is not None]
    assert len(set(shown[ground].tolist())) == 1 and len(set(shown.tolist())) > 200
    cat = [
        number
        for number, look in enumerate(looks())
        if (look.style, look.kind, look.size) == ("object", "cat", "small")
    ]
    logits = torch.full((1, len(looks())), -30.0)
    logits[0, cat] = 0.0
    batch = codes.Batch(*(torch.tensor([[number]]) for number in (0, 0, cat[0])), torch.ones(1, 1))
    keep = torch.ones(1, 1, dtype=torch.bool)
    assert transformer.cross_entropy(logits, batch, keep, shown) < 1e-3
    assert math.isclose(transformer.cross_entropy(logits, batch, keep), math.log(len(cat)), rel_tol=1e-3)


def test_without_text_most_scenes_have_one_object() -> None:
    """Or guidance, which magnifies what text changes, would draw the objects of every text late."""
    rng = training_rng(10)
    counts = [len(sample(rng, pick_weighted(rng, codes.WITHOUT_TEXT)).scene.objects) for _ in range(600)]
    assert 0.55 <= np.mean(np.equal(counts, 1)) <= 0.8


def test_stray_losses_make_the_branches_agree_on_what_neither_believes() -> None:
    """The text's branch believes in code 0; of 2 it holds 1e-5, the other branch 1e-9: at cfg 4 that is certainty."""
    code = torch.zeros(1, 1, dtype=torch.int64)
    cond = torch.tensor([[[1.0, 0.1, 1e-5]]]).log().requires_grad_()
    uncond = torch.tensor([[[0.9, 0.2, 1e-9]]]).log().requires_grad_()
    loss = transformer.stray_losses(cond, uncond, torch.tensor([[4.0]]), code).sum()
    loss.backward()
    assert loss > 1
    assert cond.grad[0, 0, 2] > 0.1 > 1e-3 > -uncond.grad[0, 0, 0]
    agreed = transformer.stray_losses(cond, cond, torch.tensor([[4.0]]), code).sum()
    assert agreed < 1e-3
