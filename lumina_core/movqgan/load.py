"""Loads a MoVQGAN from a `.safetensors` file or from the official pickle."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import operations as default_operations
from ..checkpoint.find import Checkpoint
from ..checkpoint.single_file import MOVQGAN_PREFIX, read_single_file
from ..checkpoint.tensors import TensorStore, check_tensors, read_pickle
from ..errors import CheckpointError
from .autoencoder import MoVQGAN
from .config import infer_config

logger = logging.getLogger(__name__)

OWN_PARTS = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")


def load_movqgan(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    operations: Any = default_operations,
    checkpoint: Checkpoint | None = None,
) -> MoVQGAN:
    """The MoVQGAN of a `.safetensors` file or a `.ckpt`/`.pth` pickle, in eval mode.

    The tensors define the architecture. The file may be a converted checkpoint; `checkpoint` is that file if it is open
    already. Raises CheckpointError when the file is missing or damaged, contains code, or lacks a tensor.
    """
    tensors = read_movqgan(path, checkpoint)
    return build_movqgan(tensors, str(path), dtype=dtype, device=device, operations=operations)


def read_movqgan(path: str | Path, checkpoint: Checkpoint | None = None) -> dict[str, Tensor]:
    """The tensors of a MoVQGAN file, without those of other modules (losses, EMA copies, discriminator)."""
    path = Path(path)
    is_open = checkpoint is not None and path in checkpoint.tensors.paths
    tensors = _read(path, checkpoint.tensors if checkpoint is not None and is_open else None)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(OWN_PARTS)}
    if foreign := len(tensors) - len(own):
        logger.info("%s: ignored %d tensors of other modules", path.name, foreign)
    return own


def build_movqgan(
    tensors: dict[str, Tensor],
    source: str,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    operations: Any = default_operations,
) -> MoVQGAN:
    """A MoVQGAN with these tensors; `source` names the file in errors."""
    model = empty_movqgan(tensors, source, operations)
    converted = {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()}
    model.load_state_dict(converted, assign=True)
    return model.eval().requires_grad_(False)


def empty_movqgan(tensors: dict[str, Tensor], source: str, operations: Any = default_operations) -> MoVQGAN:
    """A MoVQGAN on the meta device with the shapes of these tensors. Raises CheckpointError for other tensors."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    config = infer_config(shapes, source)
    with torch.device("meta"):
        model = MoVQGAN(config, operations)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_tensors(shapes, expected, source)
    return model


def _read(path: Path, store: TensorStore | None) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"MoVQGAN file {path} is missing; expected movqgan_270M.ckpt or a .safetensors file")
    if path.suffix != ".safetensors":
        return read_pickle(path)
    store = TensorStore([path]) if store is None else store
    prefix = "" if read_single_file(path, store.metadata) is None else MOVQGAN_PREFIX
    return {name.removeprefix(prefix): store.get(name) for name in store.shapes if name.startswith(prefix)}
