"""Inpaint Picture: a picture of which only what a mask marks is drawn."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lumina_core.errors import InputError
from ..lumina_core.pictures.images import to_pixels
from ..lumina_core.pictures.masks import pixels_of_mask
from ..lumina_core.pictures.panels import condition_panel
from ..lumina_core.pictures.sizes import fill_size, most_alike
from . import comfy_adapter as comfy_ui
from .canvas import show_canvas
from .node import LuminaNode
from .pictures import codes_to_draw, from_pictures, to_pictures
from .sizes import FROM_MODEL, check_sides, side_input
from .types import CATEGORY, CanvasData, LuminaCanvas
from .vae import MoVQGANVae, require_movqgan


def masked_canvas(movqgan: MoVQGANVae, image: Tensor, mask: Tensor, width: int, height: int) -> CanvasData:
    """A canvas of the whole pictures of an IMAGE and the codes that a MASK [B,H,W] marks, 1 where to draw.

    Without sides it has the trained size that is most like the picture. Raises InputError.
    """
    pictures = to_pictures(image)
    if not pictures:
        raise InputError("the image input holds no picture; expected at least one")
    if width == height == FROM_MODEL:
        width, height = most_alike(movqgan.trained_sizes, pictures[0].size)
    width, height = fill_size(width, height, movqgan.trained_sizes)
    whole = [condition_panel(picture, width, height, whole=True) for picture in pictures]
    codes = movqgan.encode_planes(torch.cat([to_pixels(picture) for picture in whole]))
    drawn = codes_to_draw(mask, pictures, width, height)
    return CanvasData(width, height, codes, from_pictures(whole), mask=drawn)


class InpaintPicture(LuminaNode):
    """Marks the part of a picture that is drawn anew."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_InpaintPicture",
            display_name="Inpaint Picture",
            category=CATEGORY,
            description="Keeps a picture except for what a mask marks; the Lumina Sampler draws that. To extend a "
            "picture, put Pad Image for Outpainting before it.",
            search_aliases=[
                *("inpaint", "outpaint", "mask", "fill", "erase", "remove object", "replace", "extend", "pad image"),
                *("generative fill", "canvas", "局部重绘", "重绘", "扩图", "遮罩", "修复"),
            ],
            inputs=[
                io.Image.Input(
                    "image", tooltip="Picture or batch of any size. Scaled to cover the canvas, then cropped to it."
                ),
                io.Vae.Input("vae", tooltip="From Lumina Loader or Load MoVQGAN. Encodes the picture."),
                io.Mask.Input(
                    "mask",
                    tooltip="What to draw, for example from the mask editor of Load Image. One mask, or one for every "
                    "picture. Rounded outwards to codes of 8 pixels.",
                ),
                side_input("width", "Both 0: the trained size that is most like the picture."),
                side_input("height", "Both 0: the trained size that is most like the picture."),
            ],
            outputs=[
                LuminaCanvas.Output(
                    display_name="canvas", tooltip="For Lumina Sampler, Lumina Prompt and Split Panels."
                ),
                io.Image.Output(display_name="image", tooltip="The picture, grey where the model draws."),
                io.Mask.Output(display_name="mask", tooltip="What is drawn, rounded to codes."),
            ],
        )

    @classmethod
    def validate_inputs(cls, width=None, height=None):
        check_sides(width or FROM_MODEL, height or FROM_MODEL)
        return True

    @classmethod
    def execute(cls, image, vae, mask, width=FROM_MODEL, height=FROM_MODEL) -> io.NodeOutput:
        check_sides(width, height)
        canvas = masked_canvas(require_movqgan(vae), image, mask, width, height)
        if mask.shape[-2:] != image.shape[1:3]:
            comfy_ui.show_text("The mask has another size than the picture: it is scaled.")
        return io.NodeOutput(canvas, show_canvas(canvas), pixels_of_mask(canvas.mask).float())
