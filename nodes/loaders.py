"""Load Lumina-mGPT 2.0 and Load MoVQGAN."""

from comfy_api.latest import io

from ..lumina_core.checkpoint.config import TransformerConfig
from ..lumina_core.checkpoint.find import find_checkpoint
from ..lumina_core.errors import LuminaError
from ..lumina_core.model.compile import COMPILE, OFF, captures, set_compile
from ..lumina_core.model.load import load_transformer
from ..lumina_core.tokens.tokenizer import load_tokenizer
from ..lumina_core.tokens.vocabulary import Vocabulary
from . import comfy_adapter as comfy_ui
from .types import CATEGORY, LoadedModel, LuminaModel, ManagedTransformer
from .vae import load_movqgan_vae

# Stored workflows hold the names; new ones go to the end.
WEIGHTS = ["auto", "bf16", "fp32", "int8", "int4"]


def load_model(checkpoint: str, weights: str, compile: str) -> LoadedModel:
    """The checkpoint of that name, its weights waiting on the offload device."""
    path = comfy_ui.checkpoint_path(checkpoint)
    files = find_checkpoint(path)
    tokenizer = load_tokenizer(files.tokenizer)
    vocabulary = Vocabulary.of(tokenizer, TransformerConfig.from_file(files.config))
    offload_device = comfy_ui.model_offload_device()
    with comfy_ui.unloading_when_full():
        transformer = load_transformer(
            path,
            dtype=comfy_ui.compute_dtype(),
            device=offload_device,
            operations=comfy_ui.Operations,
            weights=weights,
            work_device=comfy_ui.model_device(),
        )
    set_compile(transformer, compile)
    device = comfy_ui.model_device()
    # What is captured must stay where it is: the weights then move as a whole, not by dynamic VRAM.
    stays = captures(compile, device)
    patcher = comfy_ui.patcher_of(ManagedTransformer(transformer), device, offload_device, dynamic=not stays)
    return LoadedModel(checkpoint, transformer, tokenizer, vocabulary, patcher)


def checkpoint_stamp(checkpoint: str) -> str:
    """Changes when a file of the checkpoint does; empty when it cannot be found, which loading reports better."""
    try:
        files = find_checkpoint(comfy_ui.checkpoint_path(checkpoint))
    except LuminaError:
        return ""
    return comfy_ui.file_stamp([*files.shards, files.config, files.tokenizer])


class LoadModel(io.ComfyNode):
    """A checkpoint from models/lumina_mgpt2, or the built-in demo."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_LoadModel",
            display_name="Load Lumina-mGPT 2.0",
            category=CATEGORY,
            description="Loads a Lumina-mGPT 2.0 transformer and its tokenizer.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=comfy_ui.checkpoint_names(),
                    default=comfy_ui.DEMO_NAME,
                    tooltip="A folder or a .safetensors file in models/lumina_mgpt2. The demo is tiny, needs no "
                    "download and draws coloured shapes at 64x64.",
                ),
                io.Combo.Input(
                    "weights",
                    options=WEIGHTS,
                    default="auto",
                    tooltip="Form of the weights. auto: as a converted file has them, else bf16 where the device is "
                    "good at it, else fp32. int8 and int4 take about a half and a quarter of bf16's memory.",
                ),
                io.Combo.Input(
                    "compile",
                    options=list(COMPILE),
                    default=OFF,
                    optional=True,
                    advanced=True,
                    tooltip="auto: steps are captured as CUDA graphs on a GPU, where the weights have room. on: and "
                    "the blocks are compiled by torch.compile, which takes a while once and may round otherwise.",
                ),
            ],
            outputs=[LuminaModel.Output(display_name="model")],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint, weights, compile=OFF):
        return f"{checkpoint_stamp(checkpoint)}|{weights}|{compile}"

    @classmethod
    def execute(cls, checkpoint, weights, compile=OFF) -> io.NodeOutput:
        return io.NodeOutput(load_model(checkpoint, weights, compile))


class LoadMoVQGAN(io.ComfyNode):
    """A MoVQGAN as a VAE for our nodes and the core ones."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_LoadMoVQGAN",
            display_name="Load MoVQGAN",
            category=CATEGORY,
            description="Loads the picture codec of Lumina-mGPT 2.0. The core VAE Decode and VAE Encode nodes take it.",
            inputs=[
                io.Combo.Input(
                    "movqgan",
                    options=comfy_ui.movqgan_names(),
                    default=comfy_ui.DEMO_NAME,
                    tooltip="movqgan_270M.ckpt (or a .safetensors of it) in models/vae; the demo belongs to the demo "
                    "checkpoint.",
                ),
            ],
            outputs=[io.Vae.Output(display_name="vae")],
        )

    @classmethod
    def fingerprint_inputs(cls, movqgan):
        try:
            return comfy_ui.file_stamp([comfy_ui.movqgan_path(movqgan)])
        except LuminaError:
            return ""

    @classmethod
    def execute(cls, movqgan) -> io.NodeOutput:
        return io.NodeOutput(load_movqgan_vae(comfy_ui.movqgan_path(movqgan)))
