"""Stitch Panels, Continue Picture and Split Panels: pictures whose first rows are given."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lumina_core.errors import InputError
from ..lumina_core.files.stamps import FileStamps
from ..lumina_core.pictures.images import to_pixels
from ..lumina_core.pictures.panels import condition_panel
from ..lumina_core.pictures.sizes import CODE_PIXELS, MAX_SIDE
from . import folders
from .kept import NONE, kept_path, read_kept
from .pictures import from_pictures, to_pictures
from .sizes import side_input, validate_size
from .types import CATEGORY, CanvasData, LuminaCanvas, LuminaModel, ManagedLumina
from .vae import MoVQGANVae, require_movqgan

TO_BE_DRAWN = 0.5
# Defaults of Continue Picture, in pixels.
SIDE, GIVEN_HEIGHT = 768, 384


def make_canvas(
    movqgan: MoVQGANVae, image: Tensor, mask: Tensor | None, width: int, height: int, given_height: int | None = None
) -> CanvasData:
    """A canvas with the pictures of an IMAGE as its top rows; `given_height` as in `condition_panel`."""
    panels = [condition_panel(picture, width, height, given_height) for picture in to_pictures(image, mask)]
    if not panels:
        raise InputError("the image input holds no picture; expected at least one")
    codes = movqgan.encode_planes(torch.cat([to_pixels(panel) for panel in panels]))
    return CanvasData(width, height, codes, from_pictures(panels))


def continue_kept(movqgan: MoVQGANVae, name: str, model: ManagedLumina | None) -> CanvasData:
    """A canvas with the exact codes and the size of what was kept of a picture. Raises InputError."""
    path = kept_path(name)
    if model is None:
        raise InputError(f"the kept picture {name} is read with the vocabulary of its model; connect it to input model")
    begun = read_kept(path, model.lumina.vocabulary)
    pixels = movqgan.view(begun.codes)
    return CanvasData(CODE_PIXELS * begun.grid_w, CODE_PIXELS * begun.grid_h, begun.codes, pixels, is_view=True)


def show_canvas(canvas: CanvasData) -> Tensor:
    """An IMAGE of the canvas: the given rows, and grey where the model draws."""
    image = torch.full((len(canvas.pixels), canvas.height, canvas.width, 3), TO_BE_DRAWN)
    image[:, : canvas.given_height] = canvas.pixels
    return image


def split(image: Tensor, canvas: CanvasData | None, reconstruct: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The top, the bottom and the whole of each picture; the top has the canvas's pixels unless `reconstruct`.

    Pixels that are only a view are not restored. Without a canvas the picture is split in the middle. Raises InputError
    if picture and canvas do not match.
    """
    if canvas is None:
        height = image.shape[1]
        if height % 2:
            raise InputError(f"the picture is {height} high; expected an even height, to split it in the middle")
        return image[:, : height // 2], image[:, height // 2 :], image
    _check_match(image, canvas)
    given = canvas.given_height
    if not reconstruct and not canvas.is_view:
        pixels = canvas.pixels.to(image).repeat_interleave(len(image) // len(canvas.pixels), 0)
        image = torch.cat([pixels, image[:, given:]], 1)
    return image[:, :given], image[:, given:], image


def _check_match(image: Tensor, canvas: CanvasData) -> None:
    pictures, height, width = image.shape[:3]
    if (width, height) != (canvas.width, canvas.height) or image.shape[3] != 3 or pictures % len(canvas.pixels):
        raise InputError(
            f"the picture is {pictures} of {width}x{height} with {image.shape[3]} channels, the canvas is "
            f"{len(canvas.pixels)} of {canvas.width}x{canvas.height}; connect the canvas that the picture was drawn on"
        )


def canvas_schema(image: str, sides: list[io.Input], **names: str) -> io.Schema:
    """The schema of a node that makes a canvas; `image` is that input's tooltip."""
    mask = "The mask of Load Image, if the picture has alpha. Transparent areas become white."
    return io.Schema(
        category=CATEGORY,
        inputs=[
            io.Image.Input("image", tooltip=image),
            io.Vae.Input("vae", tooltip="From Load MoVQGAN. Encodes the given rows."),
            *sides,
            io.Mask.Input("mask", optional=True, tooltip=mask),
        ],
        outputs=[LuminaCanvas.Output(display_name="canvas"), io.Image.Output(display_name="image")],
        **names,
    )


class StitchPanels(io.ComfyNode):
    """Places a picture in the upper panel of a canvas."""

    @classmethod
    def define_schema(cls):
        return canvas_schema(
            "Picture or batch of any size. Scaled to cover the upper panel, then cropped to its centre.",
            [
                side_input("width", 512, "Of the whole canvas."),
                side_input("height", 1024, "Of the whole canvas; each panel has half of it. 64x128 for the demo."),
            ],
            node_id="LuminaMGPT2_StitchPanels",
            display_name="Stitch Panels",
            description="Places a picture in the upper panel of a canvas. The SJD Sampler draws the lower panel.",
        )

    @classmethod
    def validate_inputs(cls, width=None, height=None):
        return validate_size(width, height)

    @classmethod
    def execute(cls, image, vae, width, height, given_height=None, mask=None) -> io.NodeOutput:
        canvas = make_canvas(require_movqgan(vae), image, mask, width, height, given_height)
        return io.NodeOutput(canvas, show_canvas(canvas))


class ContinuePicture(StitchPanels):
    """Keeps the top rows of a picture as a canvas."""

    @classmethod
    def define_schema(cls):
        given_height = io.Int.Input(
            "given_height",
            default=GIVEN_HEIGHT,
            min=CODE_PIXELS,
            max=MAX_SIDE - CODE_PIXELS,
            step=CODE_PIXELS,
            tooltip=f"Height in pixels of the part to keep, a multiple of {CODE_PIXELS}. Ignored with kept.",
        )
        tooltip = "Of the whole canvas. 64x64 for the demo. Ignored with kept."
        schema = canvas_schema(
            "Picture or batch. Scaled to the canvas width. Not needed with kept.",
            [*(side_input(name, SIDE, tooltip) for name in ("width", "height")), given_height],
            node_id="LuminaMGPT2_ContinuePicture",
            display_name="Continue Picture",
            description="Keeps the top rows of a picture, or of a run that was cancelled. The SJD Sampler draws the "
            "rest.",
        )
        schema.inputs += [
            io.Combo.Input(
                "kept",
                options=[NONE, *folders.kept_paths()],
                default=NONE,
                tooltip="What is drawn of a picture whose run was cancelled or failed, in output/lumina_mgpt2. Sets "
                "the size and keeps the exact codes: with the same settings, gumbel and ar draw the same picture.",
            ),
            LuminaModel.Input("model", tooltip="From Load Lumina-mGPT 2.0. Needed with kept."),
        ]
        # All are optional, so that stored workflows keep the order of the inputs now that image may be missing.
        for one in schema.inputs:
            one.optional = True
        return schema

    @classmethod
    def validate_inputs(cls, width=None, height=None, kept=NONE):
        try:
            if kept not in (None, NONE):
                kept_path(kept)
        except InputError as error:
            return str(error)
        return validate_size(width, height)

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
        width=SIDE,
        height=SIDE,
        given_height=GIVEN_HEIGHT,
        mask=None,
        kept=NONE,
        model=None,
    ) -> io.NodeOutput:
        if vae is None:
            raise InputError("Continue Picture has no vae; connect Load MoVQGAN")
        if kept != NONE:
            canvas = continue_kept(require_movqgan(vae), kept, model)
        elif image is None:
            raise InputError("Continue Picture has no picture; connect one to image, or choose one in kept")
        else:
            canvas = make_canvas(require_movqgan(vae), image, mask, width, height, given_height)
        return io.NodeOutput(canvas, show_canvas(canvas))


class SplitPanels(io.ComfyNode):
    """Splits a picture into its panels."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_SplitPanels",
            display_name="Split Panels",
            category=CATEGORY,
            description="Splits a decoded picture into its upper and its lower panel.",
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
                io.Image.Output(display_name="upper"),
                io.Image.Output(display_name="lower"),
                io.Image.Output(display_name="whole"),
            ],
        )

    @classmethod
    def execute(cls, image, canvas=None, reconstruct=False) -> io.NodeOutput:
        return io.NodeOutput(*split(image, canvas, reconstruct))
