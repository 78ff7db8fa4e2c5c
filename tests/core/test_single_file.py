"""A converted file that is damaged, foreign, newer or asked for in another form is refused in one line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumina_core import load_tokenizer, load_transformer
from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.convert import plan_conversion
from lumina_core.errors import CheckpointError

from .cli_runs import CommandLine

LINEAR = "model.layers.1.mlp.down_proj."


@pytest.fixture
def file(whole: Path, tmp_path: Path) -> Path:
    """A copy of the converted file, alone in a folder, to be corrupted."""
    (tmp_path / "alone").mkdir()
    return Path(shutil.copy(whole, tmp_path / "alone" / "int4.safetensors"))


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


def rewrite(file: Path, metadata: dict[str, str | None] | None = None, **tensors: Tensor | None) -> None:
    """Changes metadata and tensors of a file; None takes one out."""
    texts = {**metadata_of(file), **(metadata or {})}
    kept = {**{name: tensor.clone() for name, tensor in load_file(file).items()}, **tensors}
    save_file(
        {name: tensor for name, tensor in kept.items() if tensor is not None},
        file,
        {name: text for name, text in texts.items() if text is not None},
    )


def refusal(path: Path, **options: str) -> str:
    """The one line that a CheckpointError says when this is loaded."""
    with pytest.raises(CheckpointError) as caught:
        load_transformer(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("format", "3", "made by a newer version of this program; expected a format up to 2: update"),
        ("format", "1", "format is '1'; expected 2: convert the checkpoint again"),
        ("format", "9" * 5000, "format is '999"),
        ("format", "0", "format is '0'; expected 2"),
        ("format", "", "format is ''"),
        ("format", "1.0", "format is '1.0'"),
        ("format", "²", "format is '²'"),
        ("weights", "int3", "weights is 'int3'; expected one of bf16, int8, int4"),
        ("weights", None, "weights is None"),
        ("config", None, "config is missing"),
        ("config", "{", "config is not valid JSON"),
        ("config", "[" * 10**5, "config is nested too deeply"),
        ("config", "[]", "config contains a JSON list; expected an object"),
        ("config", "{}", "num_attention_heads is missing"),
        ("tokenizer", None, "tokenizer is missing"),
        ("tokenizer", "[1]", "tokenizer contains a JSON list; expected an object"),
        ("tokenizer", '{"tokenizer.json": {}}', "tokenizer is not a map from file names to texts"),
    ],
)
def test_metadata_that_make_no_sense(file: Path, key: str, text: str | None, expected: str) -> None:
    rewrite(file, {f"lumina_mgpt2.{key}": text})
    line = refusal(file)
    assert str(file) in line and expected in line


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.999])
def test_file_cut_off(file: Path, share: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    for path in (file, file.parent):
        line = refusal(path)
        assert str(file) in line and ("missing" in line or "is empty" in line) and "download it again" in line


def test_file_of_another_kind(file: Path) -> None:
    save_file({"x": torch.ones(3)}, file)
    line = refusal(file)
    assert str(file.parent / "config.json") in line and "is missing" in line and "the command convert" in line
    with pytest.raises(CheckpointError, match=f"{re.escape(str(file))} .* no tokenizer; expected a file"):
        load_tokenizer(file)


def test_web_page_instead_of_a_file(file: Path) -> None:
    file.write_text("<!doctype html><title>404</title>")
    assert "is a web page, not the file itself" in refusal(file)


@pytest.mark.parametrize(
    ("name", "tensor", "expected"),
    [
        ("packed", None, f"missing `{LINEAR}packed`"),
        ("packed", torch.ones(32, 63, dtype=torch.uint8), "has shape [32, 63], expected [32, 64]"),
        ("packed", torch.ones(32, 64), f"`{LINEAR}packed` holds F32, expected U8"),
        ("scale_zero", torch.ones(32, 1, 2), f"`{LINEAR}scale_zero` holds F32, expected BF16"),
        ("weight", torch.ones(32, 64), f"unexpected `{LINEAR}weight`"),
    ],
)
def test_piece_that_does_not_fit(file: Path, name: str, tensor: Tensor | None, expected: str) -> None:
    rewrite(file, **{LINEAR + name: tensor})
    line = refusal(file)
    assert str(file) in line and expected in line


def test_format_1_is_read_but_for_4_bits(file: Path) -> None:
    rewrite(file, {"lumina_mgpt2.format": "1", "lumina_mgpt2.weights": "int8"})
    assert open_checkpoint(file).scheme == "int8"


def test_metadata_of_another_form(file: Path) -> None:
    rewrite(file, {"lumina_mgpt2.weights": "int8"})
    assert "missing `model.layers.0.self_attn.q_proj.codes`" in refusal(file)
    rewrite(file, {"lumina_mgpt2.weights": "bf16"})
    assert "missing `model.layers.0.self_attn.q_proj.weight`" in refusal(file)


def test_tokenizer_without_a_token_is_refused_by_the_name_of_the_file(file: Path) -> None:
    texts = json.loads(metadata_of(file)["lumina_mgpt2.tokenizer"])
    for text, expected in ((None, "no tokenizer at"), ("{", "is not a tokenizer")):
        changed = {name: kept for name, kept in texts.items() if name != "tokenizer.json"}
        if text is not None:
            changed["tokenizer.json"] = text
        rewrite(file, {"lumina_mgpt2.tokenizer": json.dumps(changed)})
        with pytest.raises(CheckpointError, match=expected) as caught:
            load_tokenizer(file)
        assert f"tokenizer.json in {file}" in str(caught.value)


@pytest.mark.parametrize(("stored", "choice"), [("int4", "int8"), ("int8", "int4"), ("int4", "bf16"), ("int8", "fp32")])
def test_converted_weights_have_one_form(lumina: CommandLine, stored: str, choice: str) -> None:
    file = lumina.path("c.safetensors")
    plan_conversion(lumina.checkpoint, stored).write(file)
    before = lumina.files()
    line = lumina.generate("--checkpoint", file, "--weights", choice).refusal()
    assert f"weights is {choice} and the checkpoint was converted to {stored}" in line and "choose auto" in line
    assert line == lumina.run("info", "--checkpoint", file, "--weights", choice).refusal()
    assert lumina.files() == before


def test_unknown_form_of_weights(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"weights is 'int2'; expected one of auto, bf16, fp32"):
        load_transformer(checkpoint, weights="int2")
