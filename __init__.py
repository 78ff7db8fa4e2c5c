"""Lumina-mGPT 2.0 for ComfyUI. Importable without ComfyUI: the nodes load when ComfyUI asks for them."""

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint():
    """The pack's extension, for ComfyUI."""
    from .nodes.extension import LuminaMGPT2Extension

    return LuminaMGPT2Extension()
