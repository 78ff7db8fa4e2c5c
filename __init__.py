"""Lumina-mGPT 2.0 for ComfyUI. Importable without ComfyUI: `comfy_entrypoint` imports the nodes."""

import logging

from .nodes.requirements import unknown_entrypoint, unmet_requirement

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint():
    """The entry point that ComfyUI calls: returns the extension of this node pack.

    Raises ImportError where ComfyUI, PyTorch or a package is missing or too old; ComfyUI logs it in one line.
    """
    if reason := unmet_requirement():
        raise ImportError(reason)
    from .nodes.extension import LuminaMGPT2Extension

    return LuminaMGPT2Extension()


if _reason := unknown_entrypoint():
    logging.getLogger(__name__).error(_reason)
