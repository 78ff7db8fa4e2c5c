"""Inference engine of Lumina-mGPT 2.0: transformer, MoVQGAN, tokenizer, decoding. Independent of ComfyUI.

from lumina_core import Lumina

lumina = Lumina.load("demo")
lumina.draw("a red circle left of a blue square", width=64, height=64, seed=1).images[0].save("picture.png")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpoint.find import load_tokenizer
    from .decoding.settings import DecodeSettings
    from .model.load import load_transformer
    from .model.transformer import Transformer
    from .movqgan.autoencoder import MoVQGAN
    from .movqgan.load import load_movqgan
    from .pipeline import Drawing, Lumina
    from .tokens.tokenizer import Tokenizer

# Imported on first access, so that one part can be used without the others.
_MODULES = {
    "DecodeSettings": "decoding.settings",
    "Drawing": "pipeline",
    "Lumina": "pipeline",
    "MoVQGAN": "movqgan.autoencoder",
    "Tokenizer": "tokens.tokenizer",
    "Transformer": "model.transformer",
    "load_movqgan": "movqgan.load",
    "load_tokenizer": "checkpoint.find",
    "load_transformer": "model.load",
}

__all__ = [
    "DecodeSettings",
    "Drawing",
    "Lumina",
    "MoVQGAN",
    "Tokenizer",
    "Transformer",
    "load_movqgan",
    "load_tokenizer",
    "load_transformer",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
