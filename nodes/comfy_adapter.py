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

from ..lumina_core.checkpoint.find import DEMO, DEMO_FOLDER, find_movqgan
from ..lumina_core.errors import InputError
from ..lumina_core.errors import OutOfMemory as OutOfMemoryError
from ..lumina_core.kernels.linear import linear
from ..lumina_core.memory import Budget

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


def checkpoint_names() -> list[str]:
    """The demo, then every checkpoint in the model folders: a folder with a config.json, or a single file."""
    files = [Path(name) for name in folder_paths.get_filename_list(MODEL_FOLDER)]
    folders = {file.parent for file in files if file.name == "config.json"} - {Path(".")}
    singles = [
        file
        for file in files
        if file.suffix == ".safetensors" and file.parent not in folders and not file.name.startswith("movqgan")
    ]
    return [DEMO_NAME, *sorted(path.as_posix() for path in (*folders, *singles))]


def checkpoint_path(name: str) -> str:
    """The path of a checkpoint in the list. Raises InputError when it does not exist (any more)."""
    if name == DEMO_NAME:
        return DEMO
    if name in checkpoint_names():
        for root in folder_paths.get_folder_paths(MODEL_FOLDER):
            if os.path.exists(os.path.join(root, name)):
                return os.path.join(root, name)
    raise InputError(f"the checkpoint {name!r} is not in models/{MODEL_FOLDER}; choose another or put it there")


def new_checkpoint_path(prefix: str) -> Path:
    """The path of a new file in models/lumina_mgpt2: the prefix and a number, as in ComfyUI's save nodes.

    Raises InputError for a prefix outside the folder, or one that the loader would not list.
    """
    root = os.path.join(folder_paths.models_dir, MODEL_FOLDER)
    try:
        folder, name, number, *_ = folder_paths.get_save_image_path(prefix, root)
    except Exception as error:  # what ComfyUI raises for a prefix outside the folder
        raise InputError(f"filename_prefix is {prefix!r}; expected a name in models/{MODEL_FOLDER}: {error}") from error
    inside = Path(folder) != Path(root) and os.path.exists(os.path.join(folder, "config.json"))
    if name in (".", "..") or name.lower().startswith("movqgan") or inside:
        raise InputError(
            f"filename_prefix is {prefix!r}; expected a name that does not begin with movqgan and is not in the "
            "folder of a checkpoint, since the loader would not list the file"
        )
    while os.path.exists(path := os.path.join(folder, f"{name}_{number:05}_.safetensors")):
        number += 1
    return Path(path)


def checkpoint_name(path: Path) -> str:
    """The name in the list of a file in models/lumina_mgpt2."""
    return path.relative_to(os.path.join(folder_paths.models_dir, MODEL_FOLDER)).as_posix()


def movqgan_names() -> list[str]:
    """The demo, then the files in models/vae, those with "movqgan" in the name first."""
    names = folder_paths.get_filename_list(VAE_FOLDER)
    return [DEMO_NAME, *sorted(names, key=lambda name: ("movqgan" not in name.lower(), name))]


def movqgan_path(name: str) -> Path:
    """The path of a MoVQGAN in the list. Raises InputError when it does not exist (any more)."""
    found = find_movqgan(DEMO_FOLDER) if name == DEMO_NAME else folder_paths.get_full_path(VAE_FOLDER, name)
    if found is None:
        raise InputError(f"the MoVQGAN {name!r} is not in models/{VAE_FOLDER}; choose another or put it there")
    return Path(found)


def file_stamp(paths: Sequence[Path]) -> str:
    """A string that changes when a file changes, so that a replaced file is loaded again."""
    stats = [(path, path.stat()) for path in paths if path.is_file()]
    return ";".join(f"{path}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in stats)


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


def tiled(samples: Tensor, function, tile: tuple[int, int], overlap: int, scale: float, channels: int) -> Tensor:
    """`function` over overlapping tiles (x, y) of [B,C,H,W], blended to `channels` at `scale` times the size."""
    options = {"upscale_amount": scale, "out_channels": channels, "output_device": output_device()}
    return comfy.utils.tiled_scale(samples, function, *tile, min(overlap, min(tile) // 2), **options)
