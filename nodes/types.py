"""The pack's own link types and the values that travel on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from torch import nn

from ..lumina_core.model import Transformer
from ..lumina_core.tokenizer import Tokenizer
from ..lumina_core.vocabulary import Vocabulary

CATEGORY = "Lumina-mGPT 2.0"

LuminaModel = io.Custom("LUMINA_MGPT2")
LuminaPrompt = io.Custom("LUMINA_PROMPT")


class ManagedTransformer(nn.Module):
    """The transformer in the form that ComfyUI's model patcher handles: it sets attributes such as `device` on it."""

    def __init__(self, transformer: Transformer):
        super().__init__()
        self.transformer = transformer


@dataclass(frozen=True)
class LoadedModel:
    """A loaded checkpoint: what flows on a LUMINA_MGPT2 link. `patcher` is ComfyUI's handle on the weights."""

    name: str
    transformer: Transformer
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    patcher: Any

    def is_dynamic(self) -> bool:
        """Whether ComfyUI's dynamic VRAM moves the weights; ComfyUI's cache asks."""
        is_dynamic = getattr(self.patcher, "is_dynamic", None)
        return bool(is_dynamic and is_dynamic())


@dataclass(frozen=True)
class TaskPromptData:
    """What to draw: the task, its full prompt as the model reads it, and the canvas in pixels."""

    task: str
    text: str
    width: int
    height: int
