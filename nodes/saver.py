"""Save Lumina Checkpoint."""

from __future__ import annotations

import itertools
from pathlib import Path

from comfy_api.latest import io

from ..lumina_core.checkpoint.single_file import INT4, ROUNDINGS
from ..lumina_core.convert import plan_conversion
from ..lumina_core.device import gigabytes
from ..lumina_core.lora.applied import in_use
from ..lumina_core.timing.amounts import Count
from . import comfy_adapter as comfy_ui
from . import folders
from .file_names import new_folders
from .node import LuminaNode
from .progress import Progress
from .stamps import check_unchanged
from .types import CATEGORY, LuminaModel, ManagedLumina
from .vae import MoVQGANVae, require_movqgan

# Stored workflows contain these names; new ones are appended.
SAVE_WEIGHTS = ["int4", "int8", "bf16", "fp8", "int8-dynamic"]
SAVE_ROUNDINGS = [*ROUNDINGS]
PREFIX = "lumina_mgpt2"


def save_checkpoint(
    model: ManagedLumina, vae: MoVQGANVae | None, weights: str, prefix: str, rounding: str | None = None
) -> Path:
    """Converts the files that a model was loaded from to one new file, tensor by tensor; returns its path.

    Two runs that save to one name at the same time write two files. Raises InputError and CheckpointError if it cannot
    be converted or written, and ComfyUI's own exception if the user cancelled. Then no file and no new folder is left.
    """
    check_unchanged(model)
    first = next(paths := folders.new_checkpoint_paths(prefix))
    source = model.lumina.checkpoint or folders.checkpoint_path(model.name)
    movqgan = None if vae is None else vae.source
    conversion = plan_conversion(source, weights, movqgan, comfy_ui.model_device(), rounding)
    progress = Progress(Count(len(conversion), "tensors"), f"converting to {weights}")
    with new_folders(first), progress:
        return conversion.write_new(
            itertools.chain([first], paths),
            on_step=progress.update,
            on_chunk=lambda _: comfy_ui.check_interrupted(),
        )


class SaveCheckpoint(LuminaNode):
    """Saves a loaded checkpoint as one file."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_SaveCheckpoint",
            display_name="Save Lumina Checkpoint",
            category=CATEGORY,
            description="Saves a checkpoint as one .safetensors file in models/lumina_mgpt2, with config, tokenizer "
            "and MoVQGAN, quantised or in bf16.",
            search_aliases=[
                *("quantize", "quantise", "int4", "int8", "convert", "export", "save model", "checkpoint save"),
            ],
            inputs=[
                LuminaModel.Input("model", tooltip="From Lumina Loader. Its files are read again."),
                io.Combo.Input(
                    "weights",
                    options=SAVE_WEIGHTS,
                    default=SAVE_WEIGHTS[0],
                    tooltip="Dtype of the weights in the file. A quantised checkpoint cannot be converted again.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default=PREFIX,
                    tooltip="Name of the file in models/lumina_mgpt2. A number is appended, so no file is overwritten. "
                    "May contain folders and %year%, %month%, %day% and so on.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="MoVQGAN to include, from Load MoVQGAN. Default: the checkpoint's own, if it has one.",
                ),
                io.Combo.Input(
                    "rounding",
                    options=SAVE_ROUNDINGS,
                    default=SAVE_ROUNDINGS[0],
                    optional=True,
                    tooltip="How int4 weights are quantised: to the nearest code, or with a zero fitted by HQQ, which "
                    "takes longer. No effect on other weights.",
                ),
            ],
            outputs=[io.String.Output(display_name="checkpoint", tooltip="Its name in Lumina Loader.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, model, weights=SAVE_WEIGHTS[0], filename_prefix=PREFIX, vae=None, rounding=SAVE_ROUNDINGS[0]
    ) -> io.NodeOutput:
        movqgan = None if vae is None else require_movqgan(vae)
        path = save_checkpoint(model, movqgan, weights, filename_prefix, rounding if weights == INT4 else None)
        name = folders.checkpoint_name(path)
        without = ", without the LoRAs" if in_use(model.lumina.loras) else ""
        comfy_ui.show_text(f"Saved {name}, {gigabytes(path.stat().st_size)}{without}")
        return io.NodeOutput(name)
