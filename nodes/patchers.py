"""ComfyUI's model patchers: which weights stay on a device, and which are streamed in."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_patcher
import torch
from torch import nn


def patcher_of(module: nn.Module, device: torch.device, offload_device: torch.device):
    """ComfyUI's model patcher of a module: that of dynamic VRAM if ComfyUI has it."""
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return kind(module, load_device=device, offload_device=offload_device)


class ResidentPatcher(comfy.model_patcher.ModelPatcher):
    """The model patcher of a module whose weights all stay on the device, at fixed addresses, until ComfyUI unloads it.

    Dynamic VRAM brings in weights one by one as they are used; it copies all that it cannot bring in again at every
    load, and does not unload them for another model. `free_first` frees what else the module holds on the device and
    returns its bytes; it is called before weights are unloaded.
    """

    free_first: Callable[[], int] = staticmethod(lambda: 0)

    def load(self, device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False):
        super().load(device_to, lowvram_model_memory, force_patch_weights, full_load=True)

    def partially_unload(self, device_to, memory_to_free=0, **options):
        freed = self.free_first()
        if freed >= memory_to_free:
            return freed
        return freed + super().partially_unload(device_to, memory_to_free - freed, **options)

    def detach(self, unpatch_all=True):
        # Every load begins with a detach that leaves the weights in place.
        if unpatch_all:
            self.free_first()
        return super().detach(unpatch_all)

    def clone(self, *args, **kwargs):
        copy = super().clone(*args, **kwargs)
        copy.free_first = self.free_first
        return copy


def resident_patcher_of(
    module: nn.Module, device: torch.device, offload_device: torch.device, free_first: Callable[[], int]
) -> ResidentPatcher:
    """The patcher of a module whose weights all stay on the device."""
    patcher = ResidentPatcher(module, load_device=device, offload_device=offload_device)
    patcher.free_first = free_first
    return patcher


def keep_resident(module: nn.Module, device: torch.device) -> None:
    """Brings to the device what ComfyUI cannot stream in and may have left on the CPU when short of memory."""
    for layer in module.modules():
        if not hasattr(layer, "comfy_cast_weights"):
            for name, weight in layer.named_parameters(recurse=False):
                if weight.device != device:
                    setattr(layer, name, nn.Parameter(weight.to(device), requires_grad=False))
