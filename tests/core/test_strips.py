"""MoVQGAN strip by strip: the whole way's pictures and codes but for rounding, at any height of the strips."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lumina_core.checkpoint.locate import DEMO_FOLDER
from lumina_core.device import free_bytes
from lumina_core.errors import InputError, OutOfMemory
from lumina_core.movqgan.autoencoder import MoVQGAN
from lumina_core.movqgan.codec import decode_picture, encode_picture
from lumina_core.movqgan.config import STRIP_ROWS
from lumina_core.movqgan.load import load_movqgan
from lumina_core.timing.synthetic import SYNTHETIC

from .cli_runs import CommandLine

ROWS = [1, 3, 8, 32, 10**6]
# Of pixels in [-1,1], in float32; 4e-6 to 5e-5 was found.
TOLERANCE = 2e-4
NEVER = 10**18


@pytest.fixture(scope="module", params=["demo", "f8_square", "f8_wide"])
def model(request: pytest.FixtureRequest, golden: Path) -> MoVQGAN:
    folder = DEMO_FOLDER if request.param == "demo" else golden / "movqgan" / request.param
    return load_movqgan(Path(folder) / "movqgan.safetensors")


@pytest.fixture(scope="module")
def demo() -> MoVQGAN:
    return load_movqgan(Path(DEMO_FOLDER) / "movqgan.safetensors")


def codes_of(model: MoVQGAN, grid_h: int = 6, grid_w: int = 5, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.config.codebook_size, (batch, grid_h, grid_w), generator=generator)


def pixels_of(model: MoVQGAN) -> Tensor:
    return model.decode(codes_of(model, 4, 7)).clamp(-1, 1)


def eight_bits(pixels: Tensor) -> Tensor:
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255)


def psnr(pixels: Tensor, expected: Tensor) -> float:
    """Of 8-bit values, in dB."""
    error = (eight_bits(pixels) - eight_bits(expected)).square().mean()
    return float(10 * torch.log10(255**2 / error))


@pytest.mark.parametrize("rows", ROWS)
def test_decode_is_the_whole_one(model: MoVQGAN, rows: int) -> None:
    codes = codes_of(model, batch=2)
    found, expected = model.decode(codes, strip_rows=rows), model.decode(codes)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
    off = (eight_bits(found) - eight_bits(expected)).abs()
    assert off.max() <= 1 and (off > 0).float().mean() < 1e-3


@pytest.mark.parametrize("rows", ROWS)
def test_encode_is_the_whole_one(model: MoVQGAN, rows: int) -> None:
    pixels = pixels_of(model)
    found, expected = model.encode_latent(pixels, rows), model.encode_latent(pixels)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
    assert torch.equal(model.encode(pixels, rows), model.encode(pixels))


def test_decode_in_bfloat16_is_near_float32_either_way(demo: MoVQGAN) -> None:
    """51 dB was found for both ways; between them 54."""
    half = load_movqgan(Path(DEMO_FOLDER) / "movqgan.safetensors", dtype=torch.bfloat16)
    codes = codes_of(demo, 8, 8)
    expected, whole, strips = demo.decode(codes), half.decode(codes), half.decode(codes, strip_rows=8)
    assert strips.dtype == torch.bfloat16
    assert psnr(whole, expected) > 40 and psnr(strips, expected) > 40 and psnr(strips, whole) > 45


def test_no_layer_sees_more_than_a_strip(demo: MoVQGAN) -> None:
    heights: list[int] = []
    seen = [
        layer.register_forward_hook(lambda _, given, __: heights.append(given[0].shape[2]))
        for layer in demo.decoder.modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
    ]
    demo.decode(codes_of(demo, 8, 8), strip_rows=6)
    for hook in seen:
        hook.remove()
    assert max(heights) == 6 + 4


@pytest.mark.parametrize("rows", [0, -1])
def test_strips_without_rows_are_refused(demo: MoVQGAN, rows: int) -> None:
    with pytest.raises(InputError, match=f"strips have {rows} rows; expected 1 or more"):
        demo.decode(codes_of(demo), strip_rows=rows)


def test_the_published_size_takes_a_third_in_strips() -> None:
    config = SYNTHETIC["7b"].movqgan
    whole, strips = (config.picture_bytes(96, 96, 4, rows) for rows in (None, STRIP_ROWS))
    assert 0.25 < strips / whole < 0.4


# With the memory that there is


@pytest.fixture
def ways(demo: MoVQGAN, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int | None]]:
    """The `strip_rows` of every decode from now on."""
    taken: list[int | None] = []
    decode = MoVQGAN.decode

    def noted(self: MoVQGAN, codes: Tensor, strip_rows: int | None = None) -> Tensor:
        taken.append(strip_rows)
        return decode(self, codes, strip_rows)

    monkeypatch.setattr(MoVQGAN, "decode", noted)
    return taken


def refuse(monkeypatch: pytest.MonkeyPatch, refused: Callable[[int | None], bool]) -> None:
    """Decoding and encoding run out of memory in the ways that `refused` names."""

    def limited(work: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(self: MoVQGAN, given: Tensor, strip_rows: int | None = None) -> Tensor:
            if refused(strip_rows):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            return work(self, given, strip_rows)

        return run

    for name in ("decode", "encode"):
        monkeypatch.setattr(MoVQGAN, name, limited(getattr(MoVQGAN, name)))


@pytest.mark.parametrize(("free", "way"), [(NEVER, None), (1, STRIP_ROWS), (None, None)])
def test_strips_are_taken_where_the_whole_does_not_fit(
    demo: MoVQGAN, ways: list[int | None], caplog: pytest.LogCaptureFixture, free: int | None, way: int | None
) -> None:
    caplog.set_level(logging.INFO, "lumina_core")
    decode_picture(demo, codes_of(demo), free)
    assert ways == [way]
    messages = ["decoding a picture of 40x48 in strips: whole it takes"] if way else []
    assert [record.getMessage()[:53] for record in caplog.records] == messages


def test_out_of_memory_leads_to_strips(
    demo: MoVQGAN, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    codes, pixels = codes_of(demo), pixels_of(demo)
    picture, codes_of_pixels = demo.decode(codes), demo.encode(pixels)
    refuse(monkeypatch, lambda rows: rows is None)
    torch.testing.assert_close(decode_picture(demo, codes, NEVER), picture, atol=TOLERANCE, rtol=0)
    assert torch.equal(encode_picture(demo, pixels, NEVER), codes_of_pixels)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("out of memory while decoding a picture of 40x48 whole: retrying in strips")
    assert second.startswith("out of memory while encoding a picture of 56x32 whole: retrying in strips")


def test_strips_that_do_not_fit_either_are_one_clear_error(demo: MoVQGAN, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, lambda _: True)
    with pytest.raises(OutOfMemory) as caught:
        decode_picture(demo, codes_of(demo))
    assert str(caught.value).startswith("out of memory while decoding a picture of 40x48, which takes about ")
    assert "strips did not fit either: close other programs that use the memory" in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_free_bytes_of_the_cpu_are_less_than_all() -> None:
    free = free_bytes(torch.device("cpu"))
    assert free is None or 0 < free < 10**15


# The command line


def test_command_line_decodes_in_strips_when_memory_runs_out(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lumina.generate("--tokens-out", lumina.path("o.json")).succeeded()
    refuse(monkeypatch, lambda rows: rows is None)
    done = lumina.decode(lumina.path("o.json"), "again.png")
    assert done.code == 0 and lumina.path("again.png").is_file()
    assert "WARNING: out of memory while decoding a picture of 32x32 whole: retrying in strips" in done.err


def test_command_line_says_what_to_do_when_strips_do_not_fit(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, lambda _: True)
    line = lumina.generate().refusal()
    assert (
        "out of memory while decoding a picture of 32x32, which takes about" in line
        and "the tokens are saved in" in line
    )
