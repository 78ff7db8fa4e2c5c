"""The ComfyUI nodes: the only code here that imports ComfyUI, most of it through `comfy_adapter`."""
