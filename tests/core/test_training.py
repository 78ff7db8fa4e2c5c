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
from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.pictures.sizes import HEADER_LENGTH
from lumina_core.pipeline import Lumina
from lumina_core.tokens.vocabulary import Vocabulary
from training import __main__ as whole
from training import codes, movqgan, transformer
from training.world import (
    BACKGROUNDS,
    CANVAS,
    CATEGORIES,
    COLOURS,
    TRAINING_WEIGHTS,
    Panel,
    code_vectors,
    fresh_samples,
    render,
    scene_codes,
    training_rng,
)
from training.world.cells import looks, masks
from training.world.palette import DEPTH_GREYS, INKS

MOST_BYTES = 20_000_000
GRID = CANVAS // 8


def make_small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(movqgan, "BATCH", 2)
    patch.setattr(movqgan, "PANEL_ROUNDS", ((2, 0.5), (1, 1.0)))
    patch.setattr(transformer, "BATCH", 4)
    patch.setattr(transformer, "ROUNDS", (transformer.Round(2, 3e-3, 2, 0.3), transformer.Round(1, 1e-3, 1, 0.0)))


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
        whole.main(["--out", str(folder), "--seed", "1", *STEPS])
    return folder


STEPS = ("--movqgan-steps", "2", "--polish-steps", "4", "--most-panel-steps", "2")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Everything in one command


def test_what_is_written_is_a_checkpoint(made: Path) -> None:
    checkpoint = open_checkpoint(made)
    assert checkpoint.tensors.paths == (made / "model.safetensors",)
    assert checkpoint.movqgan == made / "movqgan.safetensors"
    assert sorted(path.name for path in made.iterdir()) == [
        *("config.json", "model.safetensors", "movqgan.safetensors", "tokenizer.json", "tokenizer_config.json")
    ]
    config = checkpoint.config
    assert config.trained_sizes == ((CANVAS, CANVAS), (CANVAS, 2 * CANVAS))
    assert config.codebook_size == load_movqgan(checkpoint.movqgan).config.codebook_size == len(looks())


def test_it_is_small_enough_to_be_embedded(made: Path) -> None:
    assert sum(path.stat().st_size for path in made.iterdir()) <= MOST_BYTES


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


def test_codec_of_one_command_is_the_codec_of_its_own_in_two_parts(made: Path, tmp_path: Path) -> None:
    """And what comes after the first part changes all but the codebook."""
    file = tmp_path / "movqgan.safetensors"
    movqgan.main(
        ["--out", str(tmp_path), "--steps", "2", "--polish-steps", "0", "--most-panel-steps", "0", "--seed", "1"]
    )
    before = load_file(file)
    movqgan.main(["--out", str(tmp_path), "--steps", "0", *STEPS[2:], "--seed", "1"])
    assert file.read_bytes() == (made / "movqgan.safetensors").read_bytes()
    after = load_file(file)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"encoder", "quant_conv", "post_quant_conv", "decoder"}


def test_stacked_batches_are_canvases_of_two_panels() -> None:
    batch = movqgan.scene_batch(np.random.default_rng(7), 6, movqgan.CROWDED)
    stacked = movqgan.stack(batch)
    assert stacked.pixels.shape == (3, 3, 2 * CANVAS, CANVAS) and stacked.codes.shape == (3, 2 * GRID, GRID)
    for part in ("seen", "pixels", "weights", "codes"):
        whole, halves = getattr(stacked, part), getattr(batch, part)
        assert torch.equal(torch.cat(whole.chunk(2, dim=-2)), halves)


def test_another_seed_trains_another_codec() -> None:
    first, again, other = (movqgan.train(1, seed).state_dict() for seed in (0, 0, 1))
    assert equal(first, again) and not equal(first, other)


