"""The parts of ComfyUI that the nodes use: memory, layers, progress and interrupt; for its folders see `folders`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

import comfy.model_management as management
import comfy.ops
import comfy.utils
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.utils import get_executing_context
from torch import Tensor, nn

from ..lumina_core import device as host
from ..lumina_core.errors import InputError
from ..lumina_core.errors import OutOfMemory as OutOfMemoryError
from ..lumina_core.kernels.linear import linear
from ..lumina_core.memory import Budget
from ..lumina_core.operations import RMSNorm

# The share of a GPU's memory that a run may use: the CUDA context and the desktop take the rest.
USABLE_SHARE = 0.95
# Devices whose memory is that of the host.
HOST_DEVICES = ("cpu", "mps")


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
    RMSNorm = RMSNorm


def model_device() -> torch.device:
    """The device that the transformer runs on. Raises InputError for DirectML."""
    device = management.get_torch_device()
    if device.type == "privateuseone":
        raise InputError("ComfyUI runs on DirectML, which this model does not run on; start ComfyUI without --directml")
    return device


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
    """The default dtype of the computation: bf16 if the device supports it well, else fp16 if it does, else fp32."""
    device = model_device()
    if management.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16 if management.should_use_fp16(device) else torch.float32


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


def memory_budget(streamed: bool, already_loaded: int = 0) -> Budget:
    """The memory that a run may use; `streamed`: ComfyUI streams plain linear weights in.

    Of a GPU it is a share of all memory, since ComfyUI unloads other models. Of a host it is what is available now and
    the `already_loaded` bytes, those of the run's weights, which the estimate of the run counts too.
    """
    device = model_device()
    available = host.available_bytes(device, already_loaded) if device.type in HOST_DEVICES else None
    return Budget(USABLE_SHARE * total_bytes(device) if available is None else available, streamed)


def total_bytes(device: torch.device) -> int:
    """All memory of a device; of a host within the limits of container and process."""
    limited = host.total_bytes(device) if device.type in HOST_DEVICES else None
    return management.get_total_memory(device) if limited is None else limited


def free_bytes(device: torch.device) -> int:
    """The memory of a device that a run can allocate now."""
    available = host.free_bytes(device) if device.type in HOST_DEVICES else None
    return management.get_free_memory(device) if available is None else available


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


def show_text(text: str) -> None:
    """Shows a line on the node that runs, in the frontend."""
    context, server = get_executing_context(), sys.modules.get("server")
    with contextlib.suppress(Exception):  # only shown, and the log says it too
        if context is not None and server is not None:
            server.PromptServer.instance.send_progress_text(text, context.node_id)


def preview_wanted() -> bool:
    """Whether previews are on, by `--preview-method` or the setting of the frontend."""
    return args.preview_method != LatentPreviewMethod.NoPreviews


def tiled(samples: Tensor, function, tile: tuple[int, int], overlap: int, scale: float, channels: int) -> Tensor:
    """`function` over overlapping tiles (x, y) of [B,C,H,W], blended to `channels` at `scale` times the size."""
    options = {"upscale_amount": scale, "out_channels": channels, "output_device": output_device()}
    return comfy.utils.tiled_scale(samples, function, *tile, min(overlap, min(tile) // 2), **options)
