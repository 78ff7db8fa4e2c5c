"""What Lumina Sampler is asked for: the request of its inputs, and advice on them."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from ..lumina_core.decoding.build_request import build_request
from ..lumina_core.decoding.request import Request
from ..lumina_core.decoding.settings import DecodeSettings
from ..lumina_core.errors import InputError
from ..lumina_core.pictures.masks import mask_of_codes
from ..lumina_core.pictures.sizes import CODE_PIXELS, untrained_reason
from ..lumina_core.tokens.prompts import find_template
from ..lumina_core.tokens.task_inputs import MASKED_PANEL
from .pictures import check_mask
from .prompt import task_label
from .types import CanvasData, ManagedLumina, TaskPromptData
from .vae import MoVQGANVae

logger = logging.getLogger(__name__)


def make_request(
    model: ManagedLumina,
    prompt: TaskPromptData,
    batch_size: int,
    settings: DecodeSettings,
    canvas: CanvasData | None = None,
) -> Request:
    """A request for `batch_size` pictures, or for that many of each picture of the canvas. Raises InputError."""
    given, mask, score = None, None, False
    if canvas is not None:
        prompt, given = prompt.on_canvas(canvas), canvas.codes.repeat_interleave(batch_size, 0)
        if canvas.mask is not None:
            mask, score = canvas.mask.expand(len(canvas.codes), -1, -1).repeat_interleave(batch_size, 0), batch_size > 1
        batch_size = len(given)
    elif find_template(prompt.task).needs_condition:
        raise InputError(
            f"the task {task_label(prompt.task)} needs a picture in the upper panel; connect Stitch Panels to the "
            "canvas of Lumina Sampler"
        )
    prompt = prompt.sized(model.lumina.config.trained_sizes)
    size = prompt.width, prompt.height
    negative = prompt.negative_text
    request = build_request(model.lumina, prompt.text, *size, batch_size, settings=settings, negative=negative)
    return replace(request, given_codes=given, mask=mask, score_given=score)


def canvas_of_latent(movqgan: MoVQGANVae, latent: dict) -> CanvasData:
    """The canvas of a LATENT's codes, of which those under its noise mask are drawn. Raises InputError."""
    codes, mask = movqgan.codes_of(latent), latent.get("noise_mask")
    if mask is None:
        raise InputError(
            "the latent has no noise mask, so nothing of it would be drawn; connect Set Latent Noise Mask, or nothing: "
            "the size of a new picture is set in Lumina Prompt"
        )
    check_mask(mask := mask.reshape(-1, *mask.shape[-2:]))
    count, grid_h, grid_w = codes.shape
    if len(mask) not in (1, count):
        raise InputError(f"the latent holds {len(mask)} masks for {count} pictures; expected 1 or as many")
    drawn, size = mask_of_codes(mask.cpu().clamp(0, 1), grid_h, grid_w), (CODE_PIXELS * grid_w, CODE_PIXELS * grid_h)
    return CanvasData(*size, codes, torch.zeros(count, 0, size[0], 3), is_view=True, mask=drawn)


def advice_on(model: ManagedLumina, prompt: TaskPromptData, canvas: CanvasData | None) -> list[str]:
    """Sentences, for the node, about what will probably not draw what is wanted. All are logged."""
    trained_sizes, found = model.lumina.config.trained_sizes, list[str]()
    sized = prompt.sized(trained_sizes) if canvas is None else prompt.on_canvas(canvas)
    if canvas is not None and canvas.mask is not None and canvas.panels > 1 and prompt.task not in MASKED_PANEL:
        found.append(
            f"The mask keeps parts of the upper panel in the lower one, and the task {task_label(prompt.task)} draws "
            f"another picture there: choose {task_label(MASKED_PANEL[0])}, or disconnect the mask."
        )
    if canvas is not None and canvas.panels > find_template(prompt.task).panels:
        found.append(
            f"The canvas has an upper panel, and the task {task_label(prompt.task)} ignores it: choose another task."
        )
    if canvas is None and prompt.has_canvas:
        found.append("Lumina Prompt has a canvas and Lumina Sampler has none: connect it to both.")
    for sentence in found:
        logger.warning("%s", sentence)
    untrained = untrained_reason(sized.width, sized.height, trained_sizes)  # `build_request` logs it
    return [untrained, *found] if untrained else found
