"""A folder with a good checkpoint, made anew for each input, and the commands on it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from lumina_core.checkpoint.locate import INDEX
from lumina_core.convert import plan_conversion
from tests.core.checkpoints import CODES, FIRST_CODE, MOVQGAN, SHARDS, make_checkpoint, save_movqgan

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<racm3:break>", "<eoss>", "<reserved08706>", "<reserved08799>"),
    *(f"<reserved{8800 + units:05d}>" for units in range(9)),
)
Arguments = list[str]


@dataclass(frozen=True)
class Base:
    """Good files that are made once: the checkpoint, and what is converted from it when it is first needed."""

    root: Path

    @classmethod
    def make(cls, root: Path) -> Base:
        (root / "tokenizer").mkdir(parents=True)
        make_checkpoint(root / "checkpoint", make_tokenizer(root / "tokenizer"))
        return cls(root)

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint"

    @cached_property
    def movqgan(self) -> dict[str, Tensor]:
        return load_file(self.checkpoint / "movqgan.safetensors")

    def converted(self, weights: str) -> Path:
        """The checkpoint as one file with these weights, its MoVQGAN included."""
        out = self.root / f"{weights}.safetensors"
        if not out.exists():
            plan_conversion(self.checkpoint, weights).write(out)
        return out


def make_tokenizer(folder: Path) -> Path:
    """A byte-level BPE on one sentence with every special token, and its `tokenizer_config.json`."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["an image of a red square, reserved for the end of text"] * 4, trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": None, "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder / "tokenizer.json"


