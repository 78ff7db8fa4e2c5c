"""Cases: config.json and the tokenizer's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .attempts import Attempt, Expected, Make, case, change_case, refused, same, same_or_refused, then_generate
from .place import Place

THETA = 50_000.0


def _config(what: str, expected: Expected, **values: object) -> Attempt:
    return change_case(what, lambda place: place.change_config(**values), expected)


def with_config(**values: object) -> Make:
    """The good checkpoint with other values in its config."""
    return then_generate(lambda place: place.change_config(**values))


def _text(what: str, change: Callable[[str], str | bytes], expected: Expected, name: str = "config.json") -> Attempt:
    def rewrite(place: Place) -> None:
        changed = change((place.checkpoint / name).read_text())
        (place.checkpoint / name).write_bytes(changed if isinstance(changed, bytes) else changed.encode())

    return change_case(what, rewrite, expected)


def _insert(entry: str) -> Callable[[str], str]:
    """Puts an entry at the end of a JSON object."""
    return lambda text: text.rstrip()[:-1] + "," + entry + "}"


def _deep(text: str) -> str:
    return _insert('"deep":' + "[" * 10_000 + "]" * 10_000)(text)


OTHER_THETA = with_config(rope_theta=THETA)
ROPE = (
    _config(
        "theta in rope_parameters, as transformers 5 writes it",
        same(reference=OTHER_THETA),
        rope_parameters={"rope_theta": THETA, "rope_type": "default"},
    ),
    _config(
        "theta in rope_parameters without a type", same(reference=OTHER_THETA), rope_parameters={"rope_theta": THETA}
    ),
    _config("rope_parameters of the default", same(), rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
    _config(
        "rope_parameters without theta, theta beside it",
        same(reference=OTHER_THETA),
        rope_parameters={"rope_type": "default"},
        rope_theta=THETA,
    ),
    _config("rope_parameters is null", same(), rope_parameters=None),
    _config(
        "rope_parameters and another theta beside it",
        refused("rope|theta"),
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        rope_theta=10000.0,
    ),
    _config("rope_parameters is a list", refused("rope_parameters"), rope_parameters=[THETA]),
    _config("theta in rope_parameters is a text", refused("rope"), rope_parameters={"rope_theta": "50000"}),
    _config("theta in rope_parameters is zero", refused("rope"), rope_parameters={"rope_theta": 0}),
    _config(
        "rope_parameters for kinds of layers",
        same_or_refused("rope", reference=OTHER_THETA),
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": THETA}},
    ),
    _config(
        "yarn in rope_parameters",
        refused("rope", "yarn"),
        rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0},
    ),
    _config(
        "llama3 in rope_parameters",
        refused("rope", "llama3"),
        rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0},
    ),
    _config("an unknown type in rope_parameters", refused("rope", "spiral"), rope_parameters={"rope_type": "spiral"}),
    _config(
        "partial rotation in rope_parameters",
        refused("rope|partial"),
        rope_parameters={"rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    ),
    _config(
        "a factor of the default type",
        same_or_refused("rope"),
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "factor": 1.0},
    ),
    _config("rope_scaling of the default", same(), rope_scaling={"rope_type": "default"}),
    _config("rope_scaling of the default under its older name", same(), rope_scaling={"type": "default"}),
    _config(
        "rope_scaling of the default, theta within",
        same(reference=OTHER_THETA),
        rope_scaling={"rope_type": "default", "rope_theta": THETA},
        rope_theta=THETA,
    ),
    _config(
        "rope_scaling is linear", refused("rope_scaling", "linear"), rope_scaling={"type": "linear", "factor": 2.0}
    ),
    _config(
        "rope_scaling is dynamic",
        refused("rope_scaling", "dynamic"),
        rope_scaling={"rope_type": "dynamic", "factor": 2.0},
    ),
    _config(
        "rope_scaling of two types",
        refused("rope_scaling"),
        rope_scaling={"type": "default", "rope_type": "yarn", "factor": 2.0},
    ),
    _config("rope_scaling without a type", refused("rope_scaling"), rope_scaling={"factor": 2.0}),
    _config("rope_scaling is a text", refused("rope_scaling"), rope_scaling="linear"),
    _config("half of each head is rotated", refused("partial_rotary_factor"), partial_rotary_factor=0.5),
    _config("the whole of each head is rotated", same(), partial_rotary_factor=1.0),
)
ARITHMETIC: tuple[tuple[str, Any], ...] = (
    *((key, {"hidden_act": "gelu"}) for key in ("text_config", "llm_config", "decoder")),
    ("text_config", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
    ("text_config", {"sliding_window": 16}),
    ("text_config", {"rms_norm_eps": 1e-3}),
    *((key, "gelu") for key in ("activation_function", "mlp_hidden_act", "act_fn")),
    *((key, False) for key in ("use_rmsnorm", "pre_norm", "use_rope", "causal")),
    *((key, True) for key in ("norm_plus_one", "post_norm", "parallel_residual", "weight_tying", "use_bias")),
    *((key, 0.5) for key in ("rope_percent", "residual_scale", "embed_scale", "logit_cap")),
    *((key, 50_000) for key in ("rotary_embedding_base", "rope_freq_base")),
    *((key, 64) for key in ("attention_window_size", "local_window_size")),
    ("rotary_interleaved", True),
    ("num_experts_per_tok", 2),
    ("load_in_4bit", True),
    ("rms_norm_eps", 5.0),
    ("rope_theta", 1.0),
    ("rope_theta", 1e300),
    ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ("quantization_config", {"quant_method": "fp8", "weight_block_size": [128, 128]}),
    ("compression_config", {"quant_method": "compressed-tensors"}),
    ("sliding_window", 128),
    ("attention_bias", True),
    ("mlp_bias", True),
    ("tie_word_embeddings", True),
    ("hidden_act", "gelu"),
    ("attn_logit_softcapping", 50.0),
    ("final_logit_softcapping", 30.0),
    ("embedding_multiplier", 12.0),
    ("residual_multiplier", 0.22),
    ("attention_multiplier", 0.0078),
    ("logits_scaling", 16.0),
    ("layer_types", ["full_attention", "sliding_attention"]),
)
HARMLESS: tuple[tuple[str, Any], ...] = (
    ("text_config", {"hidden_act": "silu", "dropout": 0.1}),
    ("decoder", "byte_level"),
    ("max_grad_norm", 0.5),
    ("loss_scale", 128.0),
    ("initializer_scale", 0.02),
    ("use_sliding_window", False),
    ("load_in_8bit", False),
    ("num_experts_per_tok", 0),
    ("image_scale", 2.0),
    ("quantization_config", None),
    ("sliding_window", None),
    ("layer_types", ["full_attention", "full_attention"]),
    ("attention_dropout", 0.0),
    ("torch_dtype", "bfloat16"),
    ("dtype", "bfloat16"),
    ("use_cache", True),
    ("hidden_act", "silu"),
    ("transformers_version", "5.0.0"),
    ("_name_or_path", "/home/someone/中文/模型"),
    ("initializer_range", 0.02),
)
NUMBERS: tuple[tuple[str, Any], ...] = (
    ("num_hidden_layers", 1_000_000),
    ("num_hidden_layers", 10**18),
    ("num_hidden_layers", 1),
    ("num_hidden_layers", -2),
    ("num_hidden_layers", 2.5),
    ("num_hidden_layers", "2"),
    ("num_hidden_layers", True),
    ("hidden_size", 10**12),
    ("intermediate_size", 10**12),
    ("vocab_size", 2**45),
    ("vocab_size", 10**400),
    ("num_attention_heads", 10**9),
    ("head_dim", 10**10),
    ("model_parallel_size", 10**9),
    ("image_codebook_size", 2**50),
    ("image_token_offset", 10**300),
    ("max_position_embeddings", 0),
    ("rope_theta", -1),
    ("rms_norm_eps", "1e-5"),
    ("trained_sizes", "32x32"),
)


def _short(value: object) -> str:
    text = (
        json.dumps(value)
        if not isinstance(value, int) or abs(value) < 10**20
        else f"a number of {len(str(value))} digits"
    )
    return text if len(text) < 60 else text[:60]


def _utf16(text: str) -> bytes:
    return text.encode("utf-16")


def _tokenizer_without(name: str) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        file = place.checkpoint / "tokenizer.json"
        added = json.loads(file.read_text())["added_tokens"]
        place.change_json(file, added_tokens=[token for token in added if token["content"] != name])

    return change


def _moved_token(place: Place) -> None:
    """A start of the picture whose id is that of a code."""
    file = place.checkpoint / "tokenizer.json"
    text = json.loads(file.read_text())
    for token in text["added_tokens"]:
        token["id"] = 400 if token["content"] == "<racm3:break>" else token["id"]
    file.write_text(json.dumps(text))


def _end_of_picture_moved(place: Place) -> None:
    """In tokenizer.json alone, beside another id in tokenizer_config.json."""
    file = place.checkpoint / "tokenizer.json"
    values = json.loads(file.read_text())
    ids = {token["content"]: token["id"] for token in values["added_tokens"]}
    settings = {"added_tokens_decoder": {str(ids["<eoss>"] + 1): {"content": "<eoss>", "special": True}}}
    place.change_json(place.checkpoint / "tokenizer_config.json", **settings)


CASES: tuple[Attempt, ...] = (
    *ROPE,
    *(_config(f"config: {key} is {_short(value)}", refused(key), **{key: value}) for key, value in ARITHMETIC),
    *(_config(f"config: {key} is {_short(value)}", same(), **{key: value}) for key, value in HARMLESS),
    *(_config(f"config: {key} is {_short(value)}", refused(), **{key: value}) for key, value in NUMBERS),
    change_case("the end of a picture has two ids", _end_of_picture_moved, refused("<eoss>", "one id|own")),
    _config("a context of 10^12 tokens", same(), max_position_embeddings=10**12),
    _config("a sliding window that is not used", same(), sliding_window=4096, use_sliding_window=False),
    _config(
        "vocabulary_map with another id for the start",
        refused("vocabulary_map|<racm3:break>"),
        vocabulary_map={"<racm3:break>": 5},
    ),
    _text("config with a byte-order mark", lambda text: b"\xef\xbb\xbf" + text.encode(), same()),
    _text(
        "index with a byte-order mark",
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        same(),
        "model.safetensors.index.json",
    ),
    _text("tokenizer with a byte-order mark", lambda text: b"\xef\xbb\xbf" + text.encode(), same(), "tokenizer.json"),
    _text(
        "tokenizer_config with a byte-order mark",
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        same(),
        "tokenizer_config.json",
    ),
    _text("config with Windows line ends", lambda text: text.replace(",", ",\r\n"), same()),
    _text("config in UTF-16", _utf16, same_or_refused(r"config\.json", "UTF")),
    _text(
        "tokenizer_config in UTF-16", _utf16, same_or_refused(r"tokenizer_config\.json", "UTF"), "tokenizer_config.json"
    ),
    _text("config nested 10,000 deep", _deep, refused("deep|nest")),
    _text("index nested 10,000 deep", _deep, refused("deep|nest"), "model.safetensors.index.json"),
    _text("tokenizer_config nested 10,000 deep", _deep, refused("deep|nest"), "tokenizer_config.json"),
    _text("tokenizer nested 10,000 deep", _deep, refused("tokenizer"), "tokenizer.json"),
    _text("config with 1e400", _insert('"rope_theta": 1e400'), refused("1e400|large|float|finite")),
    _text("config with NaN", _insert('"rms_norm_eps": NaN'), refused("NaN")),
    _text("config with Infinity in a key that is not read", _insert('"other": Infinity'), refused("Infinity")),
    _text("config with a lone surrogate", _insert('"_name_or_path": "\\ud800"'), refused("Unicode|surrogate|utf")),
    _text("config with a number of 5,000 digits", _insert('"other": ' + "9" * 5000), refused(r"config\.json")),
    _text(
        "a key twice, the right value last",
        lambda text: '{"rope_theta": 5.0, ' + _insert('"rope_theta": 10000.0')(text)[1:],
        same_or_refused("rope_theta"),
    ),
    _text("config with a comma too many", lambda text: text.rstrip()[:-1] + ",}", refused(r"config\.json", "JSON")),
    _text("config is a list", lambda text: f"[{text}]", refused("list|array")),
    change_case(
        "config.json is a folder", lambda place: (place.config.unlink(), place.config.mkdir()), refused("folder")
    ),
    change_case(
        "no tokenizer_config.json",
        lambda place: (place.checkpoint / "tokenizer_config.json").unlink(),
        refused("tokenizer_config"),
    ),
    change_case(
        "a tokenizer of another model",
        lambda place: (place.checkpoint / "tokenizer.json").write_text('{"version": "1.0"}'),
        refused("tokenizer"),
    ),
    change_case(
        "a tokenizer without the end of a row", _tokenizer_without("<reserved08799>"), refused("<reserved08799>")
    ),
    change_case("a start of the picture that is a code", _moved_token, refused()),
    case(
        "info of a million layers",
        lambda place: (place.change_config(num_hidden_layers=1_000_000), place.info())[1],
        refused("num_hidden_layers|layers"),
    ),
    case(
        "converting a million layers",
        lambda place: (place.change_config(num_hidden_layers=1_000_000), place.convert())[1],
        refused("num_hidden_layers|layers"),
    ),
)
