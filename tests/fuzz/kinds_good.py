"""Random inputs that are mostly good: layouts of a checkpoint, pictures, values on the command line."""

from __future__ import annotations

import io
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from .attempts import Expected, drawn, either, same
from .cases_pictures import png
from .mutation import Mutation, flip_bits, mangle
from .place import Place, make_picture

# Layouts

PREFIXES = ("", "", "module.", "_orig_mod.", "_fsdp_wrapped_module.", "base_model.model.")
NAMES = ("model.safetensors", "lumina.safetensors", "M.SAFETENSORS", "m.sft", "model.SafeTensors")
CODEC_FILES = ("movqgan_270M.ckpt", "movqgan.ckpt", "movqgan/270M/movqgan_270M.ckpt", "movqgan.pth")


def mutate_layout(place: Place, random: Random) -> Mutation:
    """The same weights under other names and in other files: the same picture is drawn."""
    did = [_weights(place, random), _codec(place, random), *_texts(place, random)]
    return Mutation("; ".join(filter(None, did)) or "nothing", place.generate(), same())


def _weights(place: Place, random: Random) -> str:
    if random.random() < 0.3:
        return ""
    prefix, name = random.choice(PREFIXES), random.choice(NAMES)
    place.save_whole(place.checkpoint / name, lambda tensor: prefix + tensor)
    return f"{name} with {prefix or 'no prefix'}"


def _codec(place: Place, random: Random) -> str:
    if random.random() < 0.3:
        return ""
    prefix, name = random.choice(["", "", "module.", "model.", "first_stage_model."]), random.choice(CODEC_FILES)
    tensors: dict[str, Tensor] = {prefix + key: tensor for key, tensor in place.base.movqgan.items()}
    more: dict[str, Any] = {"epoch": 1, "optimizer_states": []}
    nested = random.random() < 0.5
    older = random.random() < 0.3
    options = {"_use_new_zipfile_serialization": False} if older else {}
    place.save_codec(name, {"state_dict": tensors, **more} if nested else tensors, **options)
    return f"codec {name} with {prefix or 'no prefix'}{', nested' * nested}{', older' * older}"


def _texts(place: Place, random: Random) -> list[str]:
    done = []
    for file in (place.config, place.checkpoint / "tokenizer.json", place.checkpoint / "tokenizer_config.json"):
        if random.random() < 0.3:
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
            done.append(f"{file.name} as of Windows")
    return done


# Pictures

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = {"JPEG": "jpg", "TIFF": "tif"}
MODES = {
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "P", "1"),
    "TIFF": ("RGB", "RGBA", "L", "CMYK", "F", "I;16", "I"),
    "GIF": ("P", "L"),
}


def mutate_picture(place: Place, random: Random) -> Mutation:
    """A picture of any format, mode and size, its bytes changed or not, as a condition or to encode."""
    kind = random.choice(FORMATS)
    mode, size = random.choice(MODES[kind]), (_side(random), _side(random))
    content, what, expected = _bytes_of(kind, mode, size, random)
    suffix = SUFFIXES.get(kind, kind.lower()) if random.random() < 0.9 else random.choice(["png", "jpg", "dat"])
    path = place.inputs / f"p.{suffix}"
    path.write_bytes(content)
    draws = random.random() < 0.3
    arguments = place.control(path) if draws else place.encode(path, "--width", 32, "--height", 32)
    return Mutation(f"{kind} {mode} {size} .{suffix}: {what}", arguments, expected)


def _side(random: Random) -> int:
    return random.choice([1, 2, 7, 31, 32, 33, 64, 100, 257])


def _bytes_of(kind: str, mode: str, size: tuple[int, int], random: Random) -> tuple[bytes, str, Expected]:
    if random.random() < 0.06:
        side = random.choice([5000, 12_000])
        return png(side, side, 0, side), f"grey of {side} pixels a side", either()
    good = _encoded(kind, mode, size, random)
    draw = random.random()
    if draw < 0.3:
        return good, "good", drawn() if mode not in ("F", "I", "I;16", "1") and kind != "GIF" else either()
    if draw < 0.5:
        return flip_bits(good, random, 0, min(200, len(good)))[0], "bits of the head flipped", either()
    content, what = mangle(good, random)
    return content, what, either()


