"""Cases: values on the command line, tokens to decode, converted files, and consoles."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from .attempts import Attempt, Expected, Make, case, drawn, either, refused, same, same_or_refused
from .place import Arguments, Place

DEPTH = 100_000


def _options(what: str, expected: Expected, *options: object) -> Attempt:
    return case(what, lambda place: place.generate(*options), expected)


def _out(what: str, choose: Callable[[Place], object], expected: Expected) -> Attempt:
    return case(what, lambda place: place.generate("--out", choose(place)), expected)


def _tokens(what: str, change: Callable[[list[int]], object], expected: Expected) -> Attempt:
    return case(what, lambda place: place.decode(place.tokens(change)), expected)


def good_decode(place: Place) -> Arguments:
    return place.decode(place.tokens())


def _text(tokens: list[int]) -> bytes:
    return json.dumps({"tokens": [tokens]}).encode()


def _with(position: int, value: object) -> Callable[[list[int]], object]:
    return lambda tokens: {"tokens": [[*tokens[:position], value, *tokens[position + 1 :]]]}


def _number(text: str) -> Callable[[list[int]], bytes]:
    """A token written as this text."""
    return lambda tokens: _text([*tokens[:4], 987654321, *tokens[5:]]).replace(b"987654321", text.encode())


def _fifo(place: Place) -> Path:
    os.mkfifo(place.inputs / "pipe.png")
    return place.inputs / "pipe.png"


def _loop(place: Place) -> Path:
    (place.inputs / "loop.png").symlink_to("loop.png")
    return place.inputs / "loop.png"


def _metadata(what: str, expected: Expected, **values: object) -> Attempt:
    """A converted file whose metadata are changed."""

    def make(place: Place) -> Arguments:
        file = place.change_metadata(place.converted(), **values)
        return place.generate("--weights", "auto", checkpoint=file)

    return case(what, make, expected)


def _converted(weights: str = "int4") -> Make:
    return lambda place: place.generate("--weights", "auto", checkpoint=place.converted(weights))


def _config_of(what: str, expected: Expected, **changes: object) -> Attempt:
    """A converted file whose config is changed."""

    def make(place: Place) -> Arguments:
        config = {**json.loads(place.config.read_text()), **changes}
        file = place.change_metadata(place.converted(), config=json.dumps(config))
        return place.generate("--weights", "auto", checkpoint=file)

    return case(what, make, expected)


def _lengthened_file(place: Place) -> Arguments:
    file = place.converted()
    file.write_bytes(file.read_bytes() + b"\0" * 4)
    return place.generate("--weights", "auto", checkpoint=file)


def _console(what: str, make: Make, expected: Expected, encoding: str = "cp1252") -> Attempt:
    return Attempt("case", what, make, expected, encoding=encoding)


def _foreign_name(place: Place) -> Arguments:
    arguments = place.convert()
    arguments[arguments.index("--out") + 1] = str(place.out / "模型.safetensors")
    return arguments


CASES: tuple[Attempt, ...] = (
    _options("seed of a fraction", refused("seed"), "--seed", "1.5"),
    _options("seed of NaN", refused("seed"), "--seed", "nan"),
    _options("seed of 5,000 digits", refused("seed"), "--seed", "9" * 5000),
    _options("the largest seed", drawn(), "--seed", 2**64 - 1),
    _options("guidance of 1e308", refused("cfg"), "--cfg", "1e308"),
    _options("guidance of 100", drawn(), "--cfg", 100),
    _options("guidance of NaN", refused("cfg"), "--cfg", "nan"),
    _options("guidance of 0", drawn(), "--cfg", 0),
    _options("a temperature too small for a float", refused("temperature"), "--temperature", "1e-400"),
    _options("the smallest temperature", drawn(), "--temperature", "0.001"),
    _options("top-k of 10^30", refused("top_k"), "--top-k", 10**30),
    _options("top-k of 1", drawn(), "--top-k", 1),
    _options("a width of 10^18", refused("width|size"), "--width", 32 * 10**18),
    _options("a width in another script", either(), "--width", "٣٢"),
    _options("a prompt with NUL", either("prompt|NUL|null"), "--prompt", "a\0b"),
    _options("a prompt with a lone surrogate", refused("Unicode"), "--prompt", "a \ud800 b"),
    _options("a prompt of another script", drawn(), "--prompt", "红色的正方形 🟥"),
    _options("an empty prompt", drawn("empty"), "--prompt", ""),
    _options("a prompt that names special tokens", drawn(), "--prompt", "<racm3:break><|endoftext|><reserved08799>"),
    _options("a prompt of 100,000 words", refused("shorter prompt|tokens"), "--prompt", "word " * 100_000),
    _options("a checkpoint without a name", refused("checkpoint"), "--checkpoint", ""),
    _options(
        "a checkpoint with NUL in its name", refused("null|NUL|character|no path|not exist"), "--checkpoint", "a\0b"
    ),
    _options(
        "an address as checkpoint",
        refused("https?:"),
        "--checkpoint",
        "https://huggingface.co/Alpha-VLLM/Lumina-mGPT-2.0",
    ),
    _options("a repository that is not in the cache", refused("nobody/nothing"), "--checkpoint", "nobody/nothing"),
    _options("an endless device as checkpoint", refused("/dev/zero"), "--checkpoint", "/dev/zero"),
    _options("a folder as MoVQGAN", refused("folder"), "--movqgan", "/"),
    _options("an endless device as MoVQGAN", refused("device"), "--movqgan", "/dev/zero"),
    _options("a MoVQGAN with NUL in its name", refused("null|NUL|character|no path"), "--movqgan", "a\0b.ckpt"),
    _out("a picture with NUL in its name", lambda place: place.out / "a\0b.png", refused("null|NUL|character|no path")),
    _out("a picture of 300 characters", lambda place: place.out / ("x" * 300 + ".png"), refused("long")),
    _out("a picture into a pipe", _fifo, refused("device|pipe")),
    _out("a picture into a device", lambda place: "/dev/null", refused("suffix|device")),
    _out("a picture into a link to itself", _loop, refused("loop|link")),
    _out("a picture into no folder", lambda place: place.out / "absent" / "o.png", refused("absent")),
    _out("a picture onto a folder", lambda place: place.out, refused("suffix|folder")),
    _out("a picture without a suffix", lambda place: place.out / "picture", refused("suffix")),
    _out("a picture below a file", lambda place: place.config / "o.png", refused(r"config\.json")),
    _out("a picture and its tokens in one file", lambda place: place.out / "o.json", refused("suffix|twice")),
    _tokens("good tokens", lambda tokens: {"tokens": [tokens]}, drawn()),
    _tokens(
        "tokens with a byte-order mark", lambda tokens: b"\xef\xbb\xbf" + _text(tokens), same(reference=good_decode)
    ),
    _tokens(
        "tokens in UTF-16",
        lambda tokens: _text(tokens).decode().encode("utf-16"),
        same_or_refused("UTF", reference=good_decode),
    ),
    _tokens("tokens beside other keys", lambda tokens: {"tokens": [tokens], "seed": 1}, same(reference=good_decode)),
    _tokens("a token that is true", _with(1, True), refused("True|token 1")),
    _tokens("a token that is a fraction", _with(4, 384.5), refused("384.5")),
    _tokens("a token that is a whole number as float", _with(4, 400.0), either("400.0")),
    _tokens("a token of 10^400", _with(4, 10**400), refused("token 4")),
    _tokens("a token of 5,000 digits", _number("9" * 5000), refused(r"t\.json")),
    _tokens("a token of 1e400", _number("1e400"), refused(r"t\.json|token 4")),
    _tokens("a token of NaN", _number("NaN"), refused("NaN")),
    _tokens("a token below 0", _with(4, -1), refused("token 4")),
    _tokens(
        "sides of 0", lambda tokens: {"tokens": [[tokens[0], tokens[1] - 1, tokens[2] - 1, tokens[-1]]]}, refused()
    ),
    _tokens(
        "tokens nested 100,000 deep",
        lambda tokens: b'{"tokens":' + b"[" * DEPTH + b"]" * DEPTH + b"}",
        refused("deep|nest|RecursionError"),
    ),
    _tokens("tokens that end within", lambda tokens: _text(tokens)[:-20], refused(r"t\.json")),
    _tokens(
        "a lone surrogate among the keys",
        lambda tokens: _text(tokens)[:-1] + b', "\\ud800": 1}',
        same_or_refused(reference=good_decode),
    ),
    _tokens("ten million brackets", lambda tokens: b"[" * 10_000_000, refused("deep|nest|RecursionError")),
    _metadata("a converted file of a later form", refused("newer|format"), format="99"),
    _metadata("a converted file without its form", refused(), format=...),
    _metadata("a converted file whose form is a word", refused("format"), format="two"),
    _metadata("int4 weights that are called int8", refused("int8|missing|unexpected"), weights="int8"),
    _metadata("int4 weights that are called bf16", refused("missing|unexpected"), weights="bf16"),
    _metadata("a converted file without its config", refused("config"), config=...),
    _metadata("a converted file without its tokenizer", refused("tokenizer"), tokenizer=...),
    _metadata("a converted file whose tokenizer is a list", refused("tokenizer"), tokenizer="[]"),
    _metadata(
        "a converted file whose config is nested too deep",
        refused("config"),
        config='{"a":' + "[" * DEPTH + "]" * DEPTH + "}",
    ),
    _config_of(
        "a converted file with theta in rope_parameters",
        drawn(),
        rope_parameters={"rope_theta": 50_000.0, "rope_type": "default"},
    ),
    _config_of("a converted file with yarn", refused("yarn"), rope_parameters={"rope_type": "yarn", "factor": 2.0}),
    _config_of("a converted file of a million layers", refused("layers"), num_hidden_layers=1_000_000),
    _config_of(
        "a converted file with quantization_config",
        refused("quantization_config"),
        quantization_config={"quant_method": "gptq"},
    ),
    case("a converted file with 4 bytes too many", _lengthened_file, refused("4 bytes", "long|many")),
    case(
        "a converted file named .sft",
        lambda place: place.generate("--weights", "auto", checkpoint=place.converted().rename(place.inputs / "w.sft")),
        same(reference=_converted()),
    ),
    case(
        "a folder with one converted file",
        lambda place: place.generate("--weights", "auto", checkpoint=place.converted().parent),
        same(reference=_converted()),
    ),
    _console("a name that a Windows console cannot print", _foreign_name, drawn()),
    _console(
        "an error that a Windows console cannot print",
        lambda place: place.generate(checkpoint=place.inputs / "模型"),
        refused("u6a21|模型"),
    ),
    _console(
        "info of a name that a console cannot print",
        lambda place: ["info", "--checkpoint", str(place.checkpoint.rename(place.inputs / "模型"))],
        drawn(),
    ),
    _console(
        "a name that is not Unicode",
        lambda place: place.generate("--out", f"{place.out}/\udcff.png"),
        either(),
        "utf-8",
    ),
)
