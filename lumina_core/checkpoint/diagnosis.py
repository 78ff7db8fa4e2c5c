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
_LORA = re.compile(r"(^|\.)lora_|\.lora\.|^lora_|\.hada_w|\.lokr_|\.dora_scale")
_FP8_SCALE = re.compile(r"\.(scale_weight|weight_scale|weight_scale_inv|scale_input|input_scale|comfy_quant)$")
_QUANTISED = {
    "GPTQ": re.compile(r"\.(qweight|qzeros|g_idx)$"),
    "bitsandbytes": re.compile(r"\.(absmax|quant_map|nested_absmax|SCB)$|quant_state"),
    "compressed-tensors": re.compile(r"\.(weight_packed|weight_shape|weight_zero_point)$"),
}
_LAYER = re.compile(r"^model\.layers\.(\d{1,9})\.")
_SHARD = re.compile(r"(\d{1,9})-of-(\d{1,9})")
_MOVQGAN = ("quantize.embedding.weight", "encoder.conv_in.weight", "decoder.conv_in.weight")


def check_tensors(found: Mapping[str, Shape], expected: Mapping[str, Shape], source: str) -> None:
    """Raises one CheckpointError that says what is missing, unexpected or misshapen, and what that means if known."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
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
    shared = by_config.keys() & found.keys()
    check_tensors({name: found[name] for name in shared}, {name: by_config[name] for name in shared}, source)


def _foreign(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> str | None:
    """What other kind of checkpoint the tensors are; None where they may be of this one."""
    if not found:
        return "holds no tensors; download it again"
    if any(_LORA.search(name) for name in found):
        return "is a LoRA or holds one beside its weights; expected the whole checkpoint, with the LoRA merged into it"
    if any(_FP8_SCALE.search(name) for name in found):
        return "holds fp8 or int8 weights with scales, which are not supported; get the checkpoint in bf16"
    for program, pattern in _QUANTISED.items():
        if any(pattern.search(name) for name in found):
            return f"is quantised by {program}, which is not supported; get the checkpoint in bf16"
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
