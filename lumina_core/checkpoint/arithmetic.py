"""Keys of a config.json that change what the transformer computes: read, or refused, never ignored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError

DEFAULT_ROPE_THETA = 10_000.0
_QUANTISED = ("quantization_config", "compression_config", "quantization", "quant_config", "quantize_config")
# Other names of a value that is read by its own.
_SAME_AS = {
    **dict.fromkeys(("rotary_base", "rope_base", "rotary_emb_base", "global_rope_theta", "theta"), "rope_theta"),
    **dict.fromkeys(("norm_eps", "layer_norm_eps", "layernorm_epsilon", "layer_norm_epsilon"), "rms_norm_eps"),
}
_DEFAULTS = {"rope_theta": DEFAULT_ROPE_THETA, "rms_norm_eps": 1e-5}
# Values that leave the arithmetic as it is, by key; a missing key and null always do.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "attention_bias": (False,),
    "qkv_bias": (False,),
    "mlp_bias": (False,),
    "tie_word_embeddings": (False,),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct", "rotary_percentage", "rotary_emb_fraction"), (1,)),
    "rope_interleaved": (False,),
    "rope_local_base_freq": (),
    "rope_ratio": (1,),
    "position_embedding_type": ("rotary", "rope"),
    "use_alibi": (False,),
    "alibi": (False,),
    **dict.fromkeys(("no_rope_layers", "no_rope_layer_interval", "nope_layer_interval"), ([], 0)),
    **dict.fromkeys(("use_qk_norm", "qk_norm", "qk_layernorm"), (True,)),
    "is_causal": (True,),
    "use_sliding_window": (False,),
    "attention_chunk_size": (),
    "attention_window": (),
    "window_size": (),
    "attn_temperature_tuning": (False, 0),
    "clip_qkv": (),
    "final_logit_softcapping": (),
    "attn_logit_softcapping": (),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    **dict.fromkeys(("scale_emb", "scale_depth", "attention_scale", "softmax_scale", "scale_embedding"), (1, False)),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "attention_multiplier": (),
    "query_pre_attn_scalar": (),
    "norm_type": ("rmsnorm", "rms_norm"),
    "parallel_attn": (False,),
    "use_parallel_residual": (False,),
    "num_experts": (0, 1),
    "num_local_experts": (0, 1),
    "n_routed_experts": (0, 1),
    **dict.fromkeys(_QUANTISED, ({},)),
}
# Words in other keys that name a change of the arithmetic; `logits_to_keep` and the like name none.
_FACTOR_WORDS = ("multiplier", "softcap", "scaling")
_NO_FACTOR = ("channel_multiplier", "rope_scaling")
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
    given = {"rope_theta": values.get("rope_theta")}
    for key in ("rope_parameters", "rope_scaling"):
        parameters = values.get(key)
        if isinstance(parameters, Mapping):
            given[f"{key}.rope_theta"] = _parameters(parameters).get("rope_theta")
    found = {key: value for key, value in given.items() if value is not None}
    for key, value in found.items():
        if not is_positive(value):
            raise CheckpointError(f"{source}: {key} is {value!r}; expected a positive, finite number")
    if len(set(map(float, found.values()))) > 1:
        raise CheckpointError(f"{source}: rope_theta is {found}; expected one value: take the config.json as published")
    return float(next(iter(found.values()), DEFAULT_ROPE_THETA))


def _is_neutral(key: str, value: object, values: Mapping[str, Any]) -> bool:
    check = _CHECKS.get(key)
    if check is not None:
        return check(value, values)
    if key in _SAME_AS:
        return _equal(value, values.get(_SAME_AS[key], _DEFAULTS[_SAME_AS[key]]))
    if key in _NEUTRAL:
        return any(_equal(value, neutral) for neutral in _NEUTRAL[key])
    if any(word in key for word in _FACTOR_WORDS) and key not in _NO_FACTOR:
        return _equal(value, 1) or value is False
    return True


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
    """Whether a config within the config says nothing else than the config itself."""
    if not isinstance(value, Mapping):
        return False
    return all(_equal(one, values[key]) for key, one in value.items() if key in values)


def _is_rotated_whole(value: object, values: Mapping[str, Any]) -> bool:
    """Whether as many dimensions as a head has are rotated."""
    heads, hidden = values.get("num_attention_heads"), values.get("hidden_size")
    dim = values.get("head_dim")
    if dim is None and isinstance(heads, int) and isinstance(hidden, int) and heads:
        dim = hidden // heads
    return _equal(value, dim)


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
    "sliding_window": _is_wide_window,
    "layer_types": _is_full_attention,
    "text_config": _is_inner_config,
    "rotary_dim": _is_rotated_whole,
    "hidden_act": _is_silu,
    "hidden_activation": _is_silu,
}


def _expected(key: str) -> str:
    if key in ("rope_scaling", "rope_parameters"):
        return "none, or rope_type default: scaled rotary embeddings are not supported"
    if key in _QUANTISED:
        return "none: weights quantised by another program are not supported; get the checkpoint in bf16"
    if key in ("sliding_window", "layer_types"):
        return "attention to the whole context: a sliding window is not supported"
    if key in _SAME_AS:
        return f"the value of {_SAME_AS[key]}, which is read instead"
    if key in ("hidden_act", "hidden_activation"):
        return "silu, the only supported value"
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
