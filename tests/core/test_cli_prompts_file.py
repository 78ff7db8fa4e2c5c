"""`generate --prompts`: a picture for each line, resumable; every line is checked before the model is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lumina_core.errors import OutOfMemory
from lumina_core.pictures.metadata import JSON_TEXT
from lumina_core.pipeline import Lumina

from .cli_runs import CommandLine, Outcome, read_pixels


class Prompts:
    """Runs of `generate --prompts` that draw 32x32 in float32 into a folder."""

    def __init__(self, lumina: CommandLine, folder: Path) -> None:
        self.lumina, self.out, self.file = lumina, lumina.path("pictures"), folder / "prompts.jsonl"

    def write(self, *lines: object) -> None:
        """Writes the file: JSON of dictionaries, text and bytes as they are."""
        texts = (json.dumps(line) if isinstance(line, dict) else line for line in lines)
        content = b"\n".join(text if isinstance(text, bytes) else str(text).encode("utf-8") for text in texts)
        self.file.write_bytes(content)

    def run(self, *options: object) -> Outcome:
        return self.lumina.run(*self._command(), *options)

    def refuses(self, *options: object, expected: str) -> None:
        self.lumina.refuses(*self._command(), *options, expected=expected)

    def _command(self) -> tuple[object, ...]:
        return (
            *("generate", "--checkpoint", self.lumina.checkpoint, "--device", "cpu", "--weights", "fp32"),
            *("--prompts", self.file, "--width", 32, "--height", 32, "--out", self.out),
        )

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.out.iterdir()}

    def values(self, name: str) -> dict[str, Any]:
        """The settings in a PNG file."""
        with Image.open(self.out / name) as picture:
            return json.loads(picture.info[JSON_TEXT])


@pytest.fixture
def prompts(lumina: CommandLine, tmp_path: Path) -> Prompts:
    return Prompts(lumina, tmp_path)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The models that were loaded."""
    seen: list[object] = []
    load = Lumina.load

    def watched(*arguments: Any, **options: Any) -> Lumina:
        seen.append(arguments)
        return load(*arguments, **options)

    monkeypatch.setattr(Lumina, "load", watched)
    return seen


THREE = ({"prompt": "a red square"}, {"prompt": "a red square"}, {"prompt": "rot, 红色 🟥"})


def test_a_line_draws_the_file_of_a_command_of_its_own(prompts: Prompts, loads: list[object]) -> None:
    prompts.file = prompts.file.with_suffix(".txt")
    prompts.write("# three", "", "a red square", "  a red square\r", "rot, 红色 🟥")
    outcome = prompts.run("--seed", 5)
    assert (outcome.code, outcome.out, len(loads)) == (0, "", 1)
    assert "prompt 3 of 3, line 5: " in outcome.err
    for index, prompt in enumerate(("a red square", "a red square", "rot, 红色 🟥")):
        prompts.lumina.generate("--prompt", prompt, "--seed", 5 + index).succeeded()
        assert prompts.lumina.path("o.png").read_bytes() == prompts.files()[f"0000{index}.png"]


def test_values_of_a_line_come_before_those_of_the_command(prompts: Prompts, noise: Path) -> None:
    condition = {"task": "edit", "condition": noise.name, "height": 64}  # beside the file of prompts
    own = {
        "seed": 9,
        "cfg": 2,
        "top_k": 7,
        "top_p": 0.9,
        "min_p": 0.2,
        "temperature": 0.5,
        "decoder": "sjd",
        "out": "own.png",
    }
    prompts.write(
        {"prompt": "a cup", **condition, **own}, {"prompt": "a cup", "seed": None}, {"prompt": "a", "out": "a.bmp"}
    )
    assert prompts.run("--cfg", 3, "--batch", 2).code == 0
    assert sorted(prompts.files()) == ["00001_0.png", "00001_1.png", "a_0.bmp", "a_1.bmp", "own_0.png", "own_1.png"]
    values = prompts.values("own_1.png")
    assert values.items() >= {**own, "seed": 10, "task": "edit", "condition": "noise.png"}.items() - {
        ("out", "own.png")
    }
    assert read_pixels(prompts.out / "own_1.png").shape == (64, 32, 3)
    assert (prompts.values("00001_1.png")["seed"], prompts.values("00001_1.png")["cfg"]) == (1 * 2 + 1, 3)


