"""`generate --lora`: the pictures of LoRAs, and what is written of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.pictures.metadata import infotext, read_picture_file
from lumina_core.pipeline import Lumina

from .cli_runs import CommandLine
from .lora_files import random_pairs, save_lora
from .test_metadata import SETTINGS


@pytest.fixture
def lora(lumina: CommandLine) -> Path:
    """A LoRA of the command line's checkpoint, in a folder of its own."""
    config = TransformerConfig.from_file(lumina.checkpoint / "config.json")
    folder = lumina.folder.parent / "loras"
    folder.mkdir()
    return save_lora(folder / "cat.safetensors", random_pairs(config, size=8))


def test_a_lora_changes_the_picture_and_is_named_in_what_is_written(lumina: CommandLine, lora: Path) -> None:
    lumina.generate(name="plain").succeeded()
    lumina.generate("--lora", f"{lora}:0.5", "--lora", lora, name="worn").succeeded()
    lumina.generate("--lora", f"{lora}:0", name="zero").succeeded()
    assert lumina.tokens("zero") == lumina.tokens("plain") != lumina.tokens("worn")
    assert lumina.stats("plain")["loras"] == lumina.stats("zero")["loras"] == []
    assert lumina.stats("worn")["loras"] == [
        {"file": "cat.safetensors", "strength": 0.5},
        {"file": "cat.safetensors", "strength": 1.0},
    ]
    with Image.open(lumina.path("worn.png")) as image:
        assert 'LoRA: "cat.safetensors:0.5, cat.safetensors:1"' in image.info["parameters"]
    plain, zero, worn = (read_picture_file(lumina.path(f"{name}.png")).values for name in ("plain", "zero", "worn"))
    assert plain == zero and [one["strength"] for one in worn["loras"]] == [0.5, 1.0]
    model = Lumina.load(lumina.checkpoint, weights="fp32", device="cpu").with_loras((lora, 0.5), lora)
    drawing = model.draw("a red square", 32, 32)
    assert model.vocabulary.picture_tokens(drawing.codes[0]) == lumina.tokens("worn")[0]


def test_pictures_of_another_lora_are_not_taken_for_those_of_a_line(lumina: CommandLine, lora: Path) -> None:
    prompts, folder = lumina.folder.parent / "prompts.txt", lumina.path("pictures")
    prompts.write_text("a red square\n", encoding="utf-8")
    common = ("generate", "--checkpoint", lumina.checkpoint, "--device", "cpu", "--weights", "fp32")
    common = (*common, "--prompts", prompts, "--width", 32, "--height", 32, "--out", folder)
    assert lumina.run(*common, "--lora", lora).code == 0
    (picture,) = folder.glob("*.png")
    assert read_picture_file(picture).values["loras"][0]["file"] == "cat.safetensors"
    assert "1 of 1 prompts are drawn already" in lumina.run(*common, "--lora", lora).err
    for other in ((), ("--lora", f"{lora}:0.9")):
        assert "is not this picture: its loras is" in lumina.run(*common, *other).refusal()


def test_refusals(lumina: CommandLine, lora: Path) -> None:
    refuses = lumina.refuses_to_generate
    refuses("--lora", f"{lora}:abc", expected="the strength after")
    refuses("--lora", f"{lora}:nan", expected="expected a finite number")
    refuses("--lora", lora.with_name("no.safetensors"), expected="no.safetensors is missing; expected a LoRA")
    refuses("--lora", lora.parent, expected="holds no adapter_model.safetensors")
    refuses("--lora", lumina.checkpoint / "movqgan.safetensors", expected="holds no LoRA for this model")
    refuses("--lora", lora, "--tokens-out", lora, expected="cat.safetensors")


def test_the_settings_of_a_picture_without_loras_are_as_before() -> None:
    assert "loras" not in SETTINGS.values() and "LoRA" not in infotext(SETTINGS)
