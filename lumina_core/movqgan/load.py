"""MoVQGAN from a `.safetensors` file or the official pickle."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..tensor_files import TensorStore, check_tensors, read_pickle
from .autoencoder import MoVQGAN
from .config import infer_config

logger = logging.getLogger(__name__)

OWN_PARTS = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")


def load_movqgan(
    path: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", operations: Any = nn
) -> MoVQGAN:
    """The MoVQGAN in a `.safetensors` file or a `.ckpt`/`.pth` pickle, in eval mode; its architecture from the tensors.

    Tensors of other parts (losses, EMA copies, a discriminator) are ignored. Raises CheckpointError for a file that
    is absent, damaged, holds code, or lacks a tensor.
    """
    path = Path(path)
    tensors = _read(path)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(OWN_PARTS)}
    if foreign := len(tensors) - len(own):
        logger.info("%s: %d tensors of other parts ignored", path.name, foreign)
    return build_movqgan(own, str(path), dtype=dtype, device=device, operations=operations)


def build_movqgan(
    tensors: dict[str, Tensor], source: str, *, dtype: torch.dtype, device: torch.device | str, operations: Any = nn
) -> MoVQGAN:
    """A MoVQGAN of these tensors; `source` names them in errors."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    config = infer_config(shapes, source)
    with torch.device("meta"):
        model = MoVQGAN(config, operations)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_tensors(shapes, expected, source)
    converted = {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()}
    model.load_state_dict(converted, assign=True)
    return model.eval().requires_grad_(False)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"MoVQGAN file {path} is missing; expected movqgan_270M.ckpt or a .safetensors file")
    if path.suffix == ".safetensors":
        store = TensorStore([path])
        return {name: store.get(name) for name in store.shapes}
    return read_pickle(path)
