"""MoVQGAN from a `.safetensors` file or the official pickle."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import operations as default_operations
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
) -> MoVQGAN:
    """The MoVQGAN in a `.safetensors` file or a `.ckpt`/`.pth` pickle, in eval mode; its architecture from the tensors.

    A converted checkpoint that has one in it will do too. Raises CheckpointError for a file that is absent, damaged,
    holds code, or lacks a tensor.
    """
    return build_movqgan(read_movqgan(path), str(path), dtype=dtype, device=device, operations=operations)


def read_movqgan(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a MoVQGAN file, without those of other parts (losses, EMA copies, a discriminator)."""
    path = Path(path)
    tensors = _read(path)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(OWN_PARTS)}
    if foreign := len(tensors) - len(own):
        logger.info("%s: %d tensors of other parts ignored", path.name, foreign)
    return own


def build_movqgan(
    tensors: dict[str, Tensor],
    source: str,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    operations: Any = default_operations,
) -> MoVQGAN:
    """A MoVQGAN of these tensors; `source` names them in errors."""
    model = empty_movqgan(tensors, source, operations)
    converted = {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()}
    model.load_state_dict(converted, assign=True)
    return model.eval().requires_grad_(False)


def empty_movqgan(tensors: dict[str, Tensor], source: str, operations: Any = default_operations) -> MoVQGAN:
    """A MoVQGAN on the meta device that these tensors fit. Raises CheckpointError when they fit none."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    config = infer_config(shapes, source)
    with torch.device("meta"):
        model = MoVQGAN(config, operations)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_tensors(shapes, expected, source)
    return model


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"MoVQGAN file {path} is missing; expected movqgan_270M.ckpt or a .safetensors file")
    if path.suffix == ".safetensors":
        store = TensorStore([path])
        if read_single_file(path) is None:
            return {name: store.get(name) for name in store.shapes}
        names = [name for name in store.shapes if name.startswith(MOVQGAN_PREFIX)]
        return {name.removeprefix(MOVQGAN_PREFIX): store.get(name) for name in names}
    return read_pickle(path)
