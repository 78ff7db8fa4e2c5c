"""A MoVQGAN that is not the one of the checkpoint is refused before the transformer is loaded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumina_core.checkpoint.codec_identity import CODEBOOK, FIRST_CONVOLUTION, IMAGE_CODEC, CodecIdentity
from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.checkpoint.locate import DEMO_FOLDER
from lumina_core.convert import plan_conversion
from lumina_core.errors import InputError
from lumina_core.movqgan.config import infer_config
from lumina_core.movqgan.identity import check_codec
from lumina_core.timing.synthetic import SYNTHETIC

from .checkpoints import MOVQGAN, save_movqgan
from .cli_runs import CommandLine

TENSORS = {CODEBOOK: torch.arange(64.0).reshape(16, 4), FIRST_CONVOLUTION: torch.arange(96.0)}


def published_codec(golden: Path, name: str):
    return infer_config(json.loads((golden / "movqgan_state_dicts.json").read_text())[name]["tensors"])


@pytest.mark.parametrize("name", ["67M", "102M"])
def test_a_published_transformer_takes_no_smaller_published_codec(golden: Path, name: str) -> None:
    for model in ("7b", "2b"):
        with pytest.raises(InputError, match="expected the MoVQGAN of 270M parameters"):
            check_codec(SYNTHETIC[model].config, published_codec(golden, name), TENSORS, "x.ckpt")


def test_a_published_transformer_takes_its_codec_and_small_ones(golden: Path) -> None:
    config = SYNTHETIC["7b"].config
    for codec in (published_codec(golden, "270M"), replace(MOVQGAN, codebook_size=config.codebook_size)):
        check_codec(config, codec, TENSORS, "x.ckpt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_codec_is_itself_in_every_dtype(dtype: torch.dtype) -> None:
    tensors = {CODEBOOK: torch.randn(16, 4), FIRST_CONVOLUTION: torch.randn(32, 3, 3, 3) / 10}
    identity = CodecIdentity.of(32, (1, 2), tensors)
    stored = CodecIdentity.from_config({IMAGE_CODEC: json.loads(json.dumps(identity.values()))}, "config.json")
    rounded = CodecIdentity.of(32, (1, 2), {name: tensor.to(dtype) for name, tensor in tensors.items()})
    assert stored == identity and stored.is_same(rounded)


@pytest.mark.parametrize(
    "other",
    [
        CodecIdentity.of(64, (1, 2), TENSORS),
        CodecIdentity.of(32, (1, 4), TENSORS),
        CodecIdentity.of(32, (1, 2), {**TENSORS, CODEBOOK: TENSORS[CODEBOOK] + 1}),
        CodecIdentity.of(32, (1, 2), {**TENSORS, FIRST_CONVOLUTION: -TENSORS[FIRST_CONVOLUTION]}),
    ],
)
def test_another_codec_is_not_the_same(other: CodecIdentity) -> None:
    assert not CodecIdentity.of(32, (1, 2), TENSORS).is_same(other)


def test_what_is_not_known_is_not_compared() -> None:
    one = CodecIdentity.of(32, (1, 2), TENSORS)
    assert (
        CodecIdentity(32).is_same(one) and CodecIdentity(32, (1, 2)).is_same(one) and not CodecIdentity(64).is_same(one)
    )


def test_a_converted_file_takes_no_other_codec(lumina: CommandLine, tmp_path: Path) -> None:
    """`whole` is of the same checkpoint, which itself takes both codecs."""
    other = tmp_path / "movqgan.safetensors"
    tensors = load_file(lumina.checkpoint / "movqgan.safetensors")
    save_file({**tensors, FIRST_CONVOLUTION: tensors[FIRST_CONVOLUTION].flip(0)}, other)
    lumina.generate("--movqgan", other).succeeded()
    lumina.run("convert", "--checkpoint", lumina.checkpoint, "--weights", "bf16", "--out", tmp_path / "x.safetensors")
    lumina.checkpoint = tmp_path / "x.safetensors"
    assert open_checkpoint(lumina.checkpoint).config.codec is not None
    lumina.generate(name="own").succeeded()
    lumina.refuses_to_generate("--movqgan", other, expected="is not the MoVQGAN that the checkpoint was trained with")


def test_the_demo_takes_its_own_codec_alone(tmp_path: Path) -> None:
    config = open_checkpoint(DEMO_FOLDER).config
    tensors = load_file(DEMO_FOLDER / "movqgan.safetensors")
    codec = infer_config({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    check_codec(config, codec, tensors, "demo")
    with pytest.raises(InputError, match="the same sizes and other values"):
        check_codec(config, codec, {**tensors, CODEBOOK: tensors[CODEBOOK] + 1}, "other")
    save_movqgan(tmp_path / "other.safetensors", codebook_size=config.codebook_size)
    with pytest.raises(InputError, match="channels"):
        plan_conversion(DEMO_FOLDER, "bf16", tmp_path / "other.safetensors")


def test_a_codec_is_refused_before_the_transformer_is_read(lumina: CommandLine, tmp_path: Path) -> None:
    """The transformer here is spoilt, and the codec is what is refused."""
    lumina.checkpoint = Path(shutil.copytree(lumina.checkpoint, tmp_path / "copied"))
    shard = next(lumina.checkpoint.glob("model-*"))
    tensors = {name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(shard).items()}
    save_file(tensors, shard)
    other = save_movqgan(tmp_path / "other.safetensors", codebook_size=32)
    lumina.refuses_to_generate("--movqgan", other, expected="has 32 codes")
    lumina.refuses_to_generate(expected="NaN")


def test_the_config_is_compared_without_what_a_conversion_adds(whole: Path, checkpoint: Path) -> None:
    converted, source = open_checkpoint(whole).config, open_checkpoint(checkpoint).config
    assert converted != source and replace(converted, codec=None) == source
    assert TransformerConfig.from_dict({**open_checkpoint(whole).config_values, IMAGE_CODEC: None}) == source
