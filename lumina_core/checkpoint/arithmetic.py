"""Keys of a config.json that change what the transformer computes: read, or refused, never ignored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError

DEFAULT_ROPE_THETA, LOWEST_ROPE_THETA, HIGHEST_ROPE_THETA = 10_000.0, 100.0, 1e12
_QUANTISED = ("quantization_config", "compression_config", "quantization", "quant_config", "quantize_config")
# Configs of parts, which composite models have within theirs.
_INNER = ("text_config", "llm_config", "language_config", "model_config", "transformer_config", "decoder")
_ACTIVATIONS = (
    *("hidden_act", "hidden_activation", "activation_function", "activation", "activation_fn", "act_fn"),
    *("mlp_hidden_act", "mlp_activation", "ffn_activation", "ffn_act"),
)
# Other names of a value that is read by its own.
_SAME_AS = {
    **dict.fromkeys(("rotary_base", "rope_base", "rotary_emb_base", "global_rope_theta", "theta"), "rope_theta"),
    **dict.fromkeys(("rotary_embedding_base", "rope_freq_base", "rope_theta_base"), "rope_theta"),
    **dict.fromkeys(("norm_eps", "layer_norm_eps", "layernorm_epsilon", "layer_norm_epsilon"), "rms_norm_eps"),
    **dict.fromkeys(("norm_epsilon", "rms_eps", "rms_norm_epsilon"), "rms_norm_eps"),
}
_DEFAULTS = {"rope_theta": DEFAULT_ROPE_THETA, "rms_norm_eps": 1e-5}
# Values that leave the arithmetic as it is, by key; a missing key and null always do.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct", "rotary_percentage", "rotary_emb_fraction"), (1,)),
    "rope_local_base_freq": (),
    "rope_type": ("default",),
    "use_rope": (True,),
    "original_max_position_embeddings": (),
    "rotary_emb_scale_base": (),
    "compress_pos_emb": (1,),
    **dict.fromkeys(("position_embedding_type", "position_encoding", "pos_emb", "pos_encoding"), ("rotary", "rope")),
    **dict.fromkeys(("no_rope_layers", "no_rope_layer_interval", "nope_layer_interval"), ([], 0)),
    **dict.fromkeys(("use_qk_norm", "qk_norm", "qk_layernorm", "use_rmsnorm", "rms_norm", "pre_norm"), (True,)),
    "qk_norm_type": ("layernorm", "layer_norm"),
    "qk_norm_eps": (1e-5,),
    **dict.fromkeys(("is_causal", "causal"), (True,)),
    "local_attention": (False,),
    **dict.fromkeys(("attention_type", "attn_type"), ("full", "full_attention", "causal", "default")),
    "attention_chunk_size": (),
    "attn_temperature_tuning": (False, 0),
    "clip_qkv": (),
    "attention_multiplier": (),
    "query_pre_attn_scalar": (),
    "scale_attn_weights": (True,),
    "use_logn_attn": (False,),
    **dict.fromkeys(("norm_type", "normalization", "norm", "norm_layer"), ("rmsnorm", "rms_norm", "RMSNorm")),
    **dict.fromkeys(("parallel_attn", "parallel_attention", "parallel_block"), (False,)),
    "bits": (16, 32),
    "quant_method": (),
}
# Words of other keys that name a change of the arithmetic, and values that change nothing.
_OFF: tuple[object, ...] = (False, 0, 1, "", "none", "default", [], {})
_BY_WORD: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(("multiplier", "softcap", "softcapping", "scaling", "scale", "cap"), (1, False)),
    **dict.fromkeys(("rope", "rotary", "ntk", "yarn", "alibi"), _OFF),
    **dict.fromkeys(("norm", "layernorm", "rmsnorm", "normalize", "gamma"), (False,)),
    **dict.fromkeys(("expert", "experts", "moe"), _OFF),
    **dict.fromkeys(("bias", "residual", "bidirectional"), (False,)),
    **dict.fromkeys(("tie", "tying", "tied", "share"), (False,)),
    **dict.fromkeys(("4bit", "8bit"), (False,)),
}
# Keys with such a word that change nothing: read elsewhere, or of the image tokenizer; and words of training.
_HARMLESS = ("channel_multiplier", "swin_norm", "rms_norm_eps", "rope_theta", "norm_topk_prob")
_HARMLESS_WORDS = ("grad", "loss", "dropout", "lr", "lora", "init", "initializer", "vq", "image")
_NO_SCALING = ("default", "none")


@dataclass(frozen=True)
class UnsupportedKey:
    """A key, its value, and what was expected."""

    key: str
    value: object
    expected: str


def unsupported_key(values: Mapping[str, Any]) -> UnsupportedKey | None:
    """The first key whose value would change the arithmetic in a way that is not supported; None if there is none."""
    for key, value in values.items():
        if value is None or _is_neutral(key, value, values):
            continue
        return UnsupportedKey(key, _short(value), _expected(key))
    return None


def find_rope_theta(values: Mapping[str, Any], source: str) -> float:
    """The base of the rotary embedding, from `rope_theta` and from `rope_parameters`, where transformers 5 has it.

    Raises CheckpointError for another value than a positive number, and for two that differ.
    """
    found = _rope_thetas(values)
    for inner in _INNER:
        if isinstance(values.get(inner), Mapping):
            found |= {f"{inner}.{key}": value for key, value in _rope_thetas(values[inner]).items()}
    for key, value in found.items():
        if not is_positive(value) or not LOWEST_ROPE_THETA <= value <= HIGHEST_ROPE_THETA:
            raise CheckpointError(
                f"{source}: {key} is {value!r:.100}; expected a number from {LOWEST_ROPE_THETA:g} to "
                f"{HIGHEST_ROPE_THETA:g}"
            )
    if len(set(map(float, found.values()))) > 1:
        raise CheckpointError(f"{source}: rope_theta is {found}; expected one value: take the config.json as published")
    return float(next(iter(found.values()), DEFAULT_ROPE_THETA))


def _rope_thetas(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says of the base of the rotary embedding, by where it says so."""
    found = {"rope_theta": values.get("rope_theta")}
    for key in ("rope_parameters", "rope_scaling"):
        parameters = values.get(key)
        if isinstance(parameters, Mapping):
            found[f"{key}.rope_theta"] = _parameters(parameters).get("rope_theta")
    return {key: value for key, value in found.items() if value is not None}


