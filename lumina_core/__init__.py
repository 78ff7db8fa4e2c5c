"""The engine of Lumina-mGPT 2.0, independent of ComfyUI. `Lumina.load` and `Lumina.draw` do it all (docs/python.md)."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as in `typing`, whose import takes longer than all else of the command line's first moments
if TYPE_CHECKING:
    from .checkpoint.find import load_tokenizer as load_tokenizer
    from .decoding.settings import DecodeSettings as DecodeSettings
    from .model.load import load_transformer as load_transformer
    from .model.transformer import Transformer as Transformer
    from .movqgan.autoencoder import MoVQGAN as MoVQGAN
    from .movqgan.load import load_movqgan as load_movqgan
    from .pipeline import Drawing as Drawing
    from .pipeline import Lumina as Lumina
    from .tokens.tokenizer import Tokenizer as Tokenizer

# Each name is imported on first use, so that a part of the engine can be imported without the rest.
_MODULES = {
    "Lumina": "pipeline",
    "Drawing": "pipeline",
    "DecodeSettings": "decoding.settings",
    "load_transformer": "model.load",
    "Transformer": "model.transformer",
    "load_movqgan": "movqgan.load",
    "MoVQGAN": "movqgan.autoencoder",
    "load_tokenizer": "checkpoint.find",
    "Tokenizer": "tokens.tokenizer",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
