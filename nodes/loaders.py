"""Lumina Loader and Load MoVQGAN."""

import contextlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..lumina_core import operations
from ..lumina_core.checkpoint.config import TransformerConfig
from ..lumina_core.checkpoint.find import Checkpoint, open_checkpoint
from ..lumina_core.checkpoint.locate import CONFIG, MOVQGAN_NAMES, find_movqgan, locate
from ..lumina_core.errors import CheckpointError, InputError, LuminaError
from ..lumina_core.files.stamps import FileStamps
from ..lumina_core.memory import choose_weights, stays_resident
from ..lumina_core.model.compile import AUTO, COMPILE, OFF, captures, set_compile
from ..lumina_core.model.load import load_transformer
from ..lumina_core.model.transformer import Transformer
from ..lumina_core.movqgan.identity import check_codec
from ..lumina_core.movqgan.load import identify_movqgan
from ..lumina_core.pictures.sizes import Size
from ..lumina_core.pipeline import Lumina, advise_conversion
from ..lumina_core.quant.weights import WeightsPlan
from ..lumina_core.tokens.tokenizer import TOKENIZER, tokenizer_paths
from . import comfy_adapter as comfy_ui
from . import folders
from .graph import LOAD_MODEL, LOAD_MOVQGAN, is_used, movqgans_used_with
from .node import LuminaNode
from .patchers import patcher_of, resident_patcher_of
from .progress import loading_progress
from .stamps import check_unchanged
from .types import CATEGORY, LuminaModel, ManagedLumina, ManagedTransformer
from .vae import MoVQGANVae, load_movqgan_vae

logger = logging.getLogger(__name__)

VAE_OUTPUT = 1
# Stored workflows contain these names; new ones are appended.
WEIGHTS = ["auto", "bf16", "fp32", "int8", "int4", "fp16", "fp8", "int8-dynamic"]


def load_model(
    name: str, checkpoint: Checkpoint, weights: str, compile: str, movqgans: Iterable[Path] = ()
) -> ManagedLumina:
    """Loads an opened checkpoint, named so in the list, with its weights on the offload device.

    `movqgans` are the files that the graph uses with it. Raises InputError before the weights are read if one is of
    another model.
    """
    stamps = FileStamps.of(checkpoint.files)
    for path in movqgans:
        with contextlib.suppress(CheckpointError):  # Load MoVQGAN says what is wrong with the file
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
    with comfy_ui.unloading_when_full(), loading_progress(checkpoint, plan) as progress:
        transformer = load_transformer(
            checkpoint,
            dtype=plan.dtype,
            device=comfy_ui.model_offload_device(),
            block_operations=comfy_ui.StreamedOperations if streamed else operations,
            weights=plan.choice,
            work_device=comfy_ui.model_device(),
            on_progress=progress.update_share,
        )
    transformer.streamed = streamed
    return transformer


def _compile_choice(compile: str, device: torch.device) -> str:
    if comfy_ui.cuda_graphs_disabled() and captures(compile, device):
        logger.info("compile is off, since ComfyUI was started with --disable-cuda-graphs")
        return OFF
    return compile


def check_codec_file(checkpoint: Checkpoint, path: Path) -> None:
    """Raises InputError for the file of a MoVQGAN that the checkpoint does not draw for, by header and a few tensors.

    Raises CheckpointError for one that cannot be read.
    """
    config, tensors = identify_movqgan(path, checkpoint)
    check_codec(checkpoint.config, config, tensors, str(path))


def find_codec(checkpoint: Checkpoint) -> Path:
    """The file of the MoVQGAN that a checkpoint draws for: its own, or one in models/vae. Raises InputError."""
    own = [] if checkpoint.movqgan is None else [checkpoint.movqgan]
    found = next((path for path in (*own, *folders.named_movqgans()) if _is_codec_of(checkpoint, path)), None)
    if found is not None:
        return found
    file = MOVQGAN_NAMES[1] if checkpoint.config.codec is None else "the checkpoint's MoVQGAN"
    raise InputError(
        f"{checkpoint.path.name} comes without its MoVQGAN, and models/{folders.VAE_FOLDER} does not have it; put "
        f"{file} there and run again, or connect Load MoVQGAN"
    )


def _is_codec_of(checkpoint: Checkpoint, path: Path) -> bool:
    try:
        check_codec_file(checkpoint, path)
    except LuminaError as error:
        logger.info("%s is not the MoVQGAN of %s: %s", path, checkpoint.path, error)
        return False
    return True


def load_own_vae(checkpoint: Checkpoint) -> MoVQGANVae | ExecutionBlocker:
    """The VAE of a checkpoint's MoVQGAN; without one, an output that stops the nodes that use it and says why.

    ComfyUI keeps the output for a graph that uses it later.
    """
    try:
        return load_movqgan_vae(find_codec(checkpoint), checkpoint.config.trained_sizes)
    except LuminaError as error:
        return comfy_ui.nothing(str(error))


