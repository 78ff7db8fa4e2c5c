"""Stitch Panels, Continue Picture and Split Panels: pictures whose first rows are given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lumina_core.errors import InputError
from ..lumina_core.files.stamps import FileStamps
from ..lumina_core.pictures.images import to_pixels
from ..lumina_core.pictures.masks import keep_outside, pixels_of_mask
from ..lumina_core.pictures.panels import condition_panel
from ..lumina_core.pictures.sizes import CODE_PIXELS, MAX_SIDE, fill_size
from . import folders
from .kept import NONE, kept_path, read_kept
from .node import LuminaNode
from .pictures import check_image, codes_to_draw, from_pictures, to_pictures
from .sizes import FROM_MODEL, check_sides, side_input
from .types import CATEGORY, CanvasData, LuminaCanvas, LuminaModel, ManagedLumina
from .vae import MoVQGANVae, require_movqgan

TO_BE_DRAWN = 0.5
# The given height that is half of the canvas.
HALF = 0
# How much nearer to a picture another upper panel must be for it to be the picture's own, in squared differences.
CLEARLY_NEARER = 0.5


def make_canvas(
    movqgan: MoVQGANVae, image: Tensor, mask: Tensor | None, width: int, height: int, given_height: int | None = None
) -> CanvasData:
    """A canvas with the pictures of an IMAGE as its top rows; `given_height` as in `condition_panel`.

    Sides that are 0 are those of the model that the MoVQGAN belongs to; a given height of 0 is half of the canvas.
    """
    panels = 2 if given_height is None else 1
    width, height = fill_size(width, height, movqgan.trained_sizes, panels)
    if given_height == HALF:
        given_height = height // 2 // CODE_PIXELS * CODE_PIXELS
    tops = [condition_panel(picture, width, height, given_height) for picture in to_pictures(image, mask)]
    if not tops:
        raise InputError("the image input holds no picture; expected at least one")
    codes = movqgan.encode_planes(torch.cat([to_pixels(top) for top in tops]))
    return CanvasData(width, height, codes, from_pictures(tops), panels=panels)


def with_lower_panel(canvas: CanvasData, mask: Tensor) -> CanvasData:
    """The canvas of an upper panel with the same picture in the lower one, except for codes [B,h,w] that are drawn."""
    codes, pixels = (torch.cat([part, part], 1) for part in (canvas.codes, canvas.pixels))
    return replace(canvas, codes=codes, pixels=pixels, mask=mask)


def continue_kept(movqgan: MoVQGANVae, name: str, model: ManagedLumina | None) -> CanvasData:
    """A canvas with the exact codes and the size of what was kept of a picture. Raises InputError."""
    path = kept_path(name)
    if model is None:
        raise InputError(f"the kept picture {name} is read with the vocabulary of its model; connect it to input model")
    begun = read_kept(path, model.lumina.vocabulary)
    pixels = movqgan.view(begun.codes)
    return CanvasData(CODE_PIXELS * begun.grid_w, CODE_PIXELS * begun.grid_h, begun.codes, pixels, is_view=True)


def show_canvas(canvas: CanvasData) -> Tensor:
    """An IMAGE of the canvas: what is given, and grey where the model draws."""
    if canvas.mask is not None:
        return canvas.pixels.masked_fill(pixels_of_mask(canvas.mask)[..., None], TO_BE_DRAWN)
    image = torch.full((len(canvas.pixels), canvas.height, canvas.width, 3), TO_BE_DRAWN)
    image[:, : canvas.given_height] = canvas.pixels
    return image


def split(image: Tensor, canvas: CanvasData | None, reconstruct: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The top, the bottom and the whole of each picture; what was given has its canvas's pixels unless `reconstruct`.

    Pixels that are only a view are not restored. Without a canvas the picture is split in the middle. Raises InputError
    if picture and canvas do not match.
    """
    check_image(image)
    if canvas is None:
        height = image.shape[1]
        if height % 2:
            raise InputError(f"the picture is {height} high; expected an even height, to split it in the middle")
        return image[:, : height // 2], image[:, height // 2 :], image
    _check_match(image, canvas)
    image = image[..., :3].expand(*image.shape[:3], 3)
    given = canvas.given_height
    if not reconstruct and not canvas.is_view:
        image = _with_own_pixels(image, canvas)
    return image[:, :given], image[:, given:], image


def _with_own_pixels(image: Tensor, canvas: CanvasData) -> Tensor:
    tops = _tops_of(image, canvas)
    own = canvas.pixels.to(image)[tops]
    if canvas.mask is None:
        return torch.cat([own, image[:, canvas.given_height :]], 1)
    planes = (part.movedim(-1, 1) for part in (image, own))
    return keep_outside(*planes, canvas.mask.to(image.device)[tops]).clamp(0, 1).movedim(1, -1)


def _tops_of(image: Tensor, canvas: CanvasData) -> list[int]:
    """Which of the canvas's pictures is the top of each picture.

    It is that of the sampler's order, as many drawn for each, unless another one is clearly nearer to what was decoded:
    then the pictures were chosen or put in another order since.
    """
    tops, drawn = canvas.pixels.to(image), image[:, : canvas.pixels.shape[1]]
    return [_top_of(one, tops, index * len(tops) // len(image)) for index, one in enumerate(drawn)]


def _top_of(drawn: Tensor, tops: Tensor, expected: int) -> int:
    differences = (tops - drawn).square().mean((1, 2, 3))
    nearest = int(differences.argmin())
    return nearest if differences[nearest] < CLEARLY_NEARER * differences[expected] else expected


def _check_match(image: Tensor, canvas: CanvasData) -> None:
    height, width = image.shape[1:3]
    if (width, height) != (canvas.width, canvas.height):
        raise InputError(
            f"the picture is {width}x{height}, the canvas {canvas.width}x{canvas.height}; connect the canvas that the "
            "picture was drawn on"
        )


def canvas_schema(image: str, sides: list[io.Input], **names: Any) -> io.Schema:
    """The schema of a node that makes a canvas; `image` is that input's tooltip."""
    mask = "The mask of Load Image, if the picture has alpha. Transparent areas become white."
    return io.Schema(
        category=CATEGORY,
        inputs=[
            io.Image.Input("image", tooltip=image),
            io.Vae.Input("vae", tooltip="From Lumina Loader or Load MoVQGAN. Encodes the given rows."),
            *sides,
            io.Mask.Input("mask", optional=True, tooltip=mask),
        ],
        outputs=[
            LuminaCanvas.Output(display_name="canvas", tooltip="For Lumina Sampler, Lumina Prompt and Split Panels."),
            io.Image.Output(display_name="image", tooltip="The given rows, and grey where the model draws."),
        ],
        **names,
    )


class StitchPanels(LuminaNode):
    """Places a picture in the upper panel of a canvas."""

    @classmethod
    def define_schema(cls):
        schema = canvas_schema(
            "Picture or batch of any size. Scaled to cover the upper panel, then cropped to its centre.",
            [side_input("width", ""), side_input("height", "Each panel has half of it.")],
            node_id="LuminaMGPT2_StitchPanels",
            display_name="Stitch Panels",
            description="Places a picture in the upper panel of a canvas. The Lumina Sampler draws the lower panel.",
            search_aliases=[
                *("condition", "control image", "controlnet", "reference image", "image edit", "img2img", "inpaint"),
                *("two panels", "concatenate images", "depth", "canny", "pose", "subject"),
            ],
        )
        edit_mask = "For the task edit: what the edit may change. The lower panel keeps the rest of the picture."
        schema.inputs.append(io.Mask.Input("edit_mask", optional=True, tooltip=edit_mask))
        return schema

    @classmethod
    def validate_inputs(cls, width=None, height=None):
        check_sides(width or FROM_MODEL, height or FROM_MODEL)
        return True

    @classmethod
    def execute(cls, image, vae, width=FROM_MODEL, height=FROM_MODEL, mask=None, edit_mask=None) -> io.NodeOutput:
        check_sides(width, height)
        canvas = make_canvas(require_movqgan(vae), image, mask, width, height)
        if edit_mask is not None:
            canvas = with_lower_panel(
                canvas, codes_to_draw(edit_mask, to_pictures(image), canvas.width, canvas.height, False)
            )
        return io.NodeOutput(canvas, show_canvas(canvas))


class ContinuePicture(LuminaNode):
    """Keeps the top rows of a picture as a canvas."""

    @classmethod
    def define_schema(cls):
        given_height = io.Int.Input(
            "given_height",
            default=HALF,
            min=HALF,
            max=MAX_SIDE - CODE_PIXELS,
            step=CODE_PIXELS,
            tooltip=f"Height in pixels of the part to keep, a multiple of {CODE_PIXELS}. 0: half of the canvas. "
            "Ignored with kept.",
        )
        schema = canvas_schema(
            "Picture or batch. Scaled to the canvas width. Not needed with kept.",
            [*(side_input(name, "Ignored with kept.") for name in ("width", "height")), given_height],
            node_id="LuminaMGPT2_ContinuePicture",
            display_name="Continue Picture",
            description="Keeps the top rows of a picture, or of a run that was cancelled. The Lumina Sampler draws the "
            "rest.",
            search_aliases=["outpaint", "inpaint", "extend", "expand", "resume", "cancelled", "image completion"],
        )
        schema.inputs += [
            io.Combo.Input(
                "kept",
                options=[NONE, *folders.kept_paths()],
                default=NONE,
                tooltip="What is drawn of a picture whose run was cancelled or failed, in output/lumina_mgpt2. Sets "
                "the size and keeps the exact codes: with the same settings, gumbel and ar draw the same picture.",
            ),
            LuminaModel.Input("model", tooltip="From Lumina Loader. Needed with kept."),
        ]
        # All are optional, so that stored workflows keep the order of the inputs now that image may be missing.
        for one in schema.inputs:
            one.optional = True
        return schema

    @classmethod
    def validate_inputs(cls, width=None, height=None, kept=NONE):
        if kept not in (None, NONE):
            kept_path(kept)
        check_sides(width or FROM_MODEL, height or FROM_MODEL)
        return True

    @classmethod
    def fingerprint_inputs(cls, kept=NONE, **_):
        """Changes when a kept file is written again under the same name."""
        path = folders.kept_paths().get(kept)
        return "" if path is None else str(FileStamps.of([path]))

    @classmethod
    def execute(
        cls,
        image=None,
        vae=None,
        width=FROM_MODEL,
        height=FROM_MODEL,
        given_height=HALF,
        mask=None,
        kept=NONE,
        model=None,
    ) -> io.NodeOutput:
        if vae is None:
            raise InputError("Continue Picture has no vae; connect that of Lumina Loader, or Load MoVQGAN")
        check_sides(width, height)
        if kept != NONE:
            canvas = continue_kept(require_movqgan(vae), kept, model)
        elif image is None:
            raise InputError("Continue Picture has no picture; connect one to image, or choose one in kept")
        else:
            canvas = make_canvas(require_movqgan(vae), image, mask, width, height, given_height)
        return io.NodeOutput(canvas, show_canvas(canvas))


class SplitPanels(LuminaNode):
    """Splits a picture into its panels."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_SplitPanels",
            display_name="Split Panels",
            category=CATEGORY,
            description="Splits a decoded picture into its upper and its lower panel.",
            search_aliases=["crop", "unstitch", "upper half", "lower half", "dual panel", "image pair", "before after"],
            inputs=[
                io.Image.Input("image", tooltip="The decoded picture."),
                LuminaCanvas.Input(
                    "canvas",
                    optional=True,
                    tooltip="Canvas that the picture was drawn on. Splits where its given rows end and restores their "
                    "pixels. Without one: splits in the middle.",
                ),
                io.Boolean.Input(
                    "reconstruct",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Keep the given rows as decoded by the MoVQGAN.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="upper", tooltip="The given picture, or the upper half."),
                io.Image.Output(display_name="lower", tooltip="What was drawn below it, or the lower half."),
                io.Image.Output(display_name="whole", tooltip="Both panels."),
            ],
        )

    @classmethod
    def execute(cls, image, canvas=None, reconstruct=False) -> io.NodeOutput:
        return io.NodeOutput(*split(image, canvas, reconstruct))