def test_every_cell_of_every_scene_has_a_code_of_its_own_look() -> None:
    """The code says mask, colour and ground: painting them gives the picture."""
    inks = {**COLOURS, **{name: (grey,) * 3 for name, grey in DEPTH_GREYS.items()}, **INKS}
    for category in CATEGORIES:
        for item in fresh_samples(category, 5, seed=2):
            picture = render(item.scene).astype(np.float32)
            for (y, x), code in np.ndenumerate(scene_codes(item.scene)):
                look = looks()[code]
                ground = np.float32(BACKGROUNDS.get(look.ground, (0, 0, 0)))
                cell = ground + masks(look.map)[look.mask][..., None] * (
                    np.float32(inks.get(look.ink, ground)) - ground
                )
                assert np.abs(picture[8 * y : 8 * y + 8, 8 * x : 8 * x + 8] - cell).max() <= 1


def test_code_vectors_lie_apart() -> None:
    vectors = torch.from_numpy(code_vectors())
    assert vectors.shape == (len(looks()), 4) and vectors.abs().max() <= 1
    assert torch.pdist(vectors).min() > 0.1


def test_codec_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """In two steps at a high rate, of which warming up leaves a part."""
    monkeypatch.setattr(movqgan, "PEAK_RATE", 0.05)
    batch = movqgan.scene_batch(np.random.default_rng(7), 4, movqgan.CROWDED)
    first, last = (movqgan.run_both(movqgan.train(steps, seed=0), batch)[0].item() for steps in (0, 2))
    assert last < 0.99 * first


def test_faint_objects_weigh_more() -> None:
    for item in fresh_samples("single_object", 20, seed=0):
        weights = movqgan.object_weights(Panel(item.scene))
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
        transformer.main(["--out", str(folder), "--seed", str(seed)])
        assert json.loads((folder / "config.json").read_text()) == json.loads((made / "config.json").read_text())
        assert equal(load_file(folder / "model.safetensors"), load_file(made / "model.safetensors")) == same


def test_training_logs_its_loss(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is learnt yet: the loss is that of a guess among all codes."""
    for name in ("tokenizer.json", "tokenizer_config.json", "movqgan.safetensors"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    with caplog.at_level(logging.INFO):
        transformer.make(tmp_path, transformer.ROUNDS[:1], seed=0)
    assert f"step 0 nats a code {math.log(len(looks())):.4f}" in caplog.text


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
    model = transformer.TrainingModel(config)
    torch.nn.init.normal_(model.transformer.code_head.weight, std=0.08)
    captioned, plain = codes.make_batches(training_rng(6), 4, 4, tokenizer, vocabulary)
    with_text, loss = model.loss(captioned, plain, torch.ones(4), 0.3)
    probs = model.logits(captioned).softmax(-1)
    unlikely = (probs < transformer.STRAY).scatter(-1, captioned.codes[..., None], False)
    stray = -(1 - (probs * unlikely).sum(-1)).log().mean()
    assert stray > 0.05
    expected = with_text + transformer.cross_entropy(model.logits(plain), plain) + 0.3 * stray
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=1e-2)


def test_stray_loss_makes_the_branches_agree_on_what_neither_believes() -> None:
    """The text's branch believes in code 0; of 2 it holds 1e-5, the other branch 1e-9: at cfg 4 that is certainty."""
    batch = codes.Batch(*(torch.zeros(1, 1, dtype=torch.int64) for _ in range(3)), torch.ones(1, 1))
    cond = torch.tensor([[[1.0, 0.1, 1e-5]]]).log().requires_grad_()
    uncond = torch.tensor([[[0.9, 0.2, 1e-9]]]).log().requires_grad_()
    loss = transformer.stray_loss(cond, uncond, torch.tensor([4.0]), batch)
    loss.backward()
    assert loss > 1
    assert cond.grad[0, 0, 2] > 0.1 > 1e-3 > -uncond.grad[0, 0, 0]
    agreed = transformer.stray_loss(cond, cond, torch.tensor([4.0]), batch)
    assert agreed < 1e-3
