"""`decode`, `encode` and `info` of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumina_core.pictures.images import center_crop, load_picture, to_image, to_pixels
from lumina_core.pictures.sizes import picture_length

from .cli_runs import CommandLine, read_pixels, save_noise


def test_decode_gives_the_picture_that_generate_gave(lumina: CommandLine) -> None:
    lumina.generate("--no-metadata", "--batch", 2).succeeded()
    assert lumina.decode(lumina.path("o.json"), "again.png").succeeded().out == ""
    for k in range(2):
        assert lumina.path(f"again_{k}.png").read_bytes() == lumina.path(f"o_{k}.png").read_bytes()


@pytest.mark.parametrize(
    ("suffix", "name"),
    [(".PNG", "PNG"), (".jpg", "JPEG"), (".jpeg", "JPEG"), (".webp", "WEBP"), (".bmp", "BMP"), (".tif", "TIFF")],
)
def test_decode_writes_the_format_of_the_suffix(lumina: CommandLine, suffix: str, name: str) -> None:
    lumina.generate().succeeded()
    lumina.decode(lumina.path("o.json"), f"again{suffix}").succeeded()
    difference = abs(read_pixels(lumina.path(f"again{suffix}")) - read_pixels(lumina.path("o.png")))
    with Image.open(lumina.path(f"again{suffix}")) as picture:
        assert picture.format == name and picture.size == (32, 32)
    assert difference.mean() < (12 if name in ("JPEG", "WEBP") else 1e-9)


def test_encode_then_decode_is_what_movqgan_makes_of_the_picture(lumina: CommandLine, tmp_path: Path) -> None:
    picture = save_noise(tmp_path / "picture.png", (70, 45))
    assert lumina.encode(picture, "t.json").succeeded().out == ""
    codes = lumina.movqgan.encode(to_pixels(center_crop(load_picture(picture), (64, 32))))
    assert lumina.tokens("t") == [lumina.vocabulary.picture_tokens(codes[0])]
    lumina.decode(lumina.path("t.json"), "t.png").succeeded()
    assert np.array_equal(read_pixels(lumina.path("t.png")), np.asarray(to_image(lumina.movqgan.decode(codes))))


def test_encode_crops_to_the_size_asked_for(lumina: CommandLine, tmp_path: Path) -> None:
    picture = save_noise(tmp_path / "picture.png", (70, 45))
    lumina.encode(picture, "t.json", "--width", 32, "--height", 96).succeeded()
    codes = lumina.movqgan.encode(to_pixels(center_crop(load_picture(picture), (32, 96))))
    assert lumina.tokens("t") == [lumina.vocabulary.picture_tokens(codes[0])]


def test_a_picture_smaller_than_a_grid_unit_grows_to_one(lumina: CommandLine, tmp_path: Path) -> None:
    lumina.encode(save_noise(tmp_path / "picture.png", (5, 9)), "t.json").succeeded()
    assert [len(tokens) for tokens in lumina.tokens("t")] == [picture_length(4, 4)]


def test_info_describes_the_checkpoint(lumina: CommandLine) -> None:
    values = json.loads(lumina.run("info", "--checkpoint", lumina.checkpoint, "--json").succeeded().out)
    assert values["checkpoint"] == str(lumina.checkpoint) and values["weight_files"] == 2
    assert values["parameters"] == 448 * 32 * 2 + 2 * (4 * 32 * 32 + 3 * 32 * 64 + 4 * 16 + 2 * 32) + 32
    assert (values["image_codes"], values["first_image_code"]) == (64, 384)
    assert values["picture"] == "32x32, batch 1" and values["run_bytes"] > 0


def test_info_is_read_by_people_too(lumina: CommandLine) -> None:
    lines = lumina.run("info", "--checkpoint", lumina.checkpoint).succeeded().out.splitlines()
    assert len(lines) >= 15 and any(line.startswith("run bytes") and line.endswith(" MiB") for line in lines)


def test_info_of_a_larger_run_reports_more_bytes(lumina: CommandLine) -> None:
    def run_bytes(*options: object) -> int:
        arguments = ("info", "--checkpoint", lumina.checkpoint, "--json", "--weights", "fp32", *options)
        return json.loads(lumina.run(*arguments).succeeded().out)["run_bytes"]

    small, *larger = (
        run_bytes(*options) for options in ((), ("--batch", 2), ("--height", 64), ("--width", 64, "--height", 64))
    )
    assert all(small < other for other in larger)
    assert run_bytes("--weights", "bf16") < small
