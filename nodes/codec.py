"""MoVQGAN Decode and MoVQGAN Encode."""

from comfy_api.latest import io

from .types import CATEGORY
from .vae import require_movqgan


class MoVQGANDecode(io.ComfyNode):
    """Codes to pictures."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_MoVQGANDecode",
            display_name="MoVQGAN Decode",
            category=CATEGORY,
            description="Turns the sampler's codes into pictures, exactly as VAE Decode does.",
            inputs=[
                io.Latent.Input("samples", tooltip="The sampler's latent, or that of MoVQGAN Encode or VAE Encode."),
                io.Vae.Input("vae", tooltip="From Load MoVQGAN."),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(cls, samples, vae) -> io.NodeOutput:
        movqgan = require_movqgan(vae)
        return io.NodeOutput(movqgan.decode_codes(movqgan.codes_of(samples)))


class MoVQGANEncode(io.ComfyNode):
    """Pictures to codes."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_MoVQGANEncode",
            display_name="MoVQGAN Encode",
            category=CATEGORY,
            description="Turns pictures into codes: a latent that MoVQGAN Decode and VAE Decode turn back.",
            inputs=[
                io.Image.Input("image", tooltip="Sides in multiples of 8 pixels. Alpha is blended on white."),
                io.Vae.Input("vae", tooltip="From Load MoVQGAN."),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def execute(cls, image, vae) -> io.NodeOutput:
        movqgan = require_movqgan(vae)
        return io.NodeOutput(movqgan.latent_of(movqgan.encode_codes(image)))
