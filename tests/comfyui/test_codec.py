"""The MoVQGAN with ComfyUI's VAE nodes and the nodes of this pack."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from workflows import DEMO, node

VAE, PICTURE, ENCODE, DECODE, SAVE = "1", "2", "3", "4", "5"


@pytest.fixture
def picture(server):
    """A 64x96 picture in the server's input folder: a gradient with a red block."""
    pixels = np.linspace(60, 200, 64 * 96 * 3).reshape(96, 64, 3).astype(np.uint8)
    pixels[24:56, 16:40] = (220, 40, 40)
    Image.fromarray(pixels).save(server.base / "input" / "codec.png")
    return "codec.png"


def codec(picture: str, encode: str, decode: str, **decode_inputs) -> dict:
    encoded_by, picture_input = ("MoVQGANEncode", "image") if encode == "ours" else (encode, "pixels")
    kind = f"LuminaMGPT2_{encoded_by}" if encode == "ours" else encoded_by
    return {
        VAE: node("LuminaMGPT2_LoadMoVQGAN", movqgan=DEMO),
        PICTURE: node("LoadImage", image=picture),
        ENCODE: node(kind, vae=[VAE, 0], **{picture_input: [PICTURE, 0]}),
        DECODE: node(
            "LuminaMGPT2_MoVQGANDecode" if decode == "ours" else decode,
            vae=[VAE, 0],
            samples=[ENCODE, 0],
            **decode_inputs,
        ),
        SAVE: node("SaveImage", images=[DECODE, 0], filename_prefix="codec"),
    }


def test_core_and_own_nodes_agree(server, picture):
    pictures = []
    for encode in ("ours", "VAEEncode"):
        for decode in ("ours", "VAEDecode"):
            run = server.run(codec(picture, encode, decode))
            assert run.succeeded, run.error
            pictures += server.pictures(run, SAVE)
    assert all(one.size == (64, 96) and one.tobytes() == pictures[0].tobytes() for one in pictures)


def test_tiled_nodes_run(server, picture):
    workflow = codec(picture, "VAEEncodeTiled", "VAEDecodeTiled", tile_size=64, overlap=16)
    workflow[DECODE]["inputs"] |= {"temporal_size": 64, "temporal_overlap": 8}
    workflow[ENCODE]["inputs"] |= {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
    run = server.run(workflow)
    assert run.succeeded, run.error
    assert server.pictures(run, SAVE)[0].size == (64, 96)


@pytest.mark.parametrize("decode", ["ours", "VAEDecode"])
def test_a_latent_that_is_not_finite_is_an_error(server, picture, decode):
    """Its nearest codes would be those of a near-white picture."""
    workflow, source = codec(picture, "ours", decode), ENCODE
    for number in range(40):
        workflow[f"times ten {number}"] = node("LatentMultiply", samples=[source, 0], multiplier=10.0)
        source = f"times ten {number}"
    workflow[DECODE]["inputs"]["samples"] = [source, 0]
    run = server.run(workflow)
    assert run.error["node_id"] == DECODE and "NaN or infinite" in run.error["exception_message"]


def test_a_changed_latent_is_snapped_to_codes(server, picture):
    workflow = codec(picture, "ours", "ours")
    workflow["6"] = node("LatentMultiply", samples=[ENCODE, 0], multiplier=1.0001)
    plain = server.run(codec(picture, "ours", "ours"))
    workflow[DECODE]["inputs"]["samples"] = ["6", 0]
    scaled = server.run(workflow)
    workflow["6"] = node("LatentFlip", samples=[ENCODE, 0], flip_method="y-axis: horizontally")
    flipped = server.run(workflow)
    assert server.pictures(plain, SAVE)[0].tobytes() == server.pictures(scaled, SAVE)[0].tobytes()
    assert server.pictures(plain, SAVE)[0].tobytes() != server.pictures(flipped, SAVE)[0].tobytes()


def test_an_empty_latent_of_the_demos_channels_decodes(server, picture):
    workflow = codec(picture, "ours", "VAEDecode")
    workflow[ENCODE] = node("EmptySD3LatentImage", width=64, height=64, batch_size=2)
    run = server.run(workflow)
    assert run.succeeded and len(server.pictures(run, SAVE)) == 2


def test_a_latent_of_another_model_is_an_error(server, picture):
    workflow = codec(picture, "ours", "VAEDecode")
    workflow[ENCODE] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
    run = server.run(workflow)
    assert "expected [B,16,h,w]" in run.error["exception_message"]


def test_a_picture_of_odd_size_is_an_error(server):
    Image.new("RGB", (70, 64)).save(server.base / "input" / "odd.png")
    for encode in ("ours", "VAEEncode"):
        run = server.run(codec("odd.png", encode, "VAEDecode"))
        assert "70x64" in run.error["exception_message"] and "64x64" in run.error["exception_message"]


@pytest.mark.parametrize("step", [ENCODE, DECODE])
def test_cancel_ends_encoding_and_decoding_of_a_large_picture(server, step):
    Image.new("RGB", (1024, 1024), (200, 90, 40)).save(server.base / "input" / "large.png")
    run = server.run(codec("large.png", "ours", "ours"), cancel_in=step)
    assert run.interrupted_at == step
