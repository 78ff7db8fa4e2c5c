"""The parts of ComfyUI that the nodes use: model folders, memory, layers, progress and interrupt."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import comfy.model_management as management
import comfy.ops
import comfy.utils
import folder_paths
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image
from torch import Tensor, nn

from ..lumina_core.checkpoint.find import CONFIG, DEMO_FOLDER, find_movqgan
from ..lumina_core.errors import InputError
from ..lumina_core.errors import OutOfMemory as OutOfMemoryError
from ..lumina_core.kernels.linear import linear
from ..lumina_core.memory import Budget
from . import model_names
from .file_names import numbered_paths, prefix_path

MODEL_FOLDER = "lumina_mgpt2"
VAE_FOLDER = "vae"
DEMO_NAME = "demo (built in)"
# The share of a device's memory that a run may use: the CUDA context and the desktop take the rest.
USABLE_SHARE = 0.95


# Folders


def register_model_folder() -> None:
    """Registers `models/lumina_mgpt2` with ComfyUI, in addition to the folders of extra_model_paths.yaml."""
    folder = os.path.join(folder_paths.models_dir, MODEL_FOLDER)
    folder_paths.add_model_folder_path(MODEL_FOLDER, folder)
    with contextlib.suppress(OSError):  # a read-only models folder has no checkpoint
        os.makedirs(folder, exist_ok=True)


def checkpoint_paths() -> dict[str, Path]:
    """The demo, then every checkpoint in the model folders, by name."""
    found = model_names.checkpoint_paths(*_files_of(MODEL_FOLDER))
    found.pop(DEMO_NAME, None)
    return {DEMO_NAME: DEMO_FOLDER} | dict(sorted(found.items()))


def checkpoint_path(name: str) -> Path:
    """The path of a checkpoint in the list, or of a file in the model folders that the list leaves out.

    Earlier versions listed the files of a checkpoint that lies in a model folder itself. Raises InputError when it does
    not exist (any more).
    """
    path = checkpoint_paths().get(name) or model_names.file_paths(*_files_of(MODEL_FOLDER)).get(name)
    if path is None:
        raise InputError(
            f"the checkpoint {name!r} is not in list: models/{MODEL_FOLDER} does not have it; choose another or put it "
            "there"
        )
    return path


def new_checkpoint_paths(prefix: str) -> Iterator[Path]:
    """Paths of a new file in models/lumina_mgpt2, in order of preference: the prefix and a number.

    No model folder has a file of that name. Raises InputError for a prefix outside the folder, one that some system
    cannot store, or one that the loader would not list.
    """
    root = Path(folder_paths.models_dir, MODEL_FOLDER)
    path = prefix_path(prefix, "filename_prefix", "_00001_.safetensors")
    inside = path.parent.parts and (root / path.parent / CONFIG).exists()
    if path.name.lower().startswith(model_names.MOVQGAN) or inside:
        raise InputError(
            f"filename_prefix is {prefix!r}; expected a name that does not begin with movqgan and is not in the "
            "folder of a checkpoint, since the loader would not list the file"
        )
    return numbered_paths(root, path, ".safetensors", map(Path, folder_paths.get_folder_paths(MODEL_FOLDER)))


def checkpoint_name(path: Path) -> str:
    """The name in the list of a file that was saved. Raises InputError if the list does not have it."""
    name = model_names.name_of(path, checkpoint_paths())
    if name is None:
        raise InputError(f"{path} was saved, but Load Lumina-mGPT 2.0 does not list it; move it to a folder of its own")
    return name


def movqgan_paths() -> dict[str, Path]:
    """The demo, then the files in models/vae, by name, those with "movqgan" in the name first."""
    own = find_movqgan(DEMO_FOLDER)
    assert own is not None, "the demo has a MoVQGAN"
    found = model_names.file_paths(*_files_of(VAE_FOLDER))
    order = sorted(found, key=lambda name: (model_names.MOVQGAN not in name.lower(), name))
    return {DEMO_NAME: own} | {name: found[name] for name in order}


def movqgan_path(name: str) -> Path:
    """The path of a MoVQGAN in the list. Raises InputError when it does not exist (any more)."""
    path = movqgan_paths().get(name)
    if path is None:
        raise InputError(f"the MoVQGAN {name!r} is not in models/{VAE_FOLDER}; choose another or put it there")
    return path


def _files_of(kind: str) -> tuple[list[Path], list[str]]:
    """ComfyUI's folders of a kind of model, and the paths of all files below them."""
    return [Path(root) for root in folder_paths.get_folder_paths(kind)], folder_paths.get_filename_list(kind)


# Values


def nothing(why: str) -> ExecutionBlocker:
    """The value of an output that has none: nodes that use it do not run, and ComfyUI shows the reason."""
    return ExecutionBlocker(why)


# Memory


