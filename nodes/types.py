"""The link types of this pack and their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from comfy_api.latest import io
from torch import Tensor, nn

from ..lumina_core.model.transformer import Transformer
from ..lumina_core.pictures.sizes import Size, fill_size
from ..lumina_core.pipeline import Lumina
from ..lumina_core.tokens.prompt_text import PromptText
from ..lumina_core.tokens.prompts import build_negative, build_prompt, find_template

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
    """A loaded model (LUMINA_MGPT2): `patcher` is ComfyUI's handle of its weights, `name` its name in the list.

    Models with other LoRAs share the weights and the patcher: `lumina` has the LoRAs and wears them for a run alone.
    """

    name: str
    lumina: Lumina
    patcher: Any

    def with_lora(self, path: Path, strength: float) -> ManagedLumina:
        """The same model with a LoRA on top of those that it has. Raises InputError and CheckpointError."""
        return replace(self, lumina=self.lumina.with_loras((path, strength)))

    def is_dynamic(self) -> bool:
        """Whether dynamic VRAM moves the weights. ComfyUI's cache calls this."""
        is_dynamic = getattr(self.patcher, "is_dynamic", None)
        return bool(is_dynamic and is_dynamic())


@dataclass(frozen=True)
class CanvasData:
    """A canvas with given top rows: `pixels` [B,h,width,3] in 0…1 and their `codes` [B,h/8,width/8].

    With a `mask` [B,height/8,width/8] (bool) both are whole, and only codes where it is true are drawn. `width` and
    `height` are the size of the whole canvas in pixels. `is_view`: the pixels are the codes decoded without the rows
    below, to be looked at. `panels` is 2 where the given rows are the upper panel of a task.
    """

    width: int
    height: int
    codes: Tensor
    pixels: Tensor
    is_view: bool = False
    panels: int = 1
    mask: Tensor | None = None

    @property
    def given_height(self) -> int:
        """Height of the part above what is drawn; with a mask, that of the upper half."""
        return self.pixels.shape[1] if self.mask is None else self.height // 2


@dataclass(frozen=True)
class TaskPromptData:
    """What to draw: the arguments of `build_prompt`. `width` and `height` are the size of the whole canvas.

    A side of 0 is that of the model, a blank template the built-in one. `has_canvas`: the size is that of a canvas.
    """

    task: str
    prompt: str
    width: int
    height: int
    map: str | None = None
    object: str | None = None
    template: str = ""
    has_canvas: bool = False
    negative: str = ""

    @cached_property
    def text(self) -> PromptText:
        """The full prompt that the model reads, and which of it is typed; sides that are 0 are placeholders in it.

        Raises InputError for missing inputs.
        """
        return build_prompt(*self._place, self.prompt, *self._inputs)

    @cached_property
    def negative_text(self) -> PromptText | None:
        """The full prompt of the unconditional branch; None where `negative` is blank."""
        return build_negative(*self._place, self.negative, *self._inputs)

    @property
    def _place(self) -> tuple[str, int | None, int | None]:
        return self.task, self.width or None, self.height or None

    @property
    def _inputs(self) -> tuple[str | None, str | None, str | None]:
        return self.map, self.object, self.template if self.template.strip() else None

    def on_canvas(self, canvas: CanvasData) -> TaskPromptData:
        """The same prompt at the size of a canvas."""
        return replace(self, width=canvas.width, height=canvas.height, has_canvas=True)

    def sized(self, trained_sizes: Sequence[Size] | None) -> TaskPromptData:
        """The same prompt, sides that are 0 replaced by those of the sizes that a model was trained on."""
        panels = find_template(self.task).panels
        width, height = fill_size(self.width, self.height, trained_sizes, panels)
        return replace(self, width=width, height=height)
