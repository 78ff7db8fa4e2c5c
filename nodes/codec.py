"""MoVQGAN Decode and MoVQGAN Encode."""

from comfy_api.latest import io

from .types import CATEGORY
from .vae import require_movqgan


class MoVQGANDecode(io.ComfyNode):
    """Decodes codes to pictures."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_MoVQGANDecode",
            display_name="MoVQGAN Decode",
            category=CATEGORY,
            description="Decodes the sampler's codes to pictures. The result is that of VAE Decode.",
            inputs=[
                io.Latent.Input("samples", tooltip="From SJD Sampler, MoVQGAN Encode or VAE Encode."),
                io.Vae.Input("vae", tooltip="From Load MoVQGAN."),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(cls, samples, vae) -> io.NodeOutput:
        movqgan = require_movqgan(vae)
        return io.NodeOutput(movqgan.decode_codes(movqgan.codes_of(samples)))


class MoVQGANEncode(io.ComfyNode):
    """Encodes pictures to codes."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_MoVQGANEncode",
            display_name="MoVQGAN Encode",
            category=CATEGORY,
            description="Encodes pictures to codes. MoVQGAN Decode or VAE Decode decodes them again.",
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
