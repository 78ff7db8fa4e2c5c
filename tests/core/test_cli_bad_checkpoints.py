"""Bad checkpoints and codecs are refused before anything is drawn: one line, exit code 2, no code run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumina_core.checkpoint.locate import INDEX

from .checkpoints import SHARDS, cut_in_half, save_movqgan
from .cli_runs import CommandLine

NORM = "model.norm.weight"


@pytest.fixture
def copied(lumina: CommandLine, tmp_path: Path) -> Path:
    """The checkpoint that the commands use, in a copy that may be changed."""
    lumina.checkpoint = Path(shutil.copytree(lumina.checkpoint, tmp_path / "copied"))
    return lumina.checkpoint


def change_json(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def without_shard(folder: Path) -> None:
    (folder / SHARDS[1]).unlink()


def with_cut_shard(folder: Path) -> None:
    cut_in_half(folder / SHARDS[1])


def with_cut_header(folder: Path) -> None:
    (folder / SHARDS[1]).write_bytes((folder / SHARDS[1]).read_bytes()[:100])


def with_wrong_shape(folder: Path) -> None:
    for shard in SHARDS:
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / shard).items()}
        save_file({name: tensor[1:] if name == NORM else tensor for name, tensor in tensors.items()}, folder / shard)


def without_tensor(folder: Path) -> None:
    for shard in SHARDS:
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / shard).items()}
        save_file({name: tensor for name, tensor in tensors.items() if name != NORM}, folder / shard)


def without_special_token(folder: Path) -> None:
    file = folder / "tokenizer.json"
    added = json.loads(file.read_text())["added_tokens"]
    change_json(file, added_tokens=[token for token in added if token["content"] != "<reserved08799>"])


def with_two_movqgans(folder: Path) -> None:
    for number in (1, 2):
        shutil.copy(folder / "movqgan.safetensors", folder / f"movqgan_{number}.safetensors")
    (folder / "movqgan.safetensors").unlink()


@pytest.mark.parametrize(
    ("corrupt", "expected"),
    [
        pytest.param(without_shard, f"shards missing in {{}}: {SHARDS[1]}", id="shard missing"),
        pytest.param(with_cut_shard, "bytes are missing; download it again", id="shard cut off"),
        pytest.param(with_cut_header, "ends inside its header", id="header cut off"),
        pytest.param(with_wrong_shape, f"`{NORM}` has shape [31], expected [32]", id="wrong shape"),
        pytest.param(without_tensor, f"missing `{NORM}`", id="tensor missing"),
        pytest.param(lambda folder: (folder / INDEX).write_text("{"), "is not valid JSON", id="bad index"),
        pytest.param(lambda folder: (folder / "config.json").unlink(), "config.json is missing", id="no config"),
        pytest.param(lambda folder: (folder / "config.json").write_text("{"), "is not valid JSON", id="bad config"),
        pytest.param(
            lambda folder: change_json(folder / "config.json", vocab_size=400), "expected at least 448", id="vocabulary"
        ),
        pytest.param(
            lambda folder: change_json(folder / "config.json", hidden_size=64),
            "of this model: `model.embed_tokens.weight` has shape [448, 32], expected [448, 64]; ",
            id="other config",
        ),
        pytest.param(lambda folder: (folder / "tokenizer.json").unlink(), "there is no tokenizer", id="no tokenizer"),
        pytest.param(
            lambda folder: (folder / "tokenizer.json").write_text(""), "tokenizer.json is empty", id="bad tokenizer"
        ),
        pytest.param(without_special_token, "no token named <reserved08799>", id="special token missing"),
        pytest.param(lambda folder: (folder / "movqgan.safetensors").unlink(), "--movqgan", id="no MoVQGAN"),
        pytest.param(with_two_movqgans, "--movqgan", id="two MoVQGANs"),
        pytest.param(lambda folder: cut_in_half(folder / "movqgan.safetensors"), "is cut off", id="MoVQGAN cut off"),
        pytest.param(
            lambda folder: save_movqgan(folder / "movqgan.safetensors", codebook_size=32),
            "has 32 codes of 8 pixels; expected 64 of 8, as the checkpoint draws",
            id="codebook of another size",
        ),
        pytest.param(
            lambda folder: save_movqgan(folder / "movqgan.safetensors", multipliers=(1, 1, 1)),
            "has 64 codes of 4 pixels; expected 64 of 8, as the checkpoint draws",
            id="codes of another size",
        ),
    ],
)
def test_bad_checkpoints(lumina: CommandLine, copied: Path, corrupt: Callable[[Path], None], expected: str) -> None:
    corrupt(copied)
    lumina.refuses_to_generate(expected=expected.format(copied))


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.file),)


def test_code_in_a_pickle_is_not_run(lumina: CommandLine, tmp_path: Path) -> None:
    path, trap = tmp_path / "trap.ckpt", tmp_path / "sprung"
    path.write_bytes(pickle.dumps({"state_dict": Trap(trap)}))
    torch.save({"state_dict": Trap(trap)}, tmp_path / "zipped.ckpt")
    for file in (path, tmp_path / "zipped.ckpt"):
        lumina.refuses_to_generate("--movqgan", file, expected=f"{file} is not a file of plain tensors: it ")
        assert not trap.exists()


def test_other_pickles(lumina: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    for content, expected in (([1, 2], "expected a dict"), ({"a": torch.zeros(1)}, "is not a MoVQGAN")):
        torch.save(content, path)
        lumina.refuses_to_generate("--movqgan", path, expected=expected)
    path.write_text("no pickle")
    lumina.refuses_to_generate("--movqgan", path, expected=str(path))


@pytest.mark.parametrize("corrupt", [without_shard, without_special_token])
def test_info_of_a_bad_checkpoint(lumina: CommandLine, copied: Path, corrupt: Callable[[Path], None]) -> None:
    corrupt(copied)
    lumina.refuses("info", "--checkpoint", copied, expected=str(copied))