def test_a_line_may_have_a_negative_prompt_of_its_own(prompts: Prompts) -> None:
    prompts.write({"prompt": "a cup"}, {"prompt": "a cup", "negative": "red"}, {"prompt": "a cup", "negative": ""})
    assert prompts.run("--seed", 3, "--negative", "green").code == 0
    assert [prompts.values(f"0000{k}.png").get("negative") for k in range(3)] == ["green", "red", None]
    for k, options in enumerate((("--negative", "green"), ("--negative", "red"), ("--negative", " "))):
        prompts.lumina.generate("--prompt", "a cup", "--seed", 3 + k, *options).succeeded()
        drawn = read_pixels(prompts.lumina.path("o.png"))
        assert (drawn == read_pixels(prompts.out / f"0000{k}.png")).all()
    prompts.lumina.generate("--prompt", "a cup", "--seed", 3).succeeded()
    assert (read_pixels(prompts.lumina.path("o.png")) != read_pixels(prompts.out / "00000.png")).any()
    assert "its negative is " in prompts.run("--seed", 3, "--negative", "blue").refusal()


# Resuming


def test_what_is_there_is_not_drawn_again(prompts: Prompts, loads: list[object]) -> None:
    prompts.write(*THREE)
    assert prompts.run().code == 0
    whole = prompts.files()
    stamps = {path: path.stat().st_mtime_ns for path in prompts.out.iterdir()}
    (prompts.out / "00001.png").unlink()
    outcome = prompts.run("--weights", "auto")  # what an earlier run used is as good
    assert (
        f"2 of 3 prompts are drawn already in {prompts.out}" in outcome.err and "prompt 1 of 1, line 2" in outcome.err
    )
    assert prompts.files() == whole
    assert [path.name for path in prompts.out.iterdir() if path.stat().st_mtime_ns != stamps[path]] == ["00001.png"]
    outcome = prompts.run()
    assert outcome.code == 0 and "3 of 3 prompts" in outcome.err and len(loads) == 2


def test_only_the_missing_picture_of_a_batch_is_written(prompts: Prompts) -> None:
    prompts.write(THREE[0])
    assert prompts.run("--batch", 2).code == 0
    whole = prompts.files()
    (prompts.out / "00000_1.png").unlink()
    kept = (prompts.out / "00000_0.png").stat().st_ino
    assert prompts.run("--batch", 2).code == 0
    assert prompts.files() == whole and (prompts.out / "00000_0.png").stat().st_ino == kept


def other_model(prompts: Prompts) -> Path:
    """The checkpoint with one bit of its weights changed."""
    copy = Path(shutil.copytree(prompts.lumina.checkpoint, prompts.lumina.path("copy")))
    shard = next(copy.glob("model-00001*"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    return copy


OTHERS = [
    (("--seed", 1), "its seed is 0 and not 1"),
    (("--cfg", 2), "its cfg is 4.0 and not 2.0"),
    (("--weights", "bf16"), "its weights is 'fp32' and not 'bf16'"),
    (("--kv", "int8"), "its kv is 'auto' and not 'int8'"),
    (("--decoder", "sjd"), "its decoder is 'gumbel' and not 'sjd'"),
    (("--height", 64), "its height is 32 and not 64"),
]


def test_a_picture_of_other_settings_is_neither_overwritten_nor_skipped(prompts: Prompts) -> None:
    prompts.write(THREE[0])
    assert prompts.run().code == 0
    for options, expected in OTHERS:
        prompts.refuses(*options, expected=f"00000.png is there and is not this picture: {expected}")
    prompts.refuses("--checkpoint", other_model(prompts), expected="its model_id is")
    prompts.write({"prompt": "another"})
    prompts.refuses(expected=f"line 1 of {prompts.file}: {prompts.out / '00000.png'} is there")


def test_a_condition_that_was_changed_makes_another_picture(prompts: Prompts, noise: Path) -> None:
    prompts.write({"prompt": "a cup", "task": "edit", "condition": noise.name, "height": 64})
    assert prompts.run().code == 0 and prompts.run().code == 0
    Image.new("RGB", (32, 32), "red").save(noise)
    prompts.refuses(expected="its condition_id is")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def strip(path: Path) -> None:
    Image.fromarray(read_pixels(path).astype("uint8")).save(path)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (cut, "00000.png is no whole picture"),
        (lambda path: path.write_text("mine"), "00000.png is no whole picture"),
        (lambda path: path.unlink() or path.mkdir(), "00000.png is no whole picture"),
        (strip, "it does not say its settings"),
    ],
    ids=["cut", "text", "folder", "stripped"],
)
def test_another_file_of_that_name_stays(prompts: Prompts, damage: Any, expected: str) -> None:
    prompts.write(THREE[0])
    assert prompts.run().code == 0
    damage(prompts.out / "00000.png")
    prompts.refuses(expected=expected)


