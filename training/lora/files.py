"""The files of a LoRA: the finished one in PEFT's form, and the state of a run that can be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.tensor_writer import TensorWriter, lay_out
from lumina_core.checkpoint.tensors import TensorSpec, dtype_name
from lumina_core.errors import InputError
from lumina_core.files.output_files import OutputFiles

from .layers import LoRA

STATE_SUFFIX = ".training"
SUFFIX = ".safetensors"
DTYPE = torch.float16
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
KEPT_CODES = "kept_codes"


@dataclass(frozen=True)
class State:
    """A run after some steps: A, B and the optimizer's moments by key, and its settings."""

    step: int
    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def state_path(out: Path) -> Path:
    """The file of the state, beside the finished one."""
    return out.with_suffix(STATE_SUFFIX)


def lora_metadata(config: TransformerConfig, rank: int, alpha: float, targets: tuple[str, ...]) -> dict[str, str]:
    """What a reader needs beside the tensors: rank, alpha, and the sizes of the model."""
    sizes = {name: value for name, value in asdict(config).items() if name in SIZES}
    return {
        "format": "pt",
        "r": str(rank),
        "lora_alpha": f"{alpha:g}",
        "target_modules": json.dumps(list(targets)),
        "base": json.dumps(sizes),
    }


def write_lora(path: Path, lora: LoRA, metadata: dict[str, str]) -> None:
    """Writes A and B in float16 under PEFT's keys, whole or not at all."""
    tensors = {key: value.detach().to("cpu", DTYPE) for key, value in lora.parameters.items()}
    _write(path, tensors, metadata)


def write_state(path: Path, state: State) -> None:
    """Writes the state of a run, whole or not at all."""
    tensors = {key: value.detach().cpu() for key, value in state.tensors.items()}
    _write(path, tensors, {"step": str(state.step), "settings": json.dumps(dict(state.settings))})


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    specs = {key: TensorSpec(dtype_name(value.dtype), tuple(value.shape)) for key, value in tensors.items()}
    layout = lay_out(specs, metadata)

    def fill(file: BinaryIO) -> None:
        writer = TensorWriter(file, layout)
        for key, value in tensors.items():
            writer.put(key, value)
        writer.finish()

    with OutputFiles() as files:
        files.write(path, fill)


def read_state(path: Path) -> State:
    """The state that `write_state` wrote. Raises InputError for a missing or damaged file."""
    if not path.is_file():
        raise InputError(f"--resume: {path} does not exist; expected the state of a run that was stopped")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return State(int(metadata["step"]), json.loads(metadata["settings"]), tensors)
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"--resume: {path} is damaged or no state of a run; start anew without --resume") from error


def check_settings(path: Path, began: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises InputError naming the first setting in which a run differs from the one that is resumed."""
    for name, value in now.items():
        if name in began and began[name] != value:
            was, new = (f" ({old})" if len(str(old)) < 40 else "" for old in (began[name], value))
            raise InputError(
                f"--resume: {path} was begun with another {name}{was} than now{new}; "
                "expected the same, or start anew without --resume"
            )
