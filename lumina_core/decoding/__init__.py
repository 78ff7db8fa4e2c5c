"""Decoding: from a prompt's tokens to a grid of codes, one or several tokens a forward."""

from .canvas import Canvas
from .decode import Prefix, cache_length, check_window, decode
from .settings import DECODERS, MAX_SEED, MAX_WINDOW, NEW_DRAFTS, DecodeResult, DecodeSettings, StepReport

__all__ = [
    "DECODERS",
    "MAX_SEED",
    "MAX_WINDOW",
    "NEW_DRAFTS",
    "Canvas",
    "DecodeResult",
    "DecodeSettings",
    "Prefix",
    "StepReport",
    "cache_length",
    "check_window",
    "decode",
]
