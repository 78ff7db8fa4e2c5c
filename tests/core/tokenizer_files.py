"""Tokenizer files for tests: a small byte-level BPE with any added tokens, in the form of the published ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from lumina_core.tokens.tokenizer import END_OF_ROW, END_OF_TURN, IMAGE_END, IMAGE_START, grid_unit_name

GRID_UNITS = 33
END_OF_TEXT = "<|endoftext|>"
OF_THE_MODEL = (END_OF_TEXT, IMAGE_START, IMAGE_END, END_OF_ROW, END_OF_TURN, *map(grid_unit_name, range(GRID_UNITS)))
SENTENCES = (
    "Generate a dual-panel image of 512x1024 where the upper half displays a depth map",
    "while the lower half retains the original image for direct visual comparison: reserved for a red square",
)


def small_tokenizer(added: Iterable[str | AddedToken] = OF_THE_MODEL) -> Tokenizer:
    """Byte-level BPE on two sentences, with NFC, and the added tokens after its vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*SENTENCES] * 4, trainer)
    tokenizer.add_tokens([_token(token) for token in added])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> Path:
    """Writes tokenizer.json with all added tokens, and a tokenizer_config.json without them."""
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": None, "eos_token": END_OF_TEXT}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def published_names() -> Iterator[str]:
    """Names of as many added tokens as the published tokenizer has: 16,384 image codes, thousands of reserved ones."""
    yield from OF_THE_MODEL
    for code in range(16_384):
        yield "IMGIMG" + "".join("ABCDEFGHIJ"[int(digit)] for digit in str(code)) + "Z"
    for number in range(7000, 10_300):
        name = f"<reserved{number:05d}>"
        if name not in OF_THE_MODEL:
            yield name


def _token(token: str | AddedToken) -> AddedToken:
    return AddedToken(token, normalized=False, special=True) if isinstance(token, str) else token
