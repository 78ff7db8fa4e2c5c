"""Names of the tensors in a LoRA file, in the forms of PEFT, diffusers and kohya.

base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight      PEFT; `.lora_A.NAME.weight` too
transformer.model.layers.0.self_attn.q_proj.lora.down.weight        diffusers; `.lora_A.weight` too
lora_unet_model_layers_0_self_attn_q_proj.lora_down.weight          kohya, with `.alpha` beside it
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..checkpoint.config import TransformerConfig
from ..checkpoint.published import published_shapes

DOWN, UP, ALPHA = "A", "B", "alpha"
_ATTENTION = "qkv_proj", "q_proj", "k_proj", "v_proj", "o_proj"
_MLP = "gate_up_proj", "gate_proj", "up_proj", "down_proj"
_PLACE = re.compile(
    rf"(?:^|[._])layers[._](\d{{1,6}})[._](?:self_attn[._]({'|'.join(_ATTENTION)})|mlp[._]({'|'.join(_MLP)}))$"
)
# The name that PEFT has for an adapter, and the end of the name.
_ADAPTER = r"(?:\.(?!weight$|bias$)[^.]+)?(?:\.weight)?$"
_ROLES = (
    (re.compile(rf"[._](?:lora_A|lora_down|lora\.down|lora_linear_layer\.down){_ADAPTER}"), DOWN),
    (re.compile(rf"[._](?:lora_B|lora_up|lora\.up|lora_linear_layer\.up){_ADAPTER}"), UP),
    (re.compile(r"\.alpha$"), ALPHA),
)
_UNSUPPORTED = (
    (re.compile(r"lora_magnitude_vector|dora_scale|magnitude_vector"), "DoRA"),
    (re.compile(r"(^|[._])hada_"), "LoHa"),
    (re.compile(r"(^|[._])lokr_"), "LoKr"),
    (re.compile(r"(^|[._])(oft_|glora_|boft_|ia3_|vera_|lora_mid|diff$|w_norm$)"), "another kind of adapter than LoRA"),
)


@dataclass(frozen=True)
class Key:
    """What a tensor is: `role` is DOWN, UP or ALPHA, of a matrix such as q_proj or qkv_proj in a layer."""

    layer: int
    matrix: str
    role: str


@dataclass(frozen=True)
class Target:
    """Where a matrix lies in the transformer: rows from `first_row` on of a block's `linear`, [rows,inputs]."""

    linear: str
    first_row: int
    rows: int
    inputs: int


def parse_key(name: str) -> Key | None:
    """What a tensor of this name is; None where it is nothing that a block's linear layers take."""
    for pattern, role in _ROLES:
        if found := pattern.search(name):
            place = _PLACE.search(name[: found.start()])
            return None if place is None else Key(int(place[1]), place[2] or place[3], role)
    return None


def unsupported_kind(names: Iterable[str]) -> tuple[str, str] | None:
    """A kind of adapter that is not supported, and a tensor's name that shows it; None where there is none."""
    for name in names:
        for pattern, kind in _UNSUPPORTED:
            if pattern.search(name):
                return kind, name
    return None


def module_name(layer: int, matrix: str) -> str:
    """The name of a matrix as the published checkpoint has it, or as if it had a fused one."""
    return f"model.layers.{layer}.{'self_attn' if matrix in _ATTENTION else 'mlp'}.{matrix}"


def targets(config: TransformerConfig) -> dict[str, Target]:
    """Where each matrix lies in a block, the fused ones included."""
    shapes = {name.split(".")[-2]: shape for name, shape in published_shapes(config).items() if ".layers.0." in name}
    found = dict[str, Target]()
    for linear, parts in (
        ("qkv_proj", ("q_proj", "k_proj", "v_proj")),
        ("o_proj", ("o_proj",)),
        ("gate_up_proj", ("gate_proj", "up_proj")),
        ("down_proj", ("down_proj",)),
    ):
        first = 0
        for part in parts:
            rows, inputs = shapes[part]
            found[part] = Target(linear, first, rows, inputs)
            first += rows
        found[linear] = Target(linear, 0, first, shapes[parts[0]][1])
    return found