class Operations(comfy.ops.disable_weight_init):
    """ComfyUI's layers, which it can move, offload and cast. State dicts load as in torch, also under dynamic VRAM."""

    class Linear(comfy.ops.disable_weight_init.Linear):
        def forward(self, x):
            # ComfyUI's forward casts and patches weights. Weights used on the CPU in their own dtype need neither.
            on_cpu = x.device.type == self.weight.device.type == "cpu" and self.weight.dtype == x.dtype
            return linear(x, self.weight) if on_cpu and not self.weight_function else super().forward(x)

        def _load_from_state_dict(self, *args, **kwargs):
            nn.Module._load_from_state_dict(self, *args, **kwargs)

    class GroupNorm(comfy.ops.disable_weight_init.GroupNorm):
        def cast_affine(self, like):
            """Weight and bias on the device and in the dtype of `like`, for decoding in strips."""
            weight, bias, stream = comfy.ops.cast_bias_weight(self, like, offloadable=True)
            weight, bias = weight.clone(), bias.clone()
            comfy.ops.uncast_bias_weight(self, self.weight, self.bias, stream)
            return weight, bias

    class Embedding(comfy.ops.disable_weight_init.Embedding):
        def _load_from_state_dict(self, *args, **kwargs):
            nn.Module._load_from_state_dict(self, *args, **kwargs)


class StreamedOperations:
    """Layers of a transformer's blocks of which ComfyUI streams in the linear weights; norms stay on the device."""

    Linear = Operations.Linear
    RMSNorm = nn.RMSNorm


def model_device() -> torch.device:
    """The device that the transformer runs on."""
    return management.get_torch_device()


def model_offload_device() -> torch.device:
    """The device that holds the transformer while it is not in use."""
    return management.unet_offload_device()


def vae_device() -> torch.device:
    """The device that the MoVQGAN runs on."""
    return management.vae_device()


def vae_offload_device() -> torch.device:
    """The device that holds the MoVQGAN while it is not in use."""
    return management.vae_offload_device()


def output_device() -> torch.device:
    """The device that ComfyUI keeps pictures and latents on."""
    return management.intermediate_device()


def compute_dtype() -> torch.dtype:
    """The default dtype of the computation: bf16 if the device supports it well, else fp32."""
    return torch.bfloat16 if management.should_use_bf16(model_device()) else torch.float32


def vae_dtype() -> torch.dtype:
    """fp32, whose codes the transformer was trained on, unless ComfyUI was started with another VAE dtype."""
    return management.vae_dtype(vae_device(), [torch.float32])


def streams_weights() -> bool:
    """Whether ComfyUI was started to keep weights in host memory (--lowvram, --novram)."""
    return management.vram_state in (management.VRAMState.LOW_VRAM, management.VRAMState.NO_VRAM)


def cuda_graphs_disabled() -> bool:
    """Whether ComfyUI was started with --disable-cuda-graphs."""
    return bool(getattr(args, "disable_cuda_graphs", False))


def load(patchers: Sequence, bytes_needed: float) -> None:
    """Loads models on their devices and frees `bytes_needed` there for the run."""
    management.load_models_gpu(list(patchers), memory_required=bytes_needed)


def memory_budget(streamed: bool) -> Budget:
    """The memory that a run may use; `streamed`: ComfyUI streams plain linear weights in."""
    return Budget(USABLE_SHARE * total_bytes(model_device()), streamed)


def total_bytes(device: torch.device) -> int:
    return management.get_total_memory(device)


def free_bytes(device: torch.device) -> int:
    """The memory of a device that a run can allocate now."""
    return management.get_free_memory(device)


@contextlib.contextmanager
def unloading_when_full() -> Iterator[None]:
    """Unloads every model if the body runs out of memory, as ComfyUI does for its own errors."""
    try:
        yield
    except OutOfMemoryError:
        management.unload_all_models()
        raise
    finally:
        release_memory()


def release_memory() -> None:
    """Frees the cached memory that a run no longer uses."""
    management.soft_empty_cache()


# Progress


def check_interrupted_at_layers(module: nn.Module) -> None:
    """Adds a check for the user's interrupt before every convolution of a module."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(lambda *_: check_interrupted())


def check_interrupted() -> None:
    """Raises ComfyUI's own exception if the user cancelled. It must not be caught."""
    management.throw_exception_if_processing_interrupted()


def preview_wanted() -> bool:
    """Whether previews are on, by `--preview-method` or the setting of the frontend."""
    return args.preview_method != LatentPreviewMethod.NoPreviews


class Progress:
    """ComfyUI's progress bar of the current node."""

    def __init__(self, total: int):
        self._bar = comfy.utils.ProgressBar(total)

    def update(self, done: int, preview: Image.Image | None = None) -> None:
        """Shows `done` steps and a preview. Raises ComfyUI's exception if the user cancelled."""
        self._bar.update_absolute(done, preview=None if preview is None else ("JPEG", preview, args.preview_size))

    def update_share(self, done: float, total: float) -> None:
        """Shows `done` of `total`. Raises ComfyUI's exception if the user cancelled."""
        check_interrupted()
        self.update(int(self._bar.total * done / max(total, 1)))


def tiled(samples: Tensor, function, tile: tuple[int, int], overlap: int, scale: float, channels: int) -> Tensor:
    """`function` over overlapping tiles (x, y) of [B,C,H,W], blended to `channels` at `scale` times the size."""
    options = {"upscale_amount": scale, "out_channels": channels, "output_device": output_device()}
    return comfy.utils.tiled_scale(samples, function, *tile, min(overlap, min(tile) // 2), **options)
