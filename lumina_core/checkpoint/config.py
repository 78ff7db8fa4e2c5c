"""The transformer's sizes, read from a checkpoint's `config.json`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files.json_text import read_json
from .arithmetic import find_rope_theta, is_positive, unsupported_key
from .codec_identity import CodecIdentity

PUBLISHED_IMAGE_TOKEN_OFFSET = 155_000
PUBLISHED_CODEBOOK_SIZE = 16_384
# Sizes are below this, so that their products are counted in 64 bits.
MOST = 2**31


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the transformer and its image codes.

    `trained_sizes` None means the published list of sizes; `codec` None that the config names no MoVQGAN.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    model_parallel_size: int = 1
    swin_norm: bool = False
    image_token_offset: int = PUBLISHED_IMAGE_TOKEN_OFFSET
    codebook_size: int = PUBLISHED_CODEBOOK_SIZE
    trained_sizes: tuple[tuple[int, int], ...] | None = None
    codec: CodecIdentity | None = None

    @property
    def code_range(self) -> range:
        """The ids of image codes; empty for a text-only model, whose vocabulary does not hold them."""
        end = self.image_token_offset + self.codebook_size
        return range(self.image_token_offset, end) if end <= self.vocab_size else range(0)

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "config.json") -> TransformerConfig:
        """The config for the values of a `config.json`.

        Unknown keys are ignored, but for those that would change the arithmetic. Raises CheckpointError with `source`,
        the key, its value and what was expected.
        """
        read = _Reader(values, source)
        read.check_supported()
        heads = read.count("num_attention_heads")
        hidden_size = read.count("hidden_size")
        config = cls(
            vocab_size=read.count("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=read.count("intermediate_size"),
            num_hidden_layers=read.count("num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=read.count("num_key_value_heads", heads),
            head_dim=read.head_dim(hidden_size, heads),
            max_position_embeddings=read.context(),
            rope_theta=find_rope_theta(values, source),
            rms_norm_eps=read.epsilon("rms_norm_eps", 1e-5),
            model_parallel_size=read.count("model_parallel_size", 1),
            swin_norm=read.flag("swin_norm", False),
            image_token_offset=read.offset("image_token_offset", PUBLISHED_IMAGE_TOKEN_OFFSET),
            codebook_size=read.count("image_codebook_size", PUBLISHED_CODEBOOK_SIZE),
            trained_sizes=read.sizes("trained_sizes"),
            codec=CodecIdentity.from_config(values, source),
        )
        read.check_heads(config)
        read.check_codes(config)
        return config

    @classmethod
    def from_file(cls, path: str | Path) -> TransformerConfig:
        """The config in a `config.json`. Raises CheckpointError when it is missing, damaged or unsupported."""
        expected = "the config.json of the checkpoint, from the same download"
        return cls.from_dict(read_json(Path(path), CheckpointError, expected), str(path))


@dataclass(frozen=True)
class _Reader:
    values: dict[str, Any]
    source: str

    def fail(self, key: str, got: object, expected: str) -> CheckpointError:
        return CheckpointError(f"{self.source}: {key} is {got!r}; expected {expected}")

    def read(self, key: str, default: Any, valid: Callable[[Any], bool], expected: str) -> Any:
        value = self.values.get(key)
        if value is None:
            if default is None:
                raise CheckpointError(f"{self.source}: {key} is missing; expected {expected}")
            return default
        if not valid(value):
            raise self.fail(key, value, expected)
        return value

    def count(self, key: str, default: int | None = None) -> int:
        return self.read(key, default, lambda value: _is_int(value) and 0 < value < MOST, "a positive integer")

    def context(self) -> int:
        """Tokens of the context, of which some configs say that there is no bound."""
        key = "max_position_embeddings"
        return min(MOST, self.read(key, None, lambda value: _is_int(value) and value > 0, "a positive integer"))

    def offset(self, key: str, default: int) -> int:
        return self.read(key, default, lambda value: _is_int(value) and 0 <= value < MOST, "an integer of at least 0")

    def epsilon(self, key: str, default: float) -> float:
        """A number that only keeps a division from failing."""
        return float(self.read(key, default, lambda value: is_positive(value) and value <= 0.01, "0 to 0.01, above 0"))

    def flag(self, key: str, default: bool) -> bool:
        return self.read(key, default, lambda value: isinstance(value, bool), "true or false")

    def head_dim(self, hidden_size: int, heads: int) -> int:
        if self.values.get("head_dim") is None and hidden_size % heads:
            raise self.fail("hidden_size", hidden_size, f"a multiple of num_attention_heads ({heads})")
        head_dim = self.count("head_dim", hidden_size // heads)
        if head_dim % 2:
            raise self.fail("head_dim", head_dim, "an even number, because rotary embedding rotates pairs")
        return head_dim

    def sizes(self, key: str) -> tuple[tuple[int, int], ...] | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not value or not all(_is_size(size) for size in value):
            raise self.fail(key, value, "a list of [width, height] in positive multiples of 32")
        return tuple((width, height) for width, height in value)

    def check_supported(self) -> None:
        if found := unsupported_key(self.values):
            raise self.fail(found.key, found.value, found.expected)

    def check_heads(self, config: TransformerConfig) -> None:
        heads, kv_heads, parts = config.num_attention_heads, config.num_key_value_heads, config.model_parallel_size
        if heads % kv_heads:
            raise self.fail("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads ({heads})")
        if heads % parts or kv_heads % parts:
            expected = f"a divisor of num_attention_heads ({heads}) and of num_key_value_heads ({kv_heads})"
            raise self.fail("model_parallel_size", parts, expected)

    def check_codes(self, config: TransformerConfig) -> None:
        """Image codes are all in the vocabulary, or all outside it (a text model, which supports `forward` only)."""
        first, end = config.image_token_offset, config.image_token_offset + config.codebook_size
        if first < config.vocab_size < end:
            raise CheckpointError(
                f"{self.source}: vocab_size is {config.vocab_size}; expected at least {end}, as the image codes are "
                f"{first} to {end - 1}: set image_token_offset and image_codebook_size to those of the trained model"
            )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_size(size: object) -> bool:
    return isinstance(size, list) and len(size) == 2 and all(_is_int(n) and 0 < n < MOST and n % 32 == 0 for n in size)
