"""A small checkpoint of random weights in the published form, for tests of whole runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.locate import INDEX
from lumina_core.checkpoint.published import published_shapes
from lumina_core.movqgan.autoencoder import MoVQGAN
from lumina_core.movqgan.config import MoVQGANConfig

FIRST_CODE, CODES = 384, 64
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
CONFIG = {
    "architectures": ["ChameleonXLLMXForConditionalGeneration"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 1024,
    "vocab_size": FIRST_CODE + CODES,
    "image_token_offset": FIRST_CODE,
    "image_codebook_size": CODES,
    "trained_sizes": [[32, 32], [32, 64], [64, 32], [64, 64]],
}
MOVQGAN = MoVQGANConfig(
    channels=32,
    multipliers=(1, 1, 1, 1),
    res_blocks=1,
    attention_levels=(),
    latent_channels=4,
    code_channels=4,
    codebook_size=CODES,
)


def make_checkpoint(folder: Path, tokenizer_file: Path) -> Path:
    """Writes config, tokenizer, two shards with their index and `movqgan.safetensors`, all float32."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_file.with_name(name), folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tensors = random_tensors(TransformerConfig.from_dict(CONFIG))
    names = sorted(tensors)
    weight_map = {name: SHARDS[2 * index // len(names)] for index, name in enumerate(names)}
    for shard in SHARDS:
        save_file({name: tensors[name] for name in names if weight_map[name] == shard}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    save_movqgan(folder / "movqgan.safetensors")
    return folder


def random_tensors(config: TransformerConfig) -> dict[str, Tensor]:
    """Every published tensor; matrices so large that attention is sharp and no two seeds draw the same picture."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in published_shapes(config).items():
        if "norm" in name:
            tensors[name] = torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        else:
            scale = 1.0 if "embed" in name else 1.5 * shape[-1] ** -0.5
            tensors[name] = torch.randn(shape, generator=generator) * scale
    return tensors


def save_movqgan(path: Path, **changes: object) -> Path:
    """Writes a MoVQGAN of random weights; `changes` are to its config."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(MoVQGAN(replace(MOVQGAN, **changes)).state_dict(), path)
    return path


def cut_in_half(file: Path) -> None:
    """What a download that broke off leaves."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
