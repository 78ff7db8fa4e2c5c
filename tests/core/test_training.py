"""The demo's training runs from end to end at a small scale, and what it writes is a checkpoint."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lumina_core import load_movqgan, load_tokenizer, load_transformer
from lumina_core.checkpoint import find_checkpoint
from lumina_core.config import TransformerConfig
from lumina_core.pipeline import DecodeSettings, Request, draw
from lumina_core.prompts import build_prompt
from lumina_core.vocabulary import HEADER_LENGTH, Vocabulary, picture_length
from training import __main__ as whole
from training import codes, movqgan, transformer
from training.world import CANVAS, CATEGORIES, TRAINING_WEIGHTS, fresh_samples, training_rng
from training.world.captions import write_caption

MOST_BYTES = 20_000_000
GRID = CANVAS // 8


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warm-up of one step, so that the codebook is made and moved in the few steps of a test."""
    monkeypatch.setattr(movqgan, "BATCH", 2)
    monkeypatch.setattr(movqgan, "WARMUP_STEPS", 1)
    monkeypatch.setattr(transformer, "BATCH", 4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that `python -m training` makes in a few steps."""
    folder = tmp_path_factory.mktemp("training") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(movqgan, "BATCH", 2)
        patch.setattr(movqgan, "WARMUP_STEPS", 1)
        patch.setattr(transformer, "BATCH", 4)
        steps = ["--movqgan-steps", "3", "--refine-steps", "2", "--transformer-steps", "3", "--pool", "10"]
        whole.main(["--out", str(folder), "--seed", "1", *steps])
    return folder


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Everything in one command


def test_what_is_written_is_a_checkpoint(made: Path) -> None:
    files = find_checkpoint(made)
    assert (files.root, files.shards, files.movqgan) == (
        *(made, (made / "model.safetensors",)),
        made / "movqgan.safetensors",
    )
    assert sorted(path.name for path in made.iterdir()) == [
        *("config.json", "model.safetensors", "movqgan.safetensors", "tokenizer.json", "tokenizer_config.json")
    ]
    config = TransformerConfig.from_file(files.config)
    assert config.trained_sizes == ((CANVAS, CANVAS),)
    assert config.codebook_size == load_movqgan(files.movqgan).config.codebook_size == 1024


def test_it_is_small_enough_to_be_embedded(made: Path) -> None:
    assert sum(path.stat().st_size for path in made.iterdir()) <= MOST_BYTES


def test_it_draws(made: Path) -> None:
    model, tokenizer = load_transformer(made, dtype=torch.float32), load_tokenizer(made)
    vocabulary = Vocabulary.of(tokenizer, model.config)
    prompt = tokenizer.encode_prompt(build_prompt("t2i", CANVAS, CANVAS, "a red circle"))
    result = draw(model, vocabulary, Request([prompt], GRID, GRID, settings=DecodeSettings(top_k=1)))
    assert load_movqgan(made / "movqgan.safetensors").decode(result.codes).shape == (1, 3, CANVAS, CANVAS)


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
    movqgan.main(["--out", str(tmp_path), "--steps", "3", "--refine-steps", "2", "--seed", "1"])
    assert (tmp_path / "movqgan.safetensors").read_bytes() == (made / "movqgan.safetensors").read_bytes()


def test_refining_goes_on_from_what_is_there(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "movqgan.safetensors"
    movqgan.save(movqgan.train(3, seed=1), path)
    before = load_file(path)
    movqgan.make(path, steps=0, refine_steps=2, seed=1)
    after = load_file(path)
    assert equal(after, load_file(made / "movqgan.safetensors"))
    codebook = "quantize.embedding.weight"
    assert torch.equal(before[codebook], after[codebook])
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_another_seed_trains_another_codec() -> None:
    first, again, other = (movqgan.train(1, seed).state_dict() for seed in (0, 0, 1))
    assert equal(first, again) and not equal(first, other)


def test_codes_move_to_the_latents_they_serve() -> None:
    generator = torch.Generator().manual_seed(0)
    places = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    codebook = torch.zeros(3, 2)
    tracker = movqgan.CodebookTracker(codebook, places, generator, decay=0.5)
    assert {tuple(row) for row in codebook.tolist()} == {tuple(row) for row in places.tolist()}
    latents = codebook + torch.tensor([1.0, 0.0])
    for _ in range(30):
        tracker.update(latents, torch.arange(3), revive=False)
    torch.testing.assert_close(codebook, latents)


def test_idle_codes_get_a_new_place() -> None:
    codebook, latents = torch.zeros(4, 2), torch.rand(50, 2, generator=torch.Generator().manual_seed(0))
    tracker = movqgan.CodebookTracker(codebook, latents, torch.Generator().manual_seed(0), decay=0.1)
    far = torch.full((6, 2), 9.0)
    for _ in range(4):
        tracker.update(far, torch.zeros(6, dtype=torch.int64), revive=False)
    assert not (codebook[1:] == 9).all(1).any()
    tracker.update(far, torch.zeros(6, dtype=torch.int64), revive=True)
    torch.testing.assert_close(codebook, far[:4])


def test_faint_objects_weigh_more() -> None:
    for item in fresh_samples("single_object", 20, seed=0):
        weights = movqgan.object_weights(item.scene)
        (thing,) = item.scene.objects
        assert weights.shape == (CANVAS, CANVAS) and weights.min() == 1
        assert weights[thing.y : thing.y + thing.side, thing.x : thing.x + thing.side].min() == weights.max() > 1


def test_rate_rises_and_falls() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=9.0)
    rates = []
    for step in range(500):
        movqgan.set_rate(optimizer, 2.0, step, 500)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:100] == sorted(rates[:100]) and rates[99:] == sorted(rates[99:], reverse=True)
    assert math.isclose(max(rates), 2.0) and 0.04 <= rates[-1] < 0.05


# The transformer


def test_transformer_of_one_command_is_the_transformer_of_its_own(made: Path, tmp_path: Path) -> None:
    names = ("tokenizer.json", "tokenizer_config.json", "movqgan.safetensors")
    for seed, same in ((1, True), (2, False)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes((made / name).read_bytes())
        transformer.main(["--out", str(folder), "--steps", "3", "--seed", str(seed), "--pool", "10"])
        assert json.loads((folder / "config.json").read_text()) == json.loads((made / "config.json").read_text())
        assert equal(load_file(folder / "model.safetensors"), load_file(made / "model.safetensors")) == same


def test_training_tells_its_loss(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is learnt yet: the loss is that of a guess among 1,024 codes."""
    for name in ("tokenizer.json", "tokenizer_config.json", "movqgan.safetensors"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    with caplog.at_level(logging.INFO):
        transformer.train(tmp_path, steps=1, seed=0, pool_size=4)
    assert f"step 0 loss {math.log(1024):.4f}" in caplog.text


@pytest.mark.parametrize("category", TRAINING_WEIGHTS)
def test_every_caption_fits_its_place(made: Path, category: str) -> None:
    """The prompt leaves room for the picture in the sequence that is trained on."""
    tokenizer, rng = load_tokenizer(made), training_rng(0)
    longest = 0
    for item in fresh_samples(category, 200, seed=3):
        for caption in (item.caption, write_caption(rng, item.spec)):
            ids = tokenizer.encode_prompt(build_prompt("t2i", CANVAS, CANVAS, caption))
            longest = max(longest, len(ids))
    assert longest + picture_length(GRID, GRID) <= transformer.SEQUENCE


def test_training_draws_every_category() -> None:
    assert set(CATEGORIES) <= set(TRAINING_WEIGHTS)


def test_batches_predict_every_code_from_the_token_before(made: Path) -> None:
    tokenizer, config = load_tokenizer(made), TransformerConfig.from_file(made / "config.json")
    vocabulary, rng = Vocabulary.of(tokenizer, config), training_rng(5)
    pool = codes.make_pool(load_movqgan(made / "movqgan.safetensors"), rng, 40)
    assert pool.codes.shape == (40, GRID, GRID) and len(pool.specs) == 40
    chosen = np.arange(40)
    batch = codes.make_batch(pool, chosen, rng, tokenizer, vocabulary, transformer.SEQUENCE)
    assert batch.input_ids.shape == (40, transformer.SEQUENCE)
    following = batch.input_ids.gather(1, batch.positions + 1) - config.image_token_offset
    assert torch.equal(following, batch.codes) and torch.equal(batch.codes, pool.codes.flatten(1))
    starts = batch.positions[:, 0] - (HEADER_LENGTH - 1)
    assert (batch.input_ids.gather(1, starts[:, None]) == vocabulary.image_start).all()
    assert 0 < (starts == 0).sum() < 20
