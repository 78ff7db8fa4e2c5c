"""What is wrong with a checkpoint whose tensors are not those of the model, in one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from ..errors import CheckpointError
from .config import TransformerConfig
from .published import published_shapes
from .tensor_files import Shape

MOST_LISTED = 5
# Layers beyond which no names are made without tensors that show them.
MOST_LAYERS = 1000
_IN_BF16 = "which is not supported; get the checkpoint in bf16"
# What names of tensors tell, in the order in which they are asked.
_SIGNS = (
    (
        r"(^|\.)lora_|\.lora\.|\.hada_w|\.lokr_|\.dora_scale",
        "is a LoRA or holds one beside its weights; expected the whole checkpoint, with that LoRA merged into it (one "
        "alone goes to --lora, or to the node that loads one)",
    ),
    (
        r"\.(base_layer|modules_to_save)\.",
        "is of a model with an adapter that was not merged; merge it (merge_and_unload), and save it again",
    ),
    (
        r"\.(scale_weight|weight_scale|weight_scale_inv|scale_input|input_scale|comfy_quant)$",
        "holds fp8 or int8 weights with scales, and nothing that says in which form; expected what ComfyUI or torchao "
        "saves, or the checkpoint in bf16",
    ),
    (r"\.(qweight|qzeros|g_idx)$", f"is quantised by GPTQ or AWQ, {_IN_BF16}"),
    (r"\.(absmax|quant_map|nested_absmax|SCB)$|quant_state", f"is quantised by bitsandbytes, {_IN_BF16}"),
    (r"\.(weight_packed|weight_shape|weight_zero_point)$", f"is quantised by compressed-tensors, {_IN_BF16}"),
    (
        r"_weight_(qdata|scale_and_zero)$|\.weight_qdata$",
        "is quantised by torchao, and lacks the metadata that say how; save both things that flatten_tensor_state_dict "
        "returns, or get the checkpoint in bf16",
    ),
    (r"\.W_q$", f"is quantised by HQQ, {_IN_BF16}"),
    (r"_proj\.(scales|biases)$", f"is quantised by MLX, {_IN_BF16}"),
    (
        r"(qkv_proj|gate_up_proj|attention\.wq|feed_forward\.w1|attn\.c_attn)\.weight$",
        "has fused or renamed layers of another program; expected the published names (q_proj, gate_proj and so on)",
    ),
)
_LAYER = re.compile(r"^model\.layers\.(\d{1,9})\.")
_SHARD = re.compile(r"(\d{1,9})-of-(\d{1,9})")
_MOVQGAN = ("quantize.embedding.weight", "encoder.conv_in.weight", "decoder.conv_in.weight")


def check_tensors(found: Mapping[str, Shape], expected: Mapping[str, Shape], source: str) -> None:
    """Raises one CheckpointError that says what is missing, unexpected or misshapen, and what that means if known."""
    missing = [name for name in expected if name not in found]
    unexpected = sorted(name for name in found if name not in expected)
    misshapen = [name for name, shape in expected.items() if name in found and tuple(found[name]) != tuple(shape)]
    if not (missing or unexpected or misshapen):
        return
    reason = _diagnosis(found, expected, missing, unexpected, source)
    problems = [f"missing `{name}`" for name in missing] + [f"unexpected `{name}`" for name in unexpected]
    problems += [f"`{name}` has shape {list(found[name])}, expected {list(expected[name])}" for name in misshapen]
    more = f"; and {len(problems) - MOST_LISTED} more" if len(problems) > MOST_LISTED else ""
    listed = f"{'; '.join(problems[:MOST_LISTED])}{more}"
    if reason:
        raise CheckpointError(f"{source} {reason} ({listed})")
    raise CheckpointError(
        f"{source} does not contain the tensors of this model: {listed}. Check that all files are of the same "
        "checkpoint and were downloaded completely"
    )


def check_sizes(found: Mapping[str, Shape], config: TransformerConfig, source: str) -> None:
    """Raises CheckpointError when the config's sizes are not those of the tensors, before anything is built by them.

    Names are made for the layers of the config only when there are as many in the file.
    """
    layers, by_config = config.num_hidden_layers, published_shapes(replace(config, num_hidden_layers=1))
    if reason := _foreign(found, by_config):
        raise CheckpointError(f"{source} {reason}")
    indices = {int(match[1]) for match in map(_LAYER.match, found) if match}
    is_gapless = len(indices) == max(indices, default=0) + 1
    if indices and max(indices) < layers - 1 and (is_gapless or layers > MOST_LAYERS):
        raise CheckpointError(
            f"{source}: num_hidden_layers is {layers:,}, and the tensors are of {len(indices)} layers; expected "
            "config.json and all tensors of one checkpoint"
        )
    if not indices and layers > max(len(found), MOST_LAYERS):
        raise CheckpointError(f"{source}: num_hidden_layers is {layers:,}, and there are {len(found)} tensors in all")
    shared = {name: shape for name, shape in by_config.items() if name in found}
    check_tensors({name: found[name] for name in shared}, shared, source)


def _foreign(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> str | None:
    """What other kind of checkpoint the tensors are; None where they may be of this one."""
    if not found:
        return "holds no tensors; download it again"
    for pattern, reason in _SIGNS:
        if any(re.search(pattern, name) for name in found):
            return reason
    if any(0 in shape for shape in found.values()):
        return "holds empty tensors, as DeepSpeed ZeRO-3 saves them; gather the weights, and save them again"
    if not set(found) & set(expected):
        movqgan = [name for name in _MOVQGAN if name in found]
        if movqgan and not set(_MOVQGAN) & set(expected):
            return "is a MoVQGAN, not the transformer; choose the transformer's files"
        return "is of another model: none of its tensors has a name of this one"
    return None


def _diagnosis(
    found: Mapping[str, Shape], expected: Mapping[str, Shape], missing: list[str], unexpected: list[str], source: str
) -> str | None:
    if reason := _foreign(found, expected):
        return reason
    if (reason := _missing_layers(missing, source)) and not unexpected:
        return reason
    return _too_many_layers(expected, unexpected)


def _missing_layers(missing: list[str], source: str) -> str | None:
    if not missing:
        return None
    if shard := _SHARD.search(source.rpartition("/")[2]):
        return f"is shard {int(shard[1])} of {int(shard[2])}; expected all of them: name their folder, with its index"
    layers = sorted({int(match[1]) for match in map(_LAYER.match, missing) if match})
    if len(layers) < 2 or len(missing) < 2 * len(layers):
        return None
    return (
        f"lacks tensors of layers {layers[0]} to {layers[-1]}: a shard is missing, or config.json is of another model"
    )


def _too_many_layers(expected: Mapping[str, Shape], unexpected: list[str]) -> str | None:
    layers = {int(match[1]) for match in map(_LAYER.match, unexpected) if match}
    wanted = {int(match[1]) for match in map(_LAYER.match, expected) if match}
    if layers and wanted and min(layers) > max(wanted):
        return f"has {max(layers) + 1} layers and config.json says {max(wanted) + 1}; expected both of one checkpoint"
    return None
