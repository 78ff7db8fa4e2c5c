"""MoVQGAN Decode and MoVQGAN Encode."""

from comfy_api.latest import io

from .node import LuminaNode
from .types import CATEGORY
from .vae import require_movqgan


class MoVQGANDecode(LuminaNode):
    """Decodes codes to pictures."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_MoVQGANDecode",
            display_name="MoVQGAN Decode",
            category=CATEGORY,
            description="Decodes the sampler's codes to pictures. The result is that of VAE Decode.",
            search_aliases=["vae decode", "vae", "latent to image", "decode latent", "movq", "vq decode"],
            inputs=[
                io.Latent.Input("samples", tooltip="From Lumina Sampler, MoVQGAN Encode or VAE Encode."),
                io.Vae.Input("vae", tooltip="From Lumina Loader or Load MoVQGAN."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The decoded pictures.")],
        )

    @classmethod
    def execute(cls, samples, vae) -> io.NodeOutput:
        movqgan = require_movqgan(vae)
        return io.NodeOutput(movqgan.decode_codes(movqgan.codes_of(samples)))


class MoVQGANEncode(LuminaNode):
    """Encodes pictures to codes."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LuminaMGPT2_MoVQGANEncode",
            display_name="MoVQGAN Encode",
            category=CATEGORY,
            description="Encodes pictures to codes. MoVQGAN Decode or VAE Decode decodes them again.",
            search_aliases=["vae encode", "vae", "image to latent", "encode image", "tokenize", "token", "vq encode"],
            inputs=[
                io.Image.Input("image", tooltip="Sides in multiples of 8 pixels. Alpha is blended on white."),
                io.Vae.Input("vae", tooltip="From Lumina Loader or Load MoVQGAN."),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The codes of the pictures, and their vectors.")],
        )

    @classmethod
    def execute(cls, image, vae) -> io.NodeOutput:
        movqgan = require_movqgan(vae)
        return io.NodeOutput(movqgan.latent_of(movqgan.encode_codes(image)))
