"""The link types of this pack and their values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from comfy_api.latest import io
from torch import Tensor, nn

from ..lumina_core.model.transformer import Transformer
from ..lumina_core.pipeline import Lumina
from ..lumina_core.tokens.prompt_text import PromptText
from ..lumina_core.tokens.prompts import build_prompt

CATEGORY = "Lumina-mGPT 2.0"

LuminaModel = io.Custom("LUMINA_MGPT2")
LuminaPrompt = io.Custom("LUMINA_PROMPT")
LuminaCanvas = io.Custom("LUMINA_CANVAS")


class ManagedTransformer(nn.Module):
    """The transformer for ComfyUI's model patcher, which sets attributes such as `device` on its module."""

    def __init__(self, transformer: Transformer):
        super().__init__()
        self.transformer = transformer


@dataclass(frozen=True)
class ManagedLumina:
    """A loaded model (LUMINA_MGPT2): `patcher` is ComfyUI's handle of its weights, `name` its name in the list."""

    name: str
    lumina: Lumina
    patcher: Any

    def is_dynamic(self) -> bool:
        """Whether dynamic VRAM moves the weights. ComfyUI's cache calls this."""
        is_dynamic = getattr(self.patcher, "is_dynamic", None)
        return bool(is_dynamic and is_dynamic())


@dataclass(frozen=True)
class CanvasData:
    """A canvas with given top rows: `pixels` [B,h,width,3] in 0…1 and their `codes` [B,h/8,width/8].

    `width` and `height` are the size of the whole canvas in pixels. `is_view`: the pixels are the codes decoded
    without the rows below, to be looked at.
    """

    width: int
    height: int
    codes: Tensor
    pixels: Tensor
    is_view: bool = False

    @property
    def given_height(self) -> int:
        return self.pixels.shape[1]


@dataclass(frozen=True)
class TaskPromptData:
    """What to draw: the arguments of `build_prompt`. `width` and `height` are the size of the whole canvas."""

    task: str
    prompt: str
    width: int
    height: int
    map: str | None = None
    object: str | None = None
    template: str | None = None

    @cached_property
    def text(self) -> PromptText:
        """The full prompt that the model reads, and which of it is typed. Raises InputError for missing inputs."""
        return build_prompt(self.task, self.width, self.height, self.prompt, self.map, self.object, self.template)

    def on_canvas(self, canvas: CanvasData) -> TaskPromptData:
        """The same prompt at the size of a canvas."""
        if (self.width, self.height) == (canvas.width, canvas.height):
            return self
        return replace(self, width=canvas.width, height=canvas.height)
