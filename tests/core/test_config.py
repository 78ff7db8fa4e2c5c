"""A config is read by its keys, and anything that cannot be a transformer is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.errors import CheckpointError

SMALLEST = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def test_published_7b_config(golden: Path) -> None:
    published = json.loads((golden / "lumina_mgpt2_7b_state_dict.json").read_text())
    config = TransformerConfig.from_dict(published["config"])
    assert (config.hidden_size, config.head_dim, config.vocab_size) == (4096, 128, 171_385)
    assert (config.image_token_offset, config.codebook_size, config.trained_sizes) == (155_000, 16_384, None)


def test_grouped_heads_and_post_norm_are_read(golden: Path) -> None:
    config = TransformerConfig.from_file(golden / "transformer" / "gqa_swin" / "config.json")
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 16)
    assert config.swin_norm is True


def test_defaults_and_unknown_keys() -> None:
    config = TransformerConfig.from_dict({**SMALLEST, "a_key_of_the_future": [1]})
    assert config.num_key_value_heads == config.num_attention_heads
    assert (config.head_dim, config.swin_norm, config.model_parallel_size) == (16, False, 1)


def test_keys_of_our_own() -> None:
    own = {"image_token_offset": 300, "image_codebook_size": 64, "trained_sizes": [[64, 96]], "head_dim": 32}
    config = TransformerConfig.from_dict({**SMALLEST, **own})
    assert (config.image_token_offset, config.codebook_size) == (300, 64)
    assert (config.trained_sizes, config.head_dim) == (((64, 96),), 32)


@pytest.mark.parametrize("key", SMALLEST)
def test_missing_key_is_named(key: str) -> None:
    values = {name: value for name, value in SMALLEST.items() if name != key}
    with pytest.raises(CheckpointError, match=f"{key} is missing"):
        TransformerConfig.from_dict(values)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab_size", "512"),
        ("vocab_size", True),
        ("hidden_size", 0),
        ("hidden_size", 66),
        ("head_dim", 15),
        ("num_key_value_heads", 3),
        ("model_parallel_size", 3),
        ("rope_theta", -1),
        ("rope_theta", float("nan")),
        ("rms_norm_eps", "1e-5"),
        ("swin_norm", 1),
        ("image_token_offset", -1),
        ("trained_sizes", []),
        ("trained_sizes", [[64, 65]]),
        ("trained_sizes", [64, 64]),
        ("hidden_act", "gelu"),
        ("tie_word_embeddings", True),
        ("rope_scaling", {"type": "linear", "factor": 2}),
    ],
)
def test_impossible_value_is_named(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=key) as caught:
        TransformerConfig.from_dict({**SMALLEST, key: value}, "some/config.json")
    assert repr(value) in str(caught.value) and "some/config.json" in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[1]", b"\xff\xfe"])
def test_file_that_is_no_config(tmp_path: Path, content: str | bytes) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=r"config\.json"):
        TransformerConfig.from_file(file)


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        TransformerConfig.from_file(tmp_path / "config.json")
