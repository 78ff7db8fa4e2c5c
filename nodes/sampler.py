"""SJD Sampler."""

from __future__ import annotations

from comfy_api.latest import io

from ..lumina_core.advice import check_fits
from ..lumina_core.decoding.settings import DECODERS, DecodeResult, DecodeSettings
from ..lumina_core.errors import InputError
from ..lumina_core.model.compile import captures
from ..lumina_core.model.kv_store import KV_CACHES
from ..lumina_core.pictures.panels import CODE_PIXELS, grid_size
from ..lumina_core.pipeline import Request, StepReport, check_request, draw
from ..lumina_core.planner import Demand, plan_memory, weights_of
from ..lumina_core.tokens.prompts import find_template
from . import comfy_adapter as comfy_ui
from .latents import with_likelihood
from .preview import GrowingPreview
from .report import acceptance_map, report_text
from .types import CATEGORY, CanvasData, LoadedModel, LuminaCanvas, LuminaModel, LuminaPrompt, TaskPromptData
from .vae import MoVQGANVae, require_movqgan

BIGGEST_SEED = 0xFFFFFFFFFFFFFFFF


def make_request(
    model: LoadedModel,
    prompt: TaskPromptData,
    batch_size: int,
    settings: DecodeSettings,
    canvas: CanvasData | None = None,
) -> Request:
    """What to draw, checked against the model: `batch_size` pictures, or as many for each picture of the canvas.

    A window larger than what a canvas leaves to draw becomes that. Raises InputError when it cannot be drawn.
    """
    config, given = model.transformer.config, None
    if canvas is not None:
        prompt, given = prompt.on_canvas(canvas), canvas.codes.repeat_interleave(batch_size, 0)
        batch_size = len(given)
    elif find_template(prompt.task).needs_condition:
        raise InputError(
            f"the task {prompt.task} needs a picture for the upper panel; connect Stitch Panels to the input canvas"
        )
    grid_h, grid_w = grid_size(prompt.width, prompt.height, config.max_position_embeddings)
    prompts = [model.tokenizer.encode_prompt(prompt.text)] * batch_size
    request = Request(prompts, grid_h, grid_w, given, settings)
    request = request if given is None else request.fit_window()
    check_request(request, config, model.vocabulary)
    return request


def check_codebook(model: LoadedModel, movqgan: MoVQGANVae) -> None:
    """Raises InputError when the MoVQGAN does not belong to the transformer."""
    drawn, decoded = model.transformer.config.codebook_size, movqgan.first_stage_model.config.codebook_size
    if drawn != decoded:
        raise InputError(
            f"the model draws {drawn} codes, the MoVQGAN has {decoded}; choose the MoVQGAN that belongs to {model.name}"
        )


class Watcher:
    """Called by the engine every few steps: progress, preview, cancel."""

    def __init__(self, movqgan: MoVQGANVae, request: Request):
        self._progress = comfy_ui.Progress(request.codes_to_draw)
        wanted = comfy_ui.preview_wanted()
        self._preview = GrowingPreview(movqgan, request.grid_h, request.grid_w) if wanted else None
        self._canvas = request.canvas

    def on_step(self, report: StepReport) -> None:
        picture = None
        if self._preview is not None:
            rows = self._canvas.given_rows + report.settled[0] // self._canvas.grid_w
            picture = self._preview.draw(report.codes[:1], rows)
        self._progress.update(sum(report.settled), picture)

    def should_cancel(self) -> bool:
        """Raises ComfyUI's own interrupt, which must reach ComfyUI; so it never returns True."""
        comfy_ui.check_interrupted()
        return False


