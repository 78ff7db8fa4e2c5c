"""Loads a MoVQGAN from a `.safetensors` file or from the official pickle."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import operations as default_operations
from ..checkpoint.diagnosis import check_tensors
from ..checkpoint.find import Checkpoint
from ..checkpoint.locate import find_movqgan
from ..checkpoint.names import published_names
from ..checkpoint.single_file import MOVQGAN_PREFIX, read_single_file
from ..checkpoint.tensors import TensorStore
from ..errors import CheckpointError
from .autoencoder import MoVQGAN
from .config import infer_config

logger = logging.getLogger(__name__)

EXPECTED = "a MoVQGAN: movqgan_270M.ckpt or a .safetensors file"
# Names that every MoVQGAN has.
ANCHORS = ("quantize.embedding.weight", "encoder.conv_in.weight")
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
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
    """The tensors of a MoVQGAN file, without those of other modules (losses, EMA copies, discriminator).

    A prefix that a trainer put before all names is removed. Raises CheckpointError for tensors that are not floats, and
    for values that no model has.
    """
    path = _file(Path(path))
    is_open = checkpoint is not None and path in checkpoint.tensors.paths
    stored = _read(path, checkpoint.tensors if checkpoint is not None and is_open else None)
    names = published_names(stored, str(path), ANCHORS)
    own = {names[name]: get() for name, get in stored.items() if names[name].startswith(OWN_PARTS)}
    if foreign := len(stored) - len(own):
        logger.info("%s: ignored %d tensors of other modules", path.name, foreign)
    for name, tensor in own.items():
        if tensor.dtype not in FLOATS:
            raise CheckpointError(f"{path}: `{name}` holds {tensor.dtype}; expected floats: get the original file")
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


def _file(path: Path) -> Path:
    """The file itself, or the MoVQGAN in a folder."""
    if path.is_dir() and (found := find_movqgan(path)) is not None:
        return found
    return path


def _read(path: Path, store: TensorStore | None) -> dict[str, Callable[[], Tensor]]:
    """How to get each tensor of the file, by its name without the prefix of a converted checkpoint."""
    store = TensorStore([path], EXPECTED) if store is None else store
    prefix = "" if read_single_file(path, store.metadata) is None else MOVQGAN_PREFIX
    names = [name for name in store.shapes if name.startswith(prefix)]
    return {name.removeprefix(prefix): partial(store.get, name) for name in names}
