"""Lumina-mGPT 2.0 for ComfyUI. Importable without ComfyUI: `comfy_entrypoint` imports the nodes."""

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint():
    """The entry point that ComfyUI calls: returns the extension of this node pack."""
    from .nodes.extension import LuminaMGPT2Extension

    return LuminaMGPT2Extension()