def _encoded(kind: str, mode: str, size: tuple[int, int], random: Random) -> bytes:
    buffer = io.BytesIO()
    _picture(mode, size, random).save(buffer, kind)
    return buffer.getvalue()


def _picture(mode: str, size: tuple[int, int], random: Random) -> Image.Image:
    """The picture in a mode; depths in any range where it has more than 8 bits."""
    values = np.asarray(make_picture(size, "L")) / 255
    scale = random.choice([1.0, 10.0, 255.0, 4095.0, 65_535.0])
    if mode == "F":
        odd = random.choice([0.0, 0.0, np.nan, np.inf, -5.0])
        values = np.where(values < 0.05, odd, values * scale)
        return Image.fromarray(values.astype(np.float32))
    deep: dict[str, Callable[[], np.ndarray]] = {
        "I;16": lambda: (values * scale).astype(np.uint16),
        "I": lambda: (values * scale * random.choice([1, 1000])).astype(np.int32),
    }
    return Image.fromarray(deep[mode]()) if mode in deep else make_picture(size, mode)


# Options

NASTY: tuple[Any, ...] = (
    *(
        "",
        " ",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "-1",
        "0",
        "1",
        "2",
        "0.5",
        "1e-320",
        "1e308",
        "0x20",
        "٣",
        "1_0",
        "--",
    ),
    *("9" * 1000, str(2**63), str(2**64), "a\0b", "\ud800", "x" * 1000, "红", "None", "true", "[1]", "32,32", "-", "~"),
    *(
        "/dev/null",
        "/dev/zero",
        "/",
        ".",
        "..",
        "nul",
        "con.png",
        "a:b.png",
        "C:\\x.png",
        "file:///etc/passwd",
        "$HOME",
    ),
)
NAMES_OF_OPTIONS = (
    *(
        "--width",
        "--height",
        "--cfg",
        "--top-k",
        "--temperature",
        "--seed",
        "--window",
        "--batch",
        "--decoder",
        "--task",
    ),
    *("--weights", "--device", "--kv", "--prompt", "--checkpoint", "--movqgan", "--condition", "--map", "--object"),
    *("--out", "--tokens-out", "--stats-out", "--compile", "--given-height"),
)
RANGES: dict[str, tuple[Any, ...]] = {
    "--width": (32, 64, 96),
    "--height": (32, 64, 96),
    "--cfg": (0, 0.5, 1, 7.5, 100),
    "--top-k": (1, 2, 64, 10**6),
    "--temperature": (0.001, 0.5, 1, 100),
    "--seed": (0, 2**32, 2**64 - 1),
    "--window": (1, 2, 17, 128),
    "--batch": (1, 2, 3),
    "--decoder": ("gumbel", "ar", "sjd", "coupled"),
    "--weights": ("auto", "bf16", "fp32", "int8", "int4", "fp8", "int8-dynamic"),
    "--kv": ("auto", "int8", "int4"),
    "--compile": ("auto", "off"),
}
FILES = {"--out", "--tokens-out", "--stats-out"}


def mutate_options(place: Place, random: Random) -> Mutation:
    """Good values of some options, and often one that is not."""
    chosen: list[Any] = []
    for name in random.sample(list(RANGES), random.randint(1, 5)):
        chosen += [name, random.choice(RANGES[name])]
    if random.random() < 0.25:
        return Mutation(_say(chosen), place.generate(*chosen), drawn())
    name, value = random.choice(NAMES_OF_OPTIONS), random.choice(NASTY)
    if name in FILES and not value.startswith("/dev"):
        value = f"{place.out}/{value}"
    return Mutation(_say([*chosen, name, value]), place.generate(*chosen, name, value), either())


def _say(options: list[Any]) -> str:
    return " ".join(str(option)[:40] for option in options).encode("ascii", "backslashreplace").decode()
