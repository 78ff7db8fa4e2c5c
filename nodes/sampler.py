"""Lumina Sampler."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from ..lumina_core.decoding.memory_plan import Demand, plan_memory
from ..lumina_core.decoding.request import Request
from ..lumina_core.decoding.settings import DECODERS, MAX_SEED, DecodeResult, DecodeSettings, StepReport
from ..lumina_core.errors import InputError
from ..lumina_core.kernels.kv_tensor import KV_CACHES
from ..lumina_core.memory import check_fits, fit_cache, weights_of
from ..lumina_core.movqgan.identity import check_codec
from ..lumina_core.pictures.sizes import CODE_PIXELS
from ..lumina_core.timing.amounts import Count, run_text
from . import comfy_adapter as comfy_ui
from .kept import kept_on_failure
from .latents import with_likelihood
from .node import LuminaNode
from .patchers import keep_resident
from .progress import Watcher
from .report import acceptance_map, report_text
from .request import advice_on, canvas_of_latent, make_request
from .stamps import check_unchanged
from .types import CATEGORY, LuminaCanvas, LuminaModel, LuminaPrompt, ManagedLumina
from .vae import MoVQGANVae, require_movqgan

logger = logging.getLogger(__name__)

CFG, TOP_K, WINDOW = 4.0, 4096, 32
TREES = ("auto", "0", "8", "16", "32", "64")


def check_codebook(model: ManagedLumina, movqgan: MoVQGANVae) -> None:
    """Raises InputError if the MoVQGAN does not belong to the transformer."""
    codec = movqgan.first_stage_model
    check_codec(model.lumina.config, codec.config, codec.state_dict(), str(movqgan.source))


def sample(model: ManagedLumina, movqgan: MoVQGANVae, request: Request) -> DecodeResult:
    """Draws a request under ComfyUI's memory management, with the int8 cache where it is auto and only that fits.

    Raises OutOfMemory before or during the run. What is drawn when the run fails, or the user cancels it, is kept.
    """
    lumina, codec = model.lumina, movqgan.first_stage_model.config
    transformer, device = lumina.transformer, comfy_ui.model_device()
    loaded = model.patcher.model_size() + movqgan.patcher.model_size()
    budget, weights = comfy_ui.memory_budget(transformer.streamed, loaded), weights_of(transformer)
    demand = Demand.on(device, transformer.compile_choice, lumina.config, weights, request, codec, lumina.loras)
    demand = fit_cache(demand, budget)
    check_fits(demand, budget)
    held = lumina.runs.prepare(demand.request, lumina.loras)
    comfy_ui.load([model.patcher, movqgan.patcher], max(0, plan_memory(demand).run - held))
    watcher = Watcher(movqgan, request)
    kept = kept_on_failure(demand.request, lumina.vocabulary, lambda: watcher.last_report)
    with comfy_ui.unloading_when_full(), kept, watcher:
        keep_resident(transformer, model.patcher.load_device)
        # ComfyUI's own exception, if the user cancelled, ends the run.
        result = lumina.sample(demand.request, watcher.on_step, before_forward=comfy_ui.check_interrupted)
        watcher.on_result(result)
    return result


def whole_report(result: DecodeResult) -> StepReport:
    """The last report of a run that is complete."""
    pictures, grid_h, grid_w = result.codes.shape
    drawn = tuple((result.accept_step >= 0).sum((1, 2)).tolist())
    return StepReport(result.codes, drawn, max(drawn), result.nfe, reached=(grid_h * grid_w,) * pictures)


class SJDSampler(LuminaNode):
    """Draws pictures token by token, several tokens per forward."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_SJDSampler",
            display_name="Lumina Sampler",
            category=CATEGORY,
            description="Draws pictures by speculative Jacobi decoding, several tokens per forward. Up to rounding, a "
            "seed draws the same picture with the decoders gumbel and ar, at every window.",
            search_aliases=[
                *("SJD Sampler", "lumina", "sampler", "ksampler", "sample", "draw", "generate image", "text to image"),
                *("autoregressive", "token", "speculative decoding", "jacobi", "llm", "采样器", "文生图", "生成图像"),
            ],
            inputs=[
                LuminaModel.Input("model", tooltip="From Lumina Loader."),
                io.Vae.Input(
                    "vae",
                    tooltip="From Lumina Loader or Load MoVQGAN. Used for the latent and the previews.",
                ),
                LuminaPrompt.Input("prompt", tooltip="From Lumina Prompt."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    tooltip="Picture k of a batch has the seed seed + k.",
                ),
                io.Float.Input(
                    "cfg",
                    default=CFG,
                    min=0.0,
                    max=30.0,
                    step=0.05,
                    round=0.01,
                    tooltip="How closely to follow the prompt: 4 for the published model, about 1.25 for the demo. 1 "
                    "skips the unconditional branch.",
                ),
                io.Int.Input(
                    "top_k",
                    default=TOP_K,
                    min=1,
                    max=16384,
                    tooltip="Number of most likely codes to sample from. 1 is greedy.",
                ),
                io.Float.Input(
                    "temperature",
                    default=1.0,
                    min=0.01,
                    max=10.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Above 1 for more variety, below 1 for less.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Pictures drawn at once. With a canvas: for each of its pictures.",
                ),
                io.Combo.Input(
                    "decoder",
                    options=list(DECODERS),
                    default=DECODERS[0],
                    optional=True,
                    advanced=True,
                    tooltip="gumbel: the picture of ar, up to rounding, in few forwards. ar: one token per forward, "
                    "the slowest. coupled: another picture from the same distribution, in few forwards, more memory. "
                    "sjd: another picture, about half the forwards.",
                ),
                io.Int.Input(
                    "window",
                    default=WINDOW,
                    min=1,
                    max=128,
                    optional=True,
                    advanced=True,
                    tooltip="Maximum number of tokens per forward. ar ignores it.",
                ),
                LuminaCanvas.Input(
                    "canvas",
                    optional=True,
                    tooltip="From Stitch Panels, Continue Picture or Inpaint Picture. Sets width and height; the "
                    "sampler draws what it does not give.",
                ),
                io.Combo.Input(
                    "kv_cache",
                    options=list(KV_CACHES),
                    default=KV_CACHES[0],
                    optional=True,
                    advanced=True,
                    tooltip="Dtype of the key/value cache. auto: as computed, or int8 where only that fits. int8 and "
                    "int4: about half and a third of the memory of bf16; a few tokens are drawn differently.",
                ),
                io.Combo.Input(
                    "tree",
                    options=list(TREES),
                    default=TREES[0],
                    optional=True,
                    advanced=True,
                    tooltip="Tokens more per forward of gumbel, for other codes than the first drafts: the same "
                    "picture in fewer forwards, each of which takes longer. auto: as suits the device, none on a CPU.",
                ),
                io.Float.Input(
                    "top_p",
                    default=1.0,
                    min=0.001,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Of the codes that top_k leaves, the likeliest that have this probability together. "
                    "1 is off.",
                ),
                io.Float.Input(
                    "min_p",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Of those, the codes with at least this share of the likeliest one's probability. "
                    "0 is off.",
                ),
                io.Latent.Input(
                    "latent_image",
                    optional=True,
                    tooltip="A picture of VAE Encode with Set Latent Noise Mask, or of VAE Encode (for Inpainting): "
                    "only what is masked is drawn. Instead of a canvas.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The drawn codes, for VAE Decode and Best of N."),
                io.String.Output(display_name="report", tooltip="Settings, speed and likelihood of the run, as text."),
                io.Image.Output(
                    display_name="acceptance_map",
                    tooltip="Which forward accepted each code: the first dark blue, the last yellow.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        vae,
        prompt,
        seed=0,
        cfg=CFG,
        top_k=TOP_K,
        temperature=1.0,
        batch_size=1,
        decoder=DECODERS[0],
        window=WINDOW,
        canvas=None,
        kv_cache=KV_CACHES[0],
        tree=TREES[0],
        top_p=1.0,
        min_p=0.0,
        latent_image=None,
    ) -> io.NodeOutput:
        movqgan = require_movqgan(vae)
        if canvas is not None and latent_image is not None:
            raise InputError("canvas and latent_image are both connected; expected one of them: both say what is given")
        check_unchanged(model)
        check_codebook(model, movqgan)
        canvas = canvas if latent_image is None else canvas_of_latent(movqgan, latent_image)
        settings = DecodeSettings(
            cfg_scale=cfg,
            top_k=top_k,
            temperature=temperature,
            seed=seed,
            decoder=decoder,
            window_size=window,
            kv_cache=kv_cache,
            tree=None if tree == TREES[0] else int(tree),
            top_p=top_p,
            min_p=min_p,
        )
        request, advice = make_request(model, prompt, batch_size, settings, canvas), advice_on(model, prompt, canvas)
        result = sample(model, movqgan, request)
        picture = acceptance_map(result.accept_step, CODE_PIXELS)
        lumina = model.lumina
        report = "\n".join([report_text(result, weights_of(lumina.transformer), kv_cache, lumina.loras), *advice])
        with kept_on_failure(request, model.lumina.vocabulary, lambda: whole_report(result)):
            latent = movqgan.latent_of(result.codes)
        movqgan.vocabulary = model.lumina.vocabulary
        if advice:
            run = run_text(Count(result.sampled_tokens, "tokens"), result.seconds, result.warm_up_seconds)
            comfy_ui.show_text("\n".join([*advice, run]))
        return io.NodeOutput(with_likelihood(latent, result), report, picture)
