"""Load Lumina-mGPT 2.0 and Load MoVQGAN."""

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from comfy_api.latest import io

from ..lumina_core import operations
from ..lumina_core.checkpoint.config import TransformerConfig
from ..lumina_core.checkpoint.find import Checkpoint, open_checkpoint
from ..lumina_core.checkpoint.locate import CONFIG, locate
from ..lumina_core.errors import CheckpointError, LuminaError
from ..lumina_core.files.stamps import FileStamps
from ..lumina_core.memory import choose_weights, stays_resident
from ..lumina_core.model.compile import AUTO, COMPILE, OFF, captures, set_compile
from ..lumina_core.model.load import load_transformer
from ..lumina_core.model.transformer import Transformer
from ..lumina_core.movqgan.identity import check_codec
from ..lumina_core.movqgan.load import empty_movqgan, read_movqgan
from ..lumina_core.pipeline import Lumina, advise_conversion
from ..lumina_core.quant.weights import WeightsPlan
from ..lumina_core.tokens.tokenizer import TOKENIZER, tokenizer_paths
from . import comfy_adapter as comfy_ui
from . import folders
from .graph import LOAD_MODEL, LOAD_MOVQGAN, movqgans_used_with
from .patchers import patcher_of, resident_patcher_of
from .stamps import check_unchanged
from .types import CATEGORY, LuminaModel, ManagedLumina, ManagedTransformer
from .vae import load_movqgan_vae

logger = logging.getLogger(__name__)

# Stored workflows contain these names; new ones are appended.
WEIGHTS = ["auto", "bf16", "fp32", "int8", "int4"]
# Steps of the progress bar while a model loads.
LOAD_STEPS = 1000


def load_model(name: str, weights: str, compile: str, movqgans: Iterable[Path] = ()) -> ManagedLumina:
    """Loads a checkpoint by its name in the list, with its weights on the offload device.

    `movqgans` are the files that the graph uses with it. Raises InputError before the weights are read if one is of
    another model.
    """
    checkpoint = open_checkpoint(folders.checkpoint_path(name))
    stamps = FileStamps.of(checkpoint.files)
    for path in movqgans:
        check_codec_file(checkpoint, path)
    vocabulary, device, offload_device = checkpoint.vocabulary, comfy_ui.model_device(), comfy_ui.model_offload_device()
    total = comfy_ui.total_bytes(device)
    plan = choose_weights(weights, checkpoint.scheme, comfy_ui.compute_dtype(), checkpoint.config, total)
    advise_conversion(checkpoint, plan, single_files(), "the node Save Lumina Checkpoint")
    streamed = _is_streamed(plan, checkpoint.config, device)
    transformer = _load_weights(checkpoint, plan, streamed)
    set_compile(transformer, _compile_choice(compile, device))
    lumina = Lumina(transformer, vocabulary, checkpoint.tokenizer, checkpoint=checkpoint.path, files=stamps)
    managed = ManagedTransformer(transformer), device, offload_device
    patcher = patcher_of(*managed) if streamed else resident_patcher_of(*managed, lumina.runs.free)
    model = ManagedLumina(name, lumina, patcher)
    check_unchanged(model)
    return model


def _load_weights(checkpoint: Checkpoint, plan: WeightsPlan, streamed: bool) -> Transformer:
    """The transformer on the offload device, with progress. A cancel by the user ends the loading and frees it."""
    with comfy_ui.unloading_when_full():
        transformer = load_transformer(
            checkpoint,
            dtype=plan.dtype,
            device=comfy_ui.model_offload_device(),
            block_operations=comfy_ui.StreamedOperations if streamed else operations,
            weights=plan.choice,
            work_device=comfy_ui.model_device(),
            on_progress=comfy_ui.Progress(LOAD_STEPS).update_share,
        )
    transformer.streamed = streamed
    return transformer


def _compile_choice(compile: str, device: torch.device) -> str:
    if comfy_ui.cuda_graphs_disabled() and captures(compile, device):
        logger.info("compile is off, since ComfyUI was started with --disable-cuda-graphs")
        return OFF
    return compile


def check_codec_file(checkpoint: Checkpoint, path: Path) -> None:
    """Raises InputError for the file of a MoVQGAN that the checkpoint does not draw for.

    A file that cannot be read is left to Load MoVQGAN, which says what is wrong with it.
    """
    try:
        tensors = read_movqgan(path, checkpoint)
        config = empty_movqgan(tensors, str(path)).config
    except CheckpointError:
        return
    check_codec(checkpoint.config, config, tensors, str(path))


