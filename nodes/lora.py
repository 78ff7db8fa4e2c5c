"""Load LoRA for Lumina-mGPT 2.0."""

from __future__ import annotations

from comfy_api.latest import io

from ..lumina_core.errors import LuminaError
from ..lumina_core.files.stamps import FileStamps
from ..lumina_core.lora.file import files_read
from . import folders
from .graph import LOAD_LORA
from .node import LuminaNode
from .types import CATEGORY, LuminaModel

STRENGTH, MOST_STRENGTH = 1.0, 10.0


def lora_stamp(name: str) -> str:
    """A string that changes when a LoRA's file, or PEFT's config beside it, changes; empty if it is not found."""
    try:
        return str(FileStamps.of(files_read(folders.lora_path(name))))
    except LuminaError:
        return ""


class LoadLoRA(LuminaNode):
    """Adds a LoRA to a loaded model, which stays as it is for the nodes before this one."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=LOAD_LORA,
            display_name="Load LoRA for Lumina-mGPT 2.0",
            category=CATEGORY,
            description="Adds a LoRA to the model, at any dtype of the weights. Connect several of these nodes one "
            "after the other to use several LoRAs.",
            search_aliases=[
                *("lora", "load lora", "lora loader", "LoraLoaderModelOnly", "peft", "adapter", "style", "lumina"),
                *("fine-tune", "finetune", "加载 LoRA"),
            ],
            inputs=[
                LuminaModel.Input("model", tooltip="From Lumina Loader, or another node that loads a LoRA."),
                io.Combo.Input(
                    "lora_name",
                    options=list(folders.lora_paths()),
                    tooltip="LoRA of Lumina-mGPT 2.0 in models/loras, as PEFT, diffusers or kohya's scripts write it, "
                    "or one of the demo.",
                ),
                io.Float.Input(
                    "strength",
                    default=STRENGTH,
                    min=-MOST_STRENGTH,
                    max=MOST_STRENGTH,
                    step=0.01,
                    round=0.001,
                    tooltip="Factor of what the LoRA adds. 0 is the model without it, a negative number the opposite.",
                ),
            ],
            outputs=[LuminaModel.Output(display_name="model", tooltip="The model with the LoRA, for Lumina Sampler.")],
        )

    @classmethod
    def fingerprint_inputs(cls, model=None, lora_name="", strength=STRENGTH):
        return f"{lora_stamp(lora_name)}|{strength}"

    @classmethod
    def execute(cls, model, lora_name, strength=STRENGTH) -> io.NodeOutput:
        if strength == 0:
            return io.NodeOutput(model)
        return io.NodeOutput(model.with_lora(folders.lora_path(lora_name), strength))