def test_without_metadata_sizes_are_compared_which_is_said(prompts: Prompts) -> None:
    prompts.write(*THREE)
    assert prompts.run("--no-metadata").code == 0
    with Image.open(prompts.out / "00000.png") as picture:
        assert picture.info == {}
    (prompts.out / "00002.png").unlink()
    outcome = prompts.run("--no-metadata")
    assert "2 of 3 prompts are drawn already" in outcome.err
    assert "2 of the pictures do not say their settings: only sizes were compared" in outcome.err
    prompts.refuses("--no-metadata", "--height", 64, expected="its size is 32x32")


def test_a_file_that_appears_while_its_picture_is_drawn_stays(
    prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts.write(THREE[0])
    decode = Lumina.decode

    def late(self: Lumina, codes: Any) -> Any:
        (prompts.out / "00000.png").write_text("mine")
        return decode(self, codes)

    monkeypatch.setattr(Lumina, "decode", late)
    assert "has written a file of this name meanwhile" in prompts.run().err
    assert prompts.files() == {"00000.png": b"mine"}


# What ends a run


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def out_of_memory(*_: object, **__: object) -> None:
    raise OutOfMemory("out of memory while drawing")


@pytest.mark.parametrize(
    ("fail", "code", "expected"),
    [
        (interrupt, 130, "lumina_core: cancelled after 1 of 3 prompts were drawn; the same command draws the rest"),
        (out_of_memory, 2, "lumina_core: line 2: out of memory while drawing; 1 of 3 prompts were drawn; the same"),
    ],
)
def test_an_end_in_the_middle_keeps_the_pictures_before(
    prompts: Prompts, monkeypatch: pytest.MonkeyPatch, fail: Any, code: int, expected: str
) -> None:
    prompts.write(*THREE)
    sample, drawn = Lumina.sample, []

    def limited(self: Lumina, *arguments: Any) -> Any:
        drawn.append(self)
        return (sample if len(drawn) == 1 else fail)(self, *arguments)

    monkeypatch.setattr(Lumina, "sample", limited)
    outcome = prompts.run()
    assert outcome.code == code and outcome.err.splitlines()[-1].startswith(expected)
    assert list(prompts.files()) == ["00000.png"]
    monkeypatch.undo()
    assert prompts.run().code == 0 and len(prompts.files()) == 3


# Broken lines


def line(**values: object) -> dict[str, object]:
    return {"prompt": "a cup", **values}


BROKEN = [
    ('{"prompt": "a"', "it is not valid JSON (Expecting ',' delimiter at column 15)"),
    ('["a"]', "contains a JSON list; expected an object"),
    ("a red square", "it is not valid JSON"),
    ('{"prompt": "a", "prompt": "b"}', "the key 'prompt' comes twice"),
    ('{"prompt": "a \\ud800"}', "is not valid JSON"),
    ('{"prompt": "a", "cfg": NaN}', "which is no number in JSON"),
    ('{"prompt": ' + "[" * 100_000, "nested too deeply"),
    (b'{"prompt": "caf\xe9"}', "it is not UTF-8 text"),
    (line(colour="red"), "it has the unknown key 'colour'; expected prompt, negative, width"),
    ({"seed": 1}, "prompt is missing"),
    (line(prompt=7), "prompt is 7; expected a text"),
    (line(prompt="  "), "prompt is empty"),
    (line(prompt="word " * 3000), "expected a shorter prompt"),
    (line(width="32"), "width is '32'; expected a whole number"),
    (line(width=32.0), "width is 32.0; expected a whole number"),
    (line(height=True), "height is True; expected a whole number"),
    (line(width=33), "33x32; expected positive multiples of 32"),
    (line(height=512), "sides of at most 256"),
    (line(seed=-1), "seed is -1"),
    (line(seed=2**64), f"seed is {2**64}"),
    (line(cfg="4"), "cfg is '4'; expected a number"),
    (line(cfg=101), "cfg is 101"),
    (line(top_k=0), "top_k is 0"),
    (line(temperature=0), "temperature is 0"),
    (line(decoder="magic"), "decoder is 'magic'"),
    (line(task="magic"), "the task is 'magic'"),
    (line(task="pair", height=64), "map is missing"),
    (line(task="pair", height=64, map="heat"), "map is 'heat'"),
    (line(task="edit", height=64), "the task edit needs a picture"),
    (line(task="edit", height=64, condition="absent.png"), "absent.png"),
    (line(task="edit", height=64, condition="prompts.jsonl"), "prompts.jsonl"),
    (line(condition="noise.png", height=64), "the task t2i takes no picture"),
    (line(condition="noise.png", height=64, given_height=12), "the given height is 12"),
    (line(condition="a\0.png", given_height=8), "a"),
    (line(out="a/b.png"), "out is 'a/b.png'; expected the name of a picture in the folder --out"),
    (line(out=".."), "out is '..'"),
    (line(out="a.txt"), "the suffix is '.txt'"),
    (line(out="a" * 300 + ".png"), "is too long"),
    (line(out="00000.PNG"), "it would write 00000.PNG, as line 1 does"),
]


def test_every_broken_line_is_told(prompts: Prompts, noise: Path) -> None:
    prompts.write(THREE[0], *(broken for broken, _ in BROKEN))
    outcome = prompts.run("--skip-bad")
    assert outcome.code == 0 and list(prompts.files()) == ["00000.png"]
    told = [said for said in outcome.err.splitlines() if " is skipped: " in said]
    for number, (said, (_, expected)) in enumerate(zip(told, BROKEN, strict=True), 2):
        assert said.startswith(f"WARNING: line {number} of {prompts.file} is skipped: ") and expected in said, said


def test_a_broken_line_is_named_and_nothing_is_loaded(prompts: Prompts, loads: list[object]) -> None:
    prompts.write(THREE[0], "{")
    prompts.refuses(expected=f"lumina_core: line 2 of {prompts.file}: it is not valid JSON")
    assert not loads and not prompts.out.exists()


def test_all_broken_lines_are_counted(prompts: Prompts) -> None:
    prompts.write({"prompt": ""}, "", THREE[0], "{", "[]")
    prompts.refuses(
        expected=f"line 1 of {prompts.file}: prompt is empty; expected what to draw; broken too: lines 4, 5"
    )


def test_skip_bad_draws_the_other_lines_under_their_own_names(prompts: Prompts) -> None:
    prompts.write(THREE[0], "{", THREE[2])
    outcome = prompts.run("--skip-bad")
    assert outcome.code == 0
    assert f"WARNING: line 2 of {prompts.file} is skipped: it is not valid JSON" in outcome.err
    assert sorted(prompts.files()) == ["00000.png", "00002.png"] and prompts.values("00002.png")["seed"] == 2
    prompts.write("{")
    prompts.refuses("--skip-bad", expected="no line is left to draw")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "holds no prompt"),
        (b"# nothing\n\n", "holds no prompt"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is a PNG picture; expected a file of prompts"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"a cup\n" + b'{"prompt": "a"}', "line 2 of"),
    ],
)
def test_files_that_hold_no_prompts(prompts: Prompts, content: bytes, expected: str) -> None:
    prompts.file = prompts.file.with_suffix(".txt")
    prompts.write(content)
    prompts.refuses(expected=expected)