def sizes_beside(movqgan: Path) -> Sequence[Size] | None:
    """The sizes that the model of a MoVQGAN's file was trained on, by the checkpoint in its folder; None for none."""
    if find_movqgan(movqgan.parent) == movqgan:
        with contextlib.suppress(CheckpointError):
            return open_checkpoint(movqgan.parent).config.trained_sizes
    return None


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
    """A string that changes when a file of the checkpoint, or of a MoVQGAN that may be its own, changes.

    Empty if the checkpoint is not found. Opens none of the files.
    """
    try:
        place = locate(folders.checkpoint_path(name))
    except LuminaError:
        return ""
    codecs = [path for path in (find_movqgan(place.root), *folders.named_movqgans()) if path is not None]
    return str(FileStamps.of((*place.files, place.root / CONFIG, *tokenizer_paths(place.root / TOKENIZER), *codecs)))


class LoadModel(LuminaNode):
    """Loads a checkpoint from the model folders, or the built-in demo."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=LOAD_MODEL,
            display_name="Lumina Loader",
            category=CATEGORY,
            description="Loads a Lumina-mGPT 2.0 transformer, its tokenizer, and its MoVQGAN where it is found.",
            search_aliases=[
                *("Load Lumina-mGPT 2.0", "lumina", "load checkpoint", "unet", "diffusion model", "load model", "vae"),
                *("quantize", "int4", "int8", "autoregressive", "llm", "text to image", "generate image", "加载模型"),
            ],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=(checkpoints := list(folders.checkpoint_paths())),
                    default=checkpoints[0],
                    tooltip="Folder or .safetensors file in models/lumina_mgpt2 or models/diffusion_models. The "
                    "built-in demo is a tiny model that draws well-known things and coloured shapes at 96x96.",
                ),
                io.Combo.Input(
                    "weights",
                    options=WEIGHTS,
                    default="auto",
                    tooltip="Dtype of the weights. auto: as stored in a converted file, else bf16 (fp16 on a GPU "
                    "without bf16, fp32 on a CPU) where the model stays on the device while it draws, else int4. int8 "
                    "and int4: about half and a quarter of the memory of bf16. fp8: as int8, for GPUs of the RTX 40 "
                    "series and newer, with torchao. int8-dynamic: int8 with the inputs in 8 bits too.",
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
            outputs=[
                LuminaModel.Output(display_name="model", tooltip="For Lumina Sampler."),
                io.Vae.Output(
                    display_name="vae",
                    tooltip="The checkpoint's MoVQGAN, where its file or folder or models/vae has it. Else use Load "
                    "MoVQGAN.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
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
    def execute(cls, checkpoint, weights=WEIGHTS[0], compile=AUTO) -> io.NodeOutput:
        opened, graph = open_checkpoint(folders.checkpoint_path(checkpoint)), cls.hidden.prompt
        if is_used(graph, cls.hidden.unique_id, VAE_OUTPUT):
            find_codec(opened)
        # ComfyUI's cache does not look at the prompt: another node that changes loads nothing again.
        movqgans = _movqgans_in(graph, checkpoint)
        return io.NodeOutput(load_model(checkpoint, opened, weights, compile, movqgans), load_own_vae(opened))


class LoadMoVQGAN(LuminaNode):
    """Loads a MoVQGAN as a VAE for the nodes of this pack and the core nodes."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=LOAD_MOVQGAN,
            display_name="Load MoVQGAN",
            category=CATEGORY,
            description="Loads the VAE of Lumina-mGPT 2.0. VAE Decode and VAE Encode accept it.",
            search_aliases=["vae", "load vae", "movq", "vqgan", "vq", "codec", "image tokenizer", "token"],
            inputs=[
                io.Combo.Input(
                    "movqgan",
                    options=(movqgans := list(folders.movqgan_paths())),
                    default=movqgans[0],
                    tooltip="movqgan_270M.ckpt, or a .safetensors of it, in models/vae. The demo belongs to the demo "
                    "checkpoint.",
                ),
            ],
            outputs=[io.Vae.Output(display_name="vae", tooltip="For this pack, and for VAE Decode and VAE Encode.")],
        )

    @classmethod
    def fingerprint_inputs(cls, movqgan):
        try:
            return str(FileStamps.of([folders.movqgan_path(movqgan)]))
        except LuminaError:
            return ""

    @classmethod
    def execute(cls, movqgan) -> io.NodeOutput:
        path = folders.movqgan_path(movqgan)
        return io.NodeOutput(load_movqgan_vae(path, sizes_beside(path)))