class Place:
    """`checkpoint` is a copy that may be changed, `out` is for results, `inputs` for pictures and tokens.

    Whoever runs code of a pickle is to make `canary`. `temporary` is the folder for temporary files, `environment` what
    is added to the environment.
    """

    def __init__(self, base: Base, root: Path):
        self.base, self.root = base, root
        self.checkpoint, self.out, self.inputs = root / "checkpoint", root / "out", root / "inputs"
        self.temporary, self.canary = root / "tmp", root / "canary"
        self.environment: dict[str, str] = {}
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(base.checkpoint, self.checkpoint)
        for folder in (self.out, self.inputs, self.temporary):
            folder.mkdir()

    # Commands

    def generate(self, *options: object, checkpoint: object = None) -> Arguments:
        """Draws 32x32 in float32; later options win."""
        return _texts(
            *("generate", "--checkpoint", checkpoint or self.checkpoint, "--device", "cpu", "--weights", "fp32"),
            *("--prompt", "a red square", "--width", 32, "--height", 32, "--out", self.out / "o.png"),
            *("--tokens-out", self.out / "o.json", "--stats-out", self.out / "o.stats.json", *options),
        )

    def control(self, picture: Path, *options: object) -> Arguments:
        """Draws below a map."""
        condition = ("--task", "control", "--map", "depth", "--condition", picture)
        return self.generate(*condition, "--height", 64, *options)

    def encode(self, picture: Path, *options: object) -> Arguments:
        tokens = self.out / "o.json"
        return _texts("encode", picture, "--checkpoint", self.checkpoint, "--tokens-out", tokens, *options)

    def decode(self, tokens: Path, *options: object) -> Arguments:
        return _texts("decode", tokens, "--checkpoint", self.checkpoint, "--out", self.out / "o.png", *options)

    def convert(self, *options: object, weights: str = "int4") -> Arguments:
        out = self.out / "c.safetensors"
        return _texts("convert", "--checkpoint", self.checkpoint, "--weights", weights, "--out", out, *options)

    def info(self, *options: object) -> Arguments:
        return _texts("info", "--checkpoint", self.checkpoint, *options)

    # Files

    @property
    def config(self) -> Path:
        return self.checkpoint / "config.json"

    @property
    def index(self) -> Path:
        return self.checkpoint / INDEX

    @property
    def movqgan(self) -> Path:
        return self.checkpoint / "movqgan.safetensors"

    @property
    def shards(self) -> tuple[Path, ...]:
        return tuple(self.checkpoint / name for name in SHARDS)

    def shard_of(self, name: str) -> Path:
        return self.checkpoint / json.loads(self.index.read_text())["weight_map"][name]

    def change_json(self, file: Path, **values: object) -> None:
        """Sets keys of a JSON object; a value of `...` removes its key."""
        changed = {**json.loads(file.read_text()), **values}
        file.write_text(json.dumps({key: value for key, value in changed.items() if value is not ...}))

    def change_config(self, **values: object) -> None:
        self.change_json(self.config, **values)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the transformer."""
        return {name: tensor for shard in self.shards for name, tensor in load_file(shard).items()}

    def change_tensor(self, name: str, change: Callable[[Tensor], Tensor]) -> None:
        """Writes one tensor of the transformer anew."""
        change_tensor(self.shard_of(name), name, change)

    def without_weights(self) -> None:
        """Removes shards and index."""
        for file in (*self.shards, self.index):
            file.unlink()

    def save_whole(self, file: Path, rename: Callable[[str], str] = str, **more: Tensor) -> Path:
        """Replaces shards and index by one safetensors file, its tensors under other names."""
        tensors = {**{rename(name): tensor for name, tensor in self.tensors().items()}, **more}
        self.without_weights()
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, file)
        return file

    def save_codec(self, name: str, content: object = None, **options: Any) -> Path:
        """Replaces the MoVQGAN by a file that torch.save writes, of `content` or the good tensors."""
        self.movqgan.unlink()
        file = self.checkpoint / name
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(self.base.movqgan if content is None else content, file, **options)
        return file

    def other_codec(self, **changes: object) -> Path:
        return save_movqgan(self.movqgan, **changes)

    def converted(self, weights: str = "int4") -> Path:
        """A copy of the converted checkpoint, alone in its folder."""
        folder = self.inputs / "converted"
        folder.mkdir(exist_ok=True)
        return Path(shutil.copy(self.base.converted(weights), folder / "whole.safetensors"))

    def change_metadata(self, file: Path, **values: object) -> Path:
        """Sets metadata of a converted file; `...` removes."""
        with safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata())
        changed = {**metadata, **{f"lumina_mgpt2.{key}": value for key, value in values.items()}}
        kept = {key: str(value) for key, value in changed.items() if value is not ...}
        save_file(load_file(file), file, metadata=kept)
        return file

    def picture(self, name: str = "p.png", size: tuple[int, int] = (32, 32), mode: str = "RGB", **options: Any) -> Path:
        """A picture of smooth colours with some noise."""
        path = self.inputs / name
        make_picture(size, mode).save(path, **options)
        return path

    def good_tokens(self) -> list[int]:
        """A picture of 32x32: start, sizes, rows of codes, end."""
        added = json.loads((self.base.checkpoint / "tokenizer.json").read_text())["added_tokens"]
        ids = {token["content"]: token["id"] for token in added}
        rows = [[FIRST_CODE + (5 * row + column) % CODES for column in range(4)] for row in range(4)]
        codes = [token for row in rows for token in (*row, ids["<reserved08799>"])]
        return [ids["<racm3:break>"], *[ids["<reserved08801>"]] * 2, *codes, ids["<eoss>"]]

    def tokens(self, change: Callable[[list[int]], object] = lambda tokens: {"tokens": [tokens]}) -> Path:
        """A file of tokens for `decode`; `change` gets a good picture's tokens and gives what is written."""
        path = self.inputs / "t.json"
        content = change(self.good_tokens())
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path


def change_tensor(file: Path, name: str, change: Callable[[Tensor], Tensor]) -> None:
    """Writes one tensor of a safetensors file anew."""
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = {other: tensor.clone() for other, tensor in load_file(file).items()}
    save_file({**tensors, name: change(tensors[name].clone()).contiguous()}, file, metadata=metadata)


def make_picture(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    noise = np.random.default_rng(0).uniform(-10, 10, x.shape)
    channels = [x, y, 255 - x + noise]
    image = Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8))
    return image.convert(mode)


def _texts(*arguments: object) -> Arguments:
    return [str(argument) for argument in arguments]


__all__ = ["MOVQGAN", "Arguments", "Base", "Place", "change_tensor", "make_picture"]