def _is_neutral(key: str, value: object, values: Mapping[str, Any]) -> bool:
    check = _CHECKS.get(key)
    if check is not None:
        return check(value, values)
    if key in _SAME_AS:
        return _equal(value, values.get(_SAME_AS[key], _DEFAULTS[_SAME_AS[key]]))
    if key in _NEUTRAL:
        return any(_equal(value, neutral) for neutral in _NEUTRAL[key])
    words = key.lower().split("_")
    if key in _HARMLESS or any(word in _HARMLESS_WORDS for word in words):
        return True
    neutral = next((_BY_WORD[word] for word in words if word in _BY_WORD), None)
    return neutral is None or any(_equal(value, one) for one in neutral)


def _is_plain_rope(value: object, _: Mapping[str, Any]) -> bool:
    """Whether these rope parameters are of the plain rotary embedding: without scaling, perhaps with another base."""
    if not isinstance(value, Mapping):
        return False
    value = _parameters(value)
    kinds = [value[key] for key in ("rope_type", "type") if value.get(key) is not None]
    others = {key: one for key, one in value.items() if key not in _ROPE_WORDS}
    neutral = all(one is None or (key in _NEUTRAL_ROPE and _equal(one, 1)) for key, one in others.items())
    is_scaled = any(kind not in _NO_SCALING and not (kind == "linear" and value.get("factor") == 1) for kind in kinds)
    return neutral and not is_scaled