def test_text_in_utf16_and_json_without_its_suffix_are_read(prompts: Prompts) -> None:
    prompts.file = prompts.file.with_suffix(".txt")
    prompts.file.write_text('{"prompt": "a cup é", "out": "a.png"}', encoding="utf-16")
    assert prompts.run().code == 0 and prompts.values("a.png")["prompt"] == "a cup é"


def test_options_that_do_not_go_with_prompts(prompts: Prompts) -> None:
    prompts.write(THREE[0])
    lumina = prompts.lumina
    prompts.refuses("--prompt", "a cup", expected="argument --prompt: not allowed with argument --prompts")
    prompts.refuses("--tokens-out", lumina.path("t.json"), expected="--tokens-out: not allowed with argument --prompts")
    prompts.refuses("--out", lumina.path("a.png"), expected="--out is the folder")
    prompts.refuses("--out", prompts.file, expected="--out is the folder")
    prompts.refuses("--out", lumina.path("absent") / "deep", expected="create it first")
    lumina.refuses_to_generate("--skip-bad", expected="it is for --prompts")
    command = ("generate", "--checkpoint", lumina.checkpoint, "--out", lumina.path("o.png"))
    lumina.refuses(*command, expected="one of the arguments --prompt --prompts is required")
    lumina.refuses(*command, "--prompt", "a cup", "--width", 32, expected="required with --prompt: --height")
    lumina.refuses(*command[:3], "--prompts", prompts.file, "--out", prompts.out, expected="line 1 of")