def sample(model: LoadedModel, movqgan: MoVQGANVae, request: Request) -> DecodeResult:
    """Draws the request's pictures under ComfyUI's memory management. Raises OutOfMemory, before or on the way."""
    transformer = model.transformer
    captured = captures(transformer.compile_choice, comfy_ui.model_device())
    codec = movqgan.first_stage_model.config
    demand = Demand(transformer.config, weights_of(transformer), request, codec, captured)
    check_fits(demand, comfy_ui.memory_budget())
    comfy_ui.load([model.patcher, movqgan.patcher], plan_memory(demand).run)
    # The engine runs where this norm is, and ComfyUI may have left it behind when short of memory.
    transformer.norm.to(model.patcher.load_device)
    watcher = Watcher(movqgan, request)
    with comfy_ui.unloading_when_full():
        return draw(
            transformer, model.vocabulary, request, on_step=watcher.on_step, should_cancel=watcher.should_cancel
        )


class SJDSampler(io.ComfyNode):
    """Draws pictures token by token, several tokens a forward."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_SJDSampler",
            display_name="SJD Sampler",
            category=CATEGORY,
            description="Draws pictures by (speculative Jacobi) decoding. A seed gives the same picture with the "
            "decoders gumbel and ar, at every window, up to rounding: they differ in speed only.",
            inputs=[
                LuminaModel.Input("model", tooltip="From Load Lumina-mGPT 2.0."),
                io.Vae.Input("vae", tooltip="From Load MoVQGAN; makes the latent and the previews."),
                LuminaPrompt.Input("prompt", tooltip="From Task Prompt."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=BIGGEST_SEED,
                    control_after_generate=True,
                    tooltip="Picture k of a batch is the picture of seed + k alone, up to rounding.",
                ),
                io.Float.Input(
                    "cfg",
                    default=4.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How closely to follow the prompt. At 1 the unconditional branch is not run.",
                ),
                io.Int.Input(
                    "top_k",
                    default=4096,
                    min=1,
                    max=16384,
                    tooltip="Choose each token among this many likeliest codes. 1 is greedy.",
                ),
                io.Float.Input(
                    "temperature",
                    default=1.0,
                    min=0.01,
                    max=10.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Above 1 more varied, below 1 safer.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Pictures drawn in one go; with a canvas, for each picture in it.",
                ),
                io.Combo.Input(
                    "decoder",
                    options=list(DECODERS),
                    default=DECODERS[0],
                    optional=True,
                    advanced=True,
                    tooltip="gumbel: several tokens a forward, the same picture as ar up to rounding. ar: one token a "
                    "forward. sjd, coupled: speculative sampling, the same distribution with other pictures.",
                ),
                io.Int.Input(
                    "window",
                    default=32,
                    min=1,
                    max=128,
                    optional=True,
                    advanced=True,
                    tooltip="Tokens drafted per forward; ar ignores it.",
                ),
                LuminaCanvas.Input(
                    "canvas",
                    optional=True,
                    tooltip="From Stitch Panels or Continue Picture: what is below its given rows is drawn. "
                    "Width and height come from it.",
                ),
                io.Combo.Input(
                    "kv_cache",
                    options=list(KV_CACHES),
                    default=KV_CACHES[0],
                    optional=True,
                    advanced=True,
                    tooltip="How the memory of the tokens so far is kept. auto: as it is computed. int8: half of what "
                    "bf16 takes, int4: a third; a few tokens are drawn differently.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent"),
                io.String.Output(display_name="report"),
                io.Image.Output(display_name="acceptance_map"),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        vae,
        prompt,
        seed,
        cfg,
        top_k,
        temperature,
        batch_size,
        decoder=DECODERS[0],
        window=32,
        canvas=None,
        kv_cache=KV_CACHES[0],
    ) -> io.NodeOutput:
        movqgan = require_movqgan(vae)
        check_codebook(model, movqgan)
        settings = DecodeSettings(
            cfg_scale=cfg,
            top_k=top_k,
            temperature=temperature,
            seed=seed,
            decoder=decoder,
            window_size=window,
            kv_cache=kv_cache,
        )
        result = sample(model, movqgan, make_request(model, prompt, batch_size, settings, canvas))
        picture = acceptance_map(result.settled_step.cpu(), CODE_PIXELS)
        return io.NodeOutput(with_likelihood(movqgan.latent_of(result.codes), result), report_text(result), picture)