def _parameters(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rope parameters, which may be listed by the kind of the layers, where all are of one kind."""
    inner = value.get("full_attention")
    return inner if isinstance(inner, Mapping) and len(value) == 1 else value


def _is_inner_config(value: object, values: Mapping[str, Any]) -> bool:
    """Whether a config within the config says nothing else than the config itself, and nothing unsupported."""
    if not isinstance(value, Mapping):
        return False
    around = _DEFAULTS | {key: one for key, one in values.items() if key not in _INNER}
    given = {key: one for key, one in value.items() if key not in (*_INNER, "rope_theta") and one is not None}
    is_same = all(_equal(one, around[key]) for key, one in given.items() if around.get(key) is not None)
    return is_same and all(_is_neutral(key, one, around | given) for key, one in given.items())


def _is_decoder(value: object, values: Mapping[str, Any]) -> bool:
    """Whether `decoder` is no config, or one that says nothing else: tokenizers and other programs use the word too."""
    return not isinstance(value, Mapping) or _is_inner_config(value, values)


def _is_rotated_whole(value: object, values: Mapping[str, Any]) -> bool:
    """Whether as many dimensions as a head has are rotated."""
    heads, hidden = values.get("num_attention_heads"), values.get("hidden_size")
    dim = values.get("head_dim")
    if dim is None and isinstance(heads, int) and isinstance(hidden, int) and heads:
        dim = hidden // heads
    return _equal(value, dim)


def _is_read_from_tensors(value: object, _: Mapping[str, Any]) -> bool:
    """Whether a config of quantised weights is one whose weights say themselves how they are stored."""
    return isinstance(value, Mapping) and (not value or value.get("quant_method") == "torchao")


def _is_silu(value: object, _: Mapping[str, Any]) -> bool:
    return isinstance(value, str) and value.lower() in ("silu", "swish")


def _is_wide_window(value: object, values: Mapping[str, Any]) -> bool:
    """Whether a sliding window is off, or as long as the context."""
    context = values.get("max_position_embeddings")
    is_off = values.get("use_sliding_window") is False or value is False or value == 0
    return is_off or (isinstance(value, int) and isinstance(context, int) and value >= context)


def _is_full_attention(value: object, _: Mapping[str, Any]) -> bool:
    return isinstance(value, list) and all(kind in ("full_attention", "attention") for kind in value)


_ROPE_WORDS = ("rope_type", "type", "rope_theta", "original_max_position_embeddings")
_NEUTRAL_ROPE = ("factor", "partial_rotary_factor", "attention_factor")
_CHECKS: dict[str, Callable[[object, Mapping[str, Any]], bool]] = {
    "rope_scaling": _is_plain_rope,
    "rope_parameters": _is_plain_rope,
    **dict.fromkeys(("sliding_window", "attention_window", "window_size", "attention_window_size"), _is_wide_window),
    **dict.fromkeys(("sliding_window_size", "local_window_size", "sliding_window_pattern"), _is_wide_window),
    "use_sliding_window": lambda value, _: value is False,
    "layer_types": _is_full_attention,
    **dict.fromkeys(_INNER, _is_inner_config),
    "decoder": _is_decoder,
    **dict.fromkeys(("rotary_dim", "rope_dim", "rotary_ndims"), _is_rotated_whole),
    **dict.fromkeys(_ACTIVATIONS, _is_silu),
    **dict.fromkeys(_QUANTISED, _is_read_from_tensors),
}


def _expected(key: str) -> str:
    if key in ("rope_scaling", "rope_parameters"):
        return "none, or rope_type default: scaled rotary embeddings are not supported"
    if key in _QUANTISED:
        return "none, or that of torchao: others are not supported; get the checkpoint in bf16"
    if "window" in key or key == "layer_types":
        return "attention to the whole context: a sliding window is not supported"
    if key in _SAME_AS:
        return f"the value of {_SAME_AS[key]}, which is read instead"
    if key in _ACTIVATIONS:
        return "silu, the only supported value"
    if key in _INNER:
        return "what the config around it says, and nothing else: take the config.json as published"
    neutral = " or ".join(repr(value) for value in _NEUTRAL.get(key, ()))
    return f"{neutral}, the only supported value" if neutral else "none: it changes what the model computes"


def _equal(value: object, neutral: object) -> bool:
    if isinstance(value, bool) != isinstance(neutral, bool):
        return False
    return value == neutral


def is_positive(value: object) -> bool:
    """Whether a value is a positive number that a float holds."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value)) and value > 0
    except OverflowError:  # an integer beyond a float
        return False


def _short(value: object) -> object:
    text = repr(value)
    return value if len(text) <= 200 else text[:200] + "…"
