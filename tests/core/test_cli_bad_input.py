"""Bad input: one line on stderr that says what is wrong, exit code 2, and nothing written."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from .checkpoints import cut_in_half
from .cli_runs import CommandLine

Arguments = tuple[object, ...]


@pytest.fixture
def encode(lumina: CommandLine) -> Arguments:
    """`encode` but for its picture."""
    return "encode", "--checkpoint", lumina.checkpoint, "--tokens-out", lumina.path("t.json")


@pytest.fixture
def decode(lumina: CommandLine) -> Arguments:
    """`decode` but for its tokens."""
    return "decode", "--checkpoint", lumina.checkpoint, "--out", lumina.path("decoded.png")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "required: COMMAND"),
        (("draw",), "invalid choice: 'draw'"),
        (("generate",), "--checkpoint, --out"),
        (("generate", "--magic"), "required"),
        (("encode",), "image, --tokens-out"),
        (("decode",), "tokens, --out"),
        (("info", "--magic"), "unrecognized arguments: --magic"),
    ],
)
def test_incomplete_commands(lumina: CommandLine, arguments: tuple[str, ...], expected: str) -> None:
    lumina.refuses(*arguments, expected=expected)
    lumina.refuses(*arguments, expected="--help)")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ("--width", 65),
            "65x32; expected positive multiples of 32; the nearest size that the model was trained on is 64x32",
        ),
        (("--height", 0), "32x0; expected positive multiples of 32"),
        (("--width", -64), "-64x32; expected positive multiples of 32"),
        (("--width", 288), "sides of at most 256"),
        (("--width", 256, "--height", 256), "at most 1024 tokens"),
        (("--height", 10**30), "sides of at most 256"),
        (("--width", 32 * 10**400), "sides of at most 256"),
        (("--width", 1.5), "invalid int value: '1.5'"),
        (("--width", "wide"), "invalid int value: 'wide'"),
        (("--cfg", "nan"), "cfg is nan"),
        (("--cfg", "inf"), "cfg is inf"),
        (("--cfg", -1), "cfg is -1.0"),
        (("--cfg", "strong"), "invalid float value: 'strong'"),
        (("--top-k", 0), "top_k is 0"),
        (("--top-k", -5), "top_k is -5"),
        (("--top-p", 0), "top_p is 0.0; expected a number above 0, at most 1"),
        (("--min-p", 1.5), "min_p is 1.5; expected a number from 0 to 1"),
        (("--temperature", 0), "temperature is 0.0"),
        (("--temperature", "nan"), "temperature is nan"),
        (("--temperature", "inf"), "temperature is inf"),
        (("--temperature", -1), "temperature is -1.0"),
        (("--seed", -1), "seed is -1"),
        (("--seed", 2**64), f"seed is {2**64}"),
        (("--window", 0), "window is 0"),
        (("--window", 129), "window is 129; expected a whole number from 1 to 128"),
        (("--batch", 0), "batch is 0; expected 1 to 1024"),
        (("--batch", -1), "batch is -1"),
        (("--batch", 10**9), f"batch is {10**9}"),
        (("--decoder", "magic"), "invalid choice: 'magic'"),
        (("--task", "magic"), "invalid choice: 'magic'"),
        (("--weights", "int3"), "invalid choice: 'int3'"),
        (("--device", "abacus"), "invalid choice: 'abacus'"),
        (("--prompt", "word " * 3000), "expected a shorter prompt"),
        (("--prompt", "\udcff"), "not valid Unicode"),
        (("--checkpoint", "absent"), "checkpoint absent does not exist"),
        (("--movqgan", "absent.ckpt"), "file absent.ckpt is missing; expected a MoVQGAN"),
    ],
    ids=lambda value: " ".join(map(str, value))[:40] if isinstance(value, tuple) else "",
)
def test_options_out_of_range(lumina: CommandLine, options: Arguments, expected: str) -> None:
    lumina.refuses_to_generate(*options, expected=expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(lumina: CommandLine) -> None:
    lumina.refuses_to_generate("--device", "cuda", expected="PyTorch finds no CUDA device; use cpu")


@pytest.mark.parametrize("size", [("--height", 10**30), ("--width", 3_200_000_000, "--height", 3_200_000_000)])
def test_a_size_beyond_all_memory(lumina: CommandLine, noise: Path, size: Arguments) -> None:
    lumina.refuses_to_generate("--task", "edit", "--condition", noise, *size, expected="; the nearest ")
    lumina.refuses("info", "--checkpoint", lumina.checkpoint, *size, expected="; the nearest ")


@pytest.mark.parametrize("task", ["control", "subject", "edit", "predict"])
def test_task_without_its_condition(lumina: CommandLine, task: str) -> None:
    options = ("--map", "depth", "--object", "a cup")
    lumina.refuses_to_generate("--task", task, *options, expected=f"the task {task} needs a picture")


@pytest.mark.parametrize("task", ["t2i", "pair"])
def test_condition_for_a_task_that_takes_none(lumina: CommandLine, noise: Path, task: str) -> None:
    options = ("--task", task, "--map", "depth", "--condition", noise)
    lumina.refuses_to_generate(*options, expected=f"the task {task} takes no picture")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--given-height", 8), "name the one to continue"),
        (("--given-height", 12, "--condition"), "the given height is 12; expected a multiple of 8 from 8 to 56"),
        (("--given-height", 64, "--condition"), "from 8 to 56"),
        (("--given-height", 48, "--condition"), "is 40 high at the canvas's width of 32"),
    ],
)
def test_a_picture_that_cannot_be_continued(
    lumina: CommandLine, noise: Path, options: Arguments, expected: str
) -> None:
    condition = (noise,) if "--condition" in options else ()
    lumina.refuses_to_generate("--height", 64, *options, *condition, expected=expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--task", "pair"), "map is missing, which this task needs"),
        (("--task", "control"), "map is missing, which this task needs"),
        (("--task", "predict"), "map is missing, which this task needs"),
        (("--task", "control", "--map", "heat"), "invalid choice: 'heat'"),
        (("--task", "subject"), "object is empty, which this task needs"),
        (("--task", "subject", "--object", " "), "object is empty, which this task needs"),
        (("--task", "subject", "--object", "a cup", "--prompt", ""), "prompt is empty, which this task needs"),
        (("--task", "edit", "--prompt", ""), "prompt is empty, which this task needs"),
    ],
)
def test_task_without_map_object_or_prompt(
    lumina: CommandLine, noise: Path, options: tuple[str, ...], expected: str
) -> None:
    condition = () if "pair" in options else ("--condition", noise)
    lumina.refuses_to_generate("--height", 64, *options, *condition, expected=expected)


def no_picture(path: Path) -> None:
    path.write_text("no picture")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def bomb(path: Path) -> None:
    """A small file that says it holds 400 million pixels."""
    Image.new("1", (1, 1)).save(path)
    data = path.read_bytes()
    start, side = data.index(b"IHDR"), struct.pack(">I", 20_000)
    header = b"IHDR" + side + side + data[start + 12 : start + 17]
    path.write_bytes(data[:start] + header + struct.pack(">I", zlib.crc32(header)) + data[start + 21 :])


@pytest.mark.parametrize("corrupt", [Path.unlink, no_picture, empty, cut_in_half, bomb])
def test_unreadable_pictures(
    lumina: CommandLine, encode: Arguments, noise: Path, corrupt: Callable[[Path], None]
) -> None:
    corrupt(noise)
    expected = f"cannot read the picture {noise}"
    options = ("--task", "edit", "--height", 64, "--condition", noise)
    lumina.refuses_to_generate(*options, expected=expected)
    lumina.refuses(*encode, noise, expected=expected)


def test_folder_as_picture(lumina: CommandLine, tmp_path: Path) -> None:
    lumina.refuses_to_generate("--task", "edit", "--height", 64, "--condition", tmp_path, expected="cannot read")


def test_warnings_give_way_to_the_error(lumina: CommandLine, noise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of the picture and an empty prompt are warned of, but the size of the canvas is wrong."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    options = ("--task", "control", "--map", "hed", "--condition", noise, "--prompt", "")
    lumina.refuses_to_generate(*options, "--width", 33, expected="multiples of 32")


# Tokens and pictures


def with_token(position: int, token: object) -> Callable[[list[Any]], object]:
    return lambda tokens: {"tokens": [tokens[:position] + [token] + tokens[position + 1 :]]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(lambda tokens: [tokens], "contains a JSON list", id="list"),
        pytest.param(lambda tokens: {"token": [tokens]}, "contains no lists of tokens", id="other key"),
        pytest.param(lambda tokens: {"tokens": []}, "contains no lists of tokens", id="no pictures"),
        pytest.param(lambda tokens: {"tokens": tokens}, "contains no lists of tokens", id="a picture itself"),
        pytest.param(lambda tokens: {"tokens": [[]]}, "has 0 tokens", id="empty picture"),
        pytest.param(lambda tokens: {"tokens": [tokens[:6]]}, "has no complete row of 4 codes", id="less than a row"),
        pytest.param(lambda tokens: {"tokens": [tokens[:2]]}, "has 2 tokens", id="less than a header"),
        pytest.param(
            lambda tokens: {"tokens": [tokens, tokens + [1]]}, "expected at most 24", id="second one too long"
        ),
        pytest.param(with_token(0, 7), "token 0 of the picture is 7", id="start"),
        pytest.param(with_token(1, "x"), "token 1 of the picture is 'x'", id="height"),
        pytest.param(with_token(3, 383), "token 3 of the picture is 383", id="no code"),
        pytest.param(with_token(4, 448), "token 4 of the picture is 448", id="code too large"),
        pytest.param(with_token(5, None), "token 5 of the picture is None", id="null"),
        pytest.param(with_token(3, True), "token 3 of the picture is True", id="truth value"),
        pytest.param(with_token(3, 400.0), "token 3 of the picture is 400.0", id="float"),
        pytest.param(with_token(6, 400.5), "token 6 of the picture is 400.5", id="fraction"),
        pytest.param(with_token(7, 400), "token 7 of the picture is 400", id="end of row"),
        pytest.param(with_token(23, 400), "token 23 of the picture is 400", id="end"),
    ],
)
def test_bad_tokens(
    lumina: CommandLine, decode: Arguments, content: Callable[[list[int]], object], expected: str
) -> None:
    lumina.generate().succeeded()
    path = lumina.path("bad.json")
    path.write_text(json.dumps(content(lumina.tokens()[0])))
    lumina.refuses(*decode, path, expected=expected)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"tokens": NaN}', "\xff"])
def test_tokens_that_are_no_json(lumina: CommandLine, decode: Arguments, text: str) -> None:
    path = lumina.path("bad.json")
    path.write_text(text, encoding="latin-1")
    lumina.refuses(*decode, path, expected=str(path))


def test_tokens_that_cannot_be_read(lumina: CommandLine, decode: Arguments, tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path):
        lumina.refuses(*decode, path, expected=f"{path} is")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--width", 33), "expected positive multiples of 32"),
        (("--height", 0), "expected positive multiples of 32"),
        (("--height", -32), "expected positive multiples of 32"),
        (("--width", 288), "288x32; expected sides of at most 256"),
        (("--width", 10**30), "expected sides of at most 256"),
    ],
)
def test_encode_to_a_size_that_has_no_tokens(
    lumina: CommandLine, encode: Arguments, noise: Path, options: Arguments, expected: str
) -> None:
    lumina.refuses(*encode, noise, *options, expected=expected)


def test_encode_a_picture_that_has_no_tokens(lumina: CommandLine, encode: Arguments, noise: Path) -> None:
    Image.new("RGB", (320, 32)).save(noise)
    lumina.refuses(*encode, noise, expected="320x32; expected sides of at most 256")
