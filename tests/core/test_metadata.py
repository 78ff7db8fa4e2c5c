"""What a PNG file says of its picture is read by the programs that it is meant for."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from lumina_core.files.output_files import OutputFiles
from lumina_core.pictures.metadata import PictureSettings, infotext, png_texts, read_picture_file
from lumina_core.pictures.png import SIGNATURE, png_chunks

from .cli_runs import CommandLine

SETTINGS = PictureSettings(
    prompt="a red cup",
    task="t2i",
    width=32,
    height=64,
    seed=2**64 - 1,
    cfg=4.0,
    top_k=4096,
    temperature=0.95,
    decoder="gumbel",
    weights="int4",
    kv="auto",
    dtype="bfloat16",
    steps=32,
    model="Lumina, 2.0",
    model_id="0123456789abcdef",
)
# How readers of the web UI's form split its last line: names, and values that are quoted or end at a comma.
PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def save(path: Path, settings: PictureSettings) -> Path:
    with OutputFiles() as files:
        files.write_picture(Image.new("RGB", settings.size), path, png_texts(settings))
    return path


def text_chunks(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        file.seek(len(SIGNATURE))
        return [name for name, _ in png_chunks(file) if name in (b"tEXt", b"iTXt", b"zTXt")]


def test_the_parameters_are_split_as_those_of_the_web_ui() -> None:
    settings = replace(SETTINGS, prompt="a cup,\nSteps: none", task="subject", object='a "cup": red, large')
    *prompt, pairs = infotext(settings).split("\n")
    values = {name: json.loads(value) if value.startswith('"') else value for name, value in PAIR.findall(pairs)}
    assert "\n".join(prompt) == settings.prompt
    assert list(values)[:5] == ["Steps", "Sampler", "CFG scale", "Seed", "Size"]
    assert list(values.values())[:5] == ["32", "gumbel", "4", str(2**64 - 1), "32x64"]
    assert (values["Object"], values["Model"], values["Temperature"]) == (settings.object, "Lumina, 2.0", "0.95")


def test_the_negative_prompt_has_a_line_of_its_own() -> None:
    *texts, _ = infotext(replace(SETTINGS, negative="blurry, red")).split("\n")
    assert texts == [SETTINGS.prompt, "Negative prompt: blurry, red"]
    values = replace(SETTINGS, negative="blurry, red").values()
    assert "its negative is None and not 'blurry, red'" in replace(SETTINGS, negative="blurry, red").difference(
        SETTINGS.values()
    )
    assert "its negative is 'blurry, red' and not None" in SETTINGS.difference(values)


def test_a_picture_without_top_p_and_min_p_says_nothing_of_them(lumina: CommandLine) -> None:
    """So those that were drawn before there were any are the same pictures."""
    lumina.generate().succeeded()
    lumina.generate("--top-p", 0.9, "--min-p", 0.05, "--out", lumina.path("cut.png")).succeeded()
    plain, cut = (read_picture_file(lumina.path(name)).values for name in ("o.png", "cut.png"))
    assert cut.items() - plain.items() >= {("top_p", 0.9), ("min_p", 0.05)} and not plain.keys() & {"top_p", "min_p"}
    with Image.open(lumina.path("cut.png")) as picture:
        assert ", Top K: 4096, Top P: 0.9, Min P: 0.05, " in picture.info["parameters"]


@pytest.mark.parametrize(
    ("prompt", "chunks"),
    [
        ("a red cup", [b"tEXt"] * 2),
        ("café", [b"iTXt"] * 2),
        ("ein Bild, 三角形 🔺\n\u2028", [b"iTXt"] * 2),
        ("a\0b", [b"iTXt", b"tEXt"]),
    ],
)
def test_every_prompt_comes_back(tmp_path: Path, prompt: str, chunks: list[bytes]) -> None:
    settings = replace(SETTINGS, prompt=prompt)
    path = save(tmp_path / "o.png", settings)
    found = read_picture_file(path)
    assert found.values == settings.values() and found.size == (32, 64)
    assert text_chunks(path) == chunks
    with Image.open(path) as picture:
        assert picture.info["parameters"] == infotext(settings)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp", ".tiff"])
def test_other_formats_carry_nothing(tmp_path: Path, suffix: str) -> None:
    assert read_picture_file(save(tmp_path / f"o{suffix}", SETTINGS)).values is None


def test_generate_says_prompt_seed_and_settings_unless_told_not_to(lumina: CommandLine) -> None:
    lumina.generate("--batch", 2, "--seed", 3, "--task", "pair", "--map", "depth", "--height", 64).succeeded()
    with Image.open(lumina.path("o_1.png")) as picture:
        assert picture.info["parameters"].startswith(
            "a red square\nSteps: 32, Sampler: gumbel, CFG scale: 4, Seed: 4, "
        )
        assert json.loads(picture.info["lumina_mgpt2"])["map"] == "depth"
    lumina.generate("--no-metadata").succeeded()
    assert text_chunks(lumina.path("o.png")) == []
