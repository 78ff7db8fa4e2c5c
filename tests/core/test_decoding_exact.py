"""`gumbel` draws the pictures of `ar` at every window; greedy, every decoder does, and they are the published ones."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lumina_core.checkpoint.find import load_tokenizer
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import NEW_DRAFTS, DecodeSettings
from lumina_core.kernels.noise import gumbel_noise, picture_keys
from lumina_core.model.load import load_transformer
from lumina_core.model.transformer import Transformer
from lumina_core.movqgan.autoencoder import MoVQGAN
from lumina_core.movqgan.load import load_movqgan
from lumina_core.pictures.images import load_picture, to_image
from lumina_core.pictures.panels import condition_pixels
from lumina_core.pipeline import Lumina
from lumina_core.tokens.tokenizer import Tokenizer
from lumina_core.tokens.vocabulary import Vocabulary

from .toys import Toy, toy_transformer, toy_vocabulary

CODES, GRID_H, GRID_W = 64, 12, 4
WINDOWS = (1, 3, 7, 32)
SETTINGS = {
    "sampled": DecodeSettings(cfg_scale=3.0, top_k=40, temperature=0.9, seed=5),
    "unguided": DecodeSettings(cfg_scale=1.0, top_k=40, temperature=0.9, seed=6),
    "greedy": DecodeSettings(cfg_scale=3.0, top_k=1),
    "cut": DecodeSettings(cfg_scale=3.0, top_k=40, temperature=0.9, seed=7, top_p=0.9, min_p=0.02),
}
PROMPTS = ((20, 21, 22, 4), (23, 4), (20, 21, 22, 4), (24, 25, 26, 27, 28, 29, 4))
ALL_GIVEN = torch.randint(0, CODES, (len(PROMPTS), 5, GRID_W), generator=torch.Generator().manual_seed(1))
GIVEN = {"nothing given": ALL_GIVEN[:, :0], "a row given": ALL_GIVEN[:1, :1], "rows of each": ALL_GIVEN}
CASES = [(settings, given) for settings in SETTINGS for given in GIVEN]


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    return toy_transformer(CODES, hidden=32, spread=2.0)


def drawn(transformer: Transformer, settings: DecodeSettings, given_codes: Tensor, **changes: Any) -> Tensor:
    """The pictures [4,h,w] of all prompts."""
    request = Request(PROMPTS, GRID_H, GRID_W, given_codes, replace(settings, **changes))
    return Lumina(transformer, toy_vocabulary(CODES)).sample(request).codes


@pytest.mark.parametrize(("settings", "given"), CASES)
def test_ar_draws_from_the_logits_of_one_plain_pass(transformer: Transformer, settings: str, given: str) -> None:
    """The token is argmax(log p + g) with p from all tokens before it, guided, in order, without a cache."""
    asked, given_codes = SETTINGS[settings], GIVEN[given].expand(len(PROMPTS), -1, -1)
    for k, codes in enumerate(drawn(transformer, asked, given_codes, decoder="ar")):
        toy = Toy(transformer, GRID_H, GRID_W, PROMPTS[k : k + 1], given_codes[k])
        assert torch.equal(codes[: len(toy.given_codes)], toy.given_codes)
        own = codes[len(toy.given_codes) :].flatten()
        index = torch.arange(toy.canvas.first, toy.canvas.last + 1)
        index = index[~toy.canvas.layout.is_end_of_row(index)]
        noise = gumbel_noise(picture_keys([asked.seed + k], "cpu"), index[None], CODES)[0]
        log_probs = toy.log_probs(own[None], asked, PROMPTS[k])[0]
        assert torch.equal((log_probs + noise).argmax(-1), own)


@pytest.mark.parametrize(("settings", "given"), CASES)
def test_gumbel_is_ar(transformer: Transformer, settings: str, given: str) -> None:
    expected = drawn(transformer, SETTINGS[settings], GIVEN[given], decoder="ar")
    turn = CASES.index((settings, given)) % 4
    for window, way in zip(WINDOWS, NEW_DRAFTS[turn:] + NEW_DRAFTS[:turn], strict=True):
        found = drawn(transformer, SETTINGS[settings], GIVEN[given], window_size=window, new_drafts=way)
        assert torch.equal(found, expected), (window, way)


@pytest.mark.parametrize("way", NEW_DRAFTS)
def test_gumbel_is_ar_from_any_new_draft(transformer: Transformer, way: str) -> None:
    settings, given = SETTINGS["sampled"], GIVEN["nothing given"]
    expected = drawn(transformer, settings, given, decoder="ar", seed=100)
    for window in WINDOWS:
        found = drawn(transformer, settings, given, seed=100, window_size=window, new_drafts=way)
        assert torch.equal(found, expected), window


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("decoder", ["sjd", "coupled"])
def test_greedy_is_greedy_in_every_decoder(transformer: Transformer, decoder: str, given: str) -> None:
    expected = drawn(transformer, SETTINGS["greedy"], GIVEN[given], decoder="ar")
    for window, way in zip(WINDOWS, NEW_DRAFTS, strict=True):
        changes = {"decoder": decoder, "window_size": window, "new_drafts": way}
        assert torch.equal(drawn(transformer, SETTINGS["greedy"], GIVEN[given], **changes), expected), (window, way)


@dataclass(frozen=True)
class Published:
    """The published program's small checkpoint, and what greedy decoding gave with it."""

    transformer: Transformer
    tokenizer: Tokenizer
    movqgan: MoVQGAN
    folder: Path

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.of(self.tokenizer, self.transformer.config)

    def expected(self, case: str) -> dict:
        return json.loads((self.folder / "expected.json").read_text())[case]

    def draw(self, case: str, decoder: str, window: int, tree: int = 0) -> Tensor:
        """The picture [1,h,w] of a case."""
        expected, given = self.expected(case), None
        width, height = expected["width"], expected["height"]
        if case == "i2i":
            given = self.movqgan.encode(condition_pixels(load_picture(self.folder / "condition.png"), width, height))
        settings = DecodeSettings(cfg_scale=expected["cfg"], top_k=1, decoder=decoder, window_size=window, tree=tree)
        prompt = self.tokenizer.encode_prompt(expected["prompt"])
        request = Request([prompt], height // 8, width // 8, given, settings)
        return Lumina(self.transformer, self.vocabulary).sample(request).codes


@pytest.fixture(scope="module")
def published(golden: Path, full_golden: Path) -> Published:
    checkpoint = full_golden / "end_to_end" / "checkpoint"
    return Published(
        load_transformer(checkpoint, dtype=torch.float32),
        load_tokenizer(full_golden / "tokenizer"),
        load_movqgan(checkpoint / "movqgan_tiny.ckpt"),
        golden / "end_to_end",
    )


@pytest.mark.parametrize("window", [1, 7, 32])
@pytest.mark.parametrize("decoder", ["ar", "gumbel", "sjd", "coupled"])
@pytest.mark.parametrize("case", ["t2i_cfg4", "t2i_cfg1", "i2i"])
def test_greedy_tokens_are_the_published_ones(published: Published, case: str, decoder: str, window: int) -> None:
    codes = published.draw(case, decoder, window)
    assert published.vocabulary.picture_tokens(codes[0]) == published.expected(case)["tokens"]


@pytest.mark.parametrize(("window", "tree"), [(2, 1), (7, 8), (32, 16), (32, 64), (128, 40)])
@pytest.mark.parametrize("case", ["t2i_cfg4", "t2i_cfg1", "i2i"])
def test_greedy_tokens_with_a_tree_are_the_published_ones(
    published: Published, case: str, window: int, tree: int
) -> None:
    codes = published.draw(case, "gumbel", window, tree)
    assert published.vocabulary.picture_tokens(codes[0]) == published.expected(case)["tokens"]


@pytest.mark.parametrize(("case", "picture"), [("t2i_cfg4", "t2i_expected.png"), ("i2i", "i2i_expected.png")])
def test_greedy_pictures_are_the_published_ones(published: Published, case: str, picture: str) -> None:
    image = to_image(published.movqgan.decode(published.draw(case, "gumbel", 32)))
    expected = np.asarray(Image.open(published.folder / picture).convert("RGB")).astype(int)
    assert abs(np.asarray(image).astype(int) - expected).max() <= 1