def _movqgans_in(graph: dict | None, checkpoint: str) -> list[Path]:
    """The files of the MoVQGANs that the graph uses with a checkpoint, as far as they exist."""
    files = folders.movqgan_paths()
    return [files[name] for name in movqgans_used_with(graph, checkpoint) if name in files]


def _is_streamed(plan: WeightsPlan, config: TransformerConfig, device: torch.device) -> bool:
    """Whether ComfyUI keeps plain weights in host memory, because they do not fit or it was started so.

    Quantised weights always stay on the device.
    """
    if plan.scheme is not None or device.type == "cpu":
        return False
    return comfy_ui.streams_weights() or not stays_resident(plan, config, comfy_ui.total_bytes(device))


def single_files() -> list[Path]:
    """The checkpoints in the list that are one file."""
    return [path for path in folders.checkpoint_paths().values() if path.is_file()]


def checkpoint_stamp(name: str) -> str:
    """A string that changes when a file of the checkpoint changes; empty if it is not found. Opens none of them."""
    try:
        place = locate(folders.checkpoint_path(name))
    except LuminaError:
        return ""
    return str(FileStamps.of((*place.files, place.root / CONFIG, *tokenizer_paths(place.root / TOKENIZER))))


class LoadModel(io.ComfyNode):
    """Loads a checkpoint from models/lumina_mgpt2, or the built-in demo."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=LOAD_MODEL,
            display_name="Load Lumina-mGPT 2.0",
            category=CATEGORY,
            description="Loads a Lumina-mGPT 2.0 transformer and its tokenizer.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=list(folders.checkpoint_paths()),
                    default=folders.DEMO_NAME,
                    tooltip="Folder or .safetensors file in models/lumina_mgpt2. The built-in demo is a tiny model "
                    "that draws coloured shapes at 64x64.",
                ),
                io.Combo.Input(
                    "weights",
                    options=WEIGHTS,
                    default="auto",
                    tooltip="Dtype of the weights. auto: as stored in a converted file, else bf16 (fp32 if the device "
                    "has no bf16) where the model stays on the device while it draws, else int4. int8 and int4: about "
                    "half and a quarter of the memory of bf16.",
                ),
                io.Combo.Input(
                    "compile",
                    options=list(COMPILE),
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="auto: CUDA graphs on a GPU, where they work and all weights fit. off: no CUDA graphs, "
                    "which is slower and draws the same picture. on: as auto.",
                ),
            ],
            outputs=[LuminaModel.Output(display_name="model")],
            hidden=[io.Hidden.prompt],
        )

    @classmethod
    def validate_inputs(cls, checkpoint=None):
        try:
            if checkpoint is not None:
                folders.checkpoint_path(checkpoint)
        except LuminaError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint, weights, compile=AUTO):
        return f"{checkpoint_stamp(checkpoint)}|{weights}|{compile}"

    @classmethod
    def execute(cls, checkpoint, weights, compile=AUTO) -> io.NodeOutput:
        # ComfyUI's cache does not look at the prompt: another node that changes loads nothing again.
        return io.NodeOutput(load_model(checkpoint, weights, compile, _movqgans_in(cls.hidden.prompt, checkpoint)))


class LoadMoVQGAN(io.ComfyNode):
    """Loads a MoVQGAN as a VAE for the nodes of this pack and the core nodes."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=LOAD_MOVQGAN,
            display_name="Load MoVQGAN",
            category=CATEGORY,
            description="Loads the VAE of Lumina-mGPT 2.0. VAE Decode and VAE Encode accept it.",
            inputs=[
                io.Combo.Input(
                    "movqgan",
                    options=list(folders.movqgan_paths()),
                    default=folders.DEMO_NAME,
                    tooltip="movqgan_270M.ckpt, or a .safetensors of it, in models/vae. The demo belongs to the demo "
                    "checkpoint.",
                ),
            ],
            outputs=[io.Vae.Output(display_name="vae")],
        )

    @classmethod
    def fingerprint_inputs(cls, movqgan):
        try:
            return str(FileStamps.of([folders.movqgan_path(movqgan)]))
        except LuminaError:
            return ""

    @classmethod
    def execute(cls, movqgan) -> io.NodeOutput:
        return io.NodeOutput(load_movqgan_vae(folders.movqgan_path(movqgan)))
