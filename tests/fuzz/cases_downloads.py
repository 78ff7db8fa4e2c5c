"""Cases: a download that gave something else in place of a file, or not all of it."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

from .attempts import Attempt, Expected, case, change_case, refused, same, then_generate
from .place import Arguments, Place

LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 9880243712\n"
)
HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>You must log in.</body></html>\n"
ACCESS = b'{"error": "Access to model is restricted. You must be authenticated to access it."}'
GGUF = b"GGUF\x03\0\0\0" + b"\0" * 4096
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 200

CONTENTS: dict[str, tuple[bytes, str]] = {
    "a Git LFS pointer": (LFS, "Git LFS pointer"),
    "a web page": (HTML, "web page|HTML"),
    "a GGUF file": (GGUF, "GGUF"),
    "zeros": (b"\0" * 5000, "zeros"),
    "nothing": (b"", "empty"),
}


def replace(place: Place, name: str, content: bytes) -> None:
    (place.checkpoint / name).write_bytes(content)


def in_place_of(target: str) -> Callable[[Place, bytes], Arguments]:
    """The command on a checkpoint with other content in one of its files."""

    def make(place: Place, content: bytes) -> Arguments:
        if target == "movqgan_270M.ckpt":
            place.movqgan.unlink()
        replace(place, target, content)
        return place.generate()

    return make


def as_picture(place: Place, content: bytes) -> Arguments:
    path = place.inputs / "p.png"
    path.write_bytes(content)
    return place.control(path)


def as_tokens(place: Place, content: bytes) -> Arguments:
    return place.decode(place.tokens(lambda _: content))


def as_whole_file(place: Place, content: bytes) -> Arguments:
    path = place.inputs / "lumina.safetensors"
    path.write_bytes(content)
    return place.generate(checkpoint=path)


TARGETS: dict[str, Callable[[Place, bytes], Arguments]] = {
    **{
        name: in_place_of(name)
        for name in (
            *("config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"),
            *("model-00002-of-00002.safetensors", "movqgan.safetensors", "movqgan_270M.ckpt"),
        )
    },
    "the condition": as_picture,
    "the tokens": as_tokens,
    "a converted file": as_whole_file,
}


def _replaced(target: str, name: str) -> Attempt:
    content, words = CONTENTS[name]
    return case(f"{name} in place of {target}", lambda place: TARGETS[target](place, content), refused(words))


def _lengthened(what: str, choose: Callable[[Place], Path], tail: bytes, *words: str) -> Attempt:
    def change(place: Place) -> None:
        with choose(place).open("ab") as file:
            file.write(tail)

    return change_case(what, change, refused(*words))


def _cut(what: str, choose: Callable[[Place], Path], count: int, *words: str) -> Attempt:
    def change(place: Place) -> None:
        file = choose(place)
        file.write_bytes(file.read_bytes()[:-count])

    return change_case(what, change, refused(*words))


def _cut_to(what: str, length: int, *words: str) -> Attempt:
    def change(place: Place) -> None:
        place.shards[0].write_bytes(place.shards[0].read_bytes()[:length])

    return change_case(what, change, refused(*words))


def _renamed_codec(what: str, source: str, name: str, expected: Expected) -> Attempt:
    def change(place: Place) -> None:
        if source == "pickle":
            place.save_codec("temporary.bin").rename(place.checkpoint / name)
        else:
            place.movqgan.rename(place.checkpoint / name)

    return change_case(what, change, expected)


def _archived(place: Place) -> None:
    content = place.movqgan.read_bytes()
    place.movqgan.unlink()
    with zipfile.ZipFile(place.checkpoint / "movqgan_270M.ckpt", "w") as archive:
        archive.writestr("movqgan_270M/model.bin", content)


def _shard_as_pickle(place: Place) -> None:
    place.shards[0].write_bytes(pickle.dumps({"a": [1.0] * 100}, protocol=2))


CASES: tuple[Attempt, ...] = (
    *(_replaced(target, name) for target in TARGETS for name in CONTENTS),
    change_case(
        "a message of refused access in place of config.json",
        lambda place: replace(place, "config.json", ACCESS),
        refused(r"config\.json"),
    ),
    change_case(
        "a message of refused access in place of a shard",
        lambda place: replace(place, "model-00001-of-00002.safetensors", ACCESS),
        refused("JSON|text"),
    ),
    _lengthened("a shard with 17 bytes too many", lambda place: place.shards[1], b"\0" * 17, "17 bytes", "long|many"),
    _lengthened("a shard with one byte too many", lambda place: place.shards[0], b"\n", r"\b1 byte", "long|many"),
    _lengthened(
        "a shard padded with zeros to a whole block",
        lambda place: place.shards[0],
        b"\0" * 4096,
        "4,?096 bytes",
        "long|many",
    ),
    _lengthened("a MoVQGAN with 3 bytes too many", lambda place: place.movqgan, b"abc", "3 bytes", "long|many"),
    _cut("a shard that lacks one byte", lambda place: place.shards[1], 1, r"\b1\b.* bytes?", "short|few|miss|lack|cut"),
    _cut(
        "a shard that lacks 100 bytes",
        lambda place: place.shards[1],
        100,
        r"\b100\b.* bytes",
        "short|few|miss|lack|cut",
    ),
    _cut(
        "a MoVQGAN that lacks 64 bytes", lambda place: place.movqgan, 64, r"\b64\b.* bytes", "short|few|miss|lack|cut"
    ),
    _cut_to("a shard of 4 bytes", 4, "short|few|cut|incomplete|complete|unknown|know"),
    _cut_to("a shard cut off within its header", 100, "inside|short|few|cut|incomplete|complete"),
    _cut_to("a shard that ends with its header's length", 8, "short|few|cut|incomplete|complete|know"),
    _renamed_codec("the MoVQGAN's safetensors under the name .ckpt", "safetensors", "movqgan_270M.ckpt", same()),
    _renamed_codec("the MoVQGAN's safetensors under the name .pth", "safetensors", "movqgan.pth", same()),
    _renamed_codec("the MoVQGAN's safetensors under the name .sft", "safetensors", "movqgan.sft", same()),
    _renamed_codec("the MoVQGAN's pickle under the name .safetensors", "pickle", "movqgan.safetensors", same()),
    change_case("a zip archive that a browser made of the MoVQGAN", _archived, refused("zip|archive")),
    change_case("a pickle under a shard's name", _shard_as_pickle, refused("pickle|PyTorch")),
    case("a HEIC photo named .jpg", lambda place: as_picture(place, HEIC), refused("HEIC")),
    case(
        "a picture in place of a shard",
        then_generate(lambda place: place.picture().rename(place.shards[0])),
        refused("PNG"),
    ),
)
