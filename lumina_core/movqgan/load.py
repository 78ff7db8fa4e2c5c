"""Loads a MoVQGAN from a `.safetensors` file or from the official pickle."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import operations as default_operations
from ..checkpoint.codec_identity import CODEBOOK, FIRST_CONVOLUTION
from ..checkpoint.diagnosis import check_tensors
from ..checkpoint.find import Checkpoint
from ..checkpoint.locate import find_movqgan
from ..checkpoint.names import published_names
from ..checkpoint.single_file import MOVQGAN_PREFIX, read_single_file
from ..checkpoint.tensor_files import Shape
from ..checkpoint.tensors import TensorStore
from ..device import choose_device, dtype_or_choice
from ..errors import CheckpointError
from .autoencoder import MoVQGAN
from .config import MoVQGANConfig, infer_config

logger = logging.getLogger(__name__)

EXPECTED = "a MoVQGAN: movqgan_270M.ckpt or a .safetensors file"
# Names that every MoVQGAN has.
ANCHORS = ("quantize.embedding.weight", "encoder.conv_in.weight")
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
OWN_PARTS = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")


def load_movqgan(
    path: str | Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
    operations: Any = default_operations,
    checkpoint: Checkpoint | None = None,
) -> MoVQGAN:
    """The MoVQGAN of a `.safetensors` file or a `.ckpt`/`.pth` pickle, in eval mode.

    The tensors define the architecture. The file may be a converted checkpoint; `checkpoint` is that file if it is open
    already. Raises CheckpointError when the file is missing or damaged, contains code, or lacks a tensor, and
    InputError for a device that is not there and a dtype that it does not hold.
    """
    device = choose_device(device)
    dtype = dtype_or_choice(dtype, device)
    tensors = read_movqgan(path, checkpoint)
    return build_movqgan(tensors, str(path), dtype=dtype, device=device, operations=operations)


def read_movqgan(path: str | Path, checkpoint: Checkpoint | None = None) -> dict[str, Tensor]:
    """The tensors of a MoVQGAN file, without those of other modules (losses, EMA copies, discriminator).

    A prefix that a trainer put before all names is removed. Raises CheckpointError for tensors that are not floats, and
    for values that no model has.
    """
    path = _file(Path(path))
    store, names = _names_of(path, checkpoint)
    own = {name: store.get(stored) for name, stored in names.items()}
    for name, tensor in own.items():
        if tensor.dtype not in FLOATS:
            raise CheckpointError(f"{path}: `{name}` holds {tensor.dtype}; expected floats: get the original file")
    return own


def identify_movqgan(path: str | Path, checkpoint: Checkpoint | None = None) -> tuple[MoVQGANConfig, dict[str, Tensor]]:
    """The config of a MoVQGAN file, and the tensors that tell it from others of its shapes: for `check_codec`.

    Reads the header and these tensors. Raises CheckpointError as `read_movqgan` does for the header.
    """
    path = _file(Path(path))
    store, names = _names_of(path, checkpoint)
    shapes = {name: store.shapes[stored] for name, stored in names.items()}
    config = _empty_movqgan(shapes, str(path), default_operations).config
    return config, {name: store.get(names[name]) for name in (CODEBOOK, FIRST_CONVOLUTION)}


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
    return _empty_movqgan({name: tuple(tensor.shape) for name, tensor in tensors.items()}, source, operations)


def _empty_movqgan(shapes: Mapping[str, Shape], source: str, operations: Any) -> MoVQGAN:
    with torch.device("meta"):
        model = MoVQGAN(infer_config(shapes, source), operations)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_tensors(shapes, expected, source)
    return model


def _file(path: Path) -> Path:
    """The file itself, or the MoVQGAN in a folder."""
    if path.is_dir() and (found := find_movqgan(path)) is not None:
        return found
    return path


def _names_of(path: Path, checkpoint: Checkpoint | None) -> tuple[TensorStore, dict[str, str]]:
    """The tensors of a file, and the stored name of each of the MoVQGAN's by its own name.

    A converted checkpoint, and some trainers, put a prefix before all names.
    """
    is_open = checkpoint is not None and path in checkpoint.tensors.paths
    store = checkpoint.tensors if checkpoint is not None and is_open else TensorStore([path], EXPECTED)
    prefix = "" if read_single_file(path, store.metadata) is None else MOVQGAN_PREFIX
    stored = {name.removeprefix(prefix): name for name in store.shapes if name.startswith(prefix)}
    names = published_names(stored, str(path), ANCHORS)
    own = {names[name]: whole for name, whole in stored.items() if names[name].startswith(OWN_PARTS)}
    if foreign := len(stored) - len(own):
        logger.info("%s: ignored %d tensors of other modules", path.name, foreign)
    return store, own
