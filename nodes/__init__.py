"""The ComfyUI nodes. No other package imports ComfyUI; most of these imports are in `comfy_adapter`."""
