"""Cases: what a .ckpt may hold, and headers of safetensors files."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .attempts import Attempt, Expected, change_case, drawn, either, refused, same, same_or_refused
from .place import Place

CODEC = "movqgan_270M.ckpt"
CONV = "decoder.conv_out.weight"
Content = Callable[[dict[str, Tensor], Place], object]


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.file),)


def _codec(what: str, content: Content, expected: Expected, **options: Any) -> Attempt:
    """A MoVQGAN file that torch.save writes."""

    def change(place: Place) -> None:
        place.save_codec(CODEC, content(dict(place.base.movqgan), place), **options)

    return change_case(what, change, expected)


def _raw(what: str, content: Callable[[Place], bytes], expected: Expected, name: str = CODEC) -> Attempt:
    """A MoVQGAN file of these bytes."""

    def change(place: Place) -> None:
        place.movqgan.unlink()
        (place.checkpoint / name).write_bytes(content(place))

    return change_case(what, change, expected)


def _with(tensor: Callable[[Tensor], object]) -> Content:
    return lambda tensors, place: {**tensors, CONV: tensor(tensors[CONV])}


def _nested(depth: int) -> Content:
    def content(tensors: dict[str, Tensor], place: Place) -> object:
        nested: object = tensors
        for _ in range(depth):
            nested = {"state_dict": nested}
        return nested

    return content


def _deep_list(place: Place) -> bytes:
    return b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."


def _saved(place: Place) -> bytes:
    path = place.inputs / "saved.ckpt"
    torch.save(place.base.movqgan, path)
    return path.read_bytes()


def _zip_bomb(place: Place) -> bytes:
    """One entry of 4 GB of zeros in some 4 MB."""
    path = place.inputs / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        with archive.open("archive/data/0", "w", force_zip64=True) as entry:
            for _ in range(64):
                entry.write(b"\0" * 2**24)
    return path.read_bytes()


def _other_checksum(place: Place) -> bytes:
    content = bytearray(_saved(place))
    content[len(content) // 2] ^= 1
    return bytes(content)


def _huge(shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """A tensor of that shape whose storage is one value."""
    return lambda tensor: torch.ones(1).expand(shape)


def header_and_data(file: Path) -> tuple[dict[str, Any], bytes]:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_header(file: Path, header: object, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _header(what: str, change: Callable[[dict[str, Any]], object], expected: Expected) -> Attempt:
    """A shard whose header is changed, its data as before."""

    def rewrite(place: Place) -> None:
        header, data = header_and_data(place.shards[0])
        write_header(place.shards[0], change(header), data)

    return change_case(what, rewrite, expected)


def _first(**values: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Sets values of the first tensor in a header."""

    def change(header: dict[str, Any]) -> dict[str, Any]:
        name = next(name for name in header if name != "__metadata__")
        return {**header, name: {**header[name], **values}}

    return change


def _overlapping(header: dict[str, Any]) -> dict[str, Any]:
    names = sorted((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    return {**header, names[1]: {**header[names[1]], "data_offsets": header[names[0]]["data_offsets"]}}


def _length(value: int) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        content = place.shards[0].read_bytes()
        place.shards[0].write_bytes(struct.pack("<Q", value) + content[8:])

    return change


NOT_TENSORS = "plain tensors|code|not a file of tensors|tensor"
CASES: tuple[Attempt, ...] = (
    _codec("a numpy array beside the tensors", lambda t, p: {"state_dict": t, "means": np.zeros(3)}, same()),
    _codec("code in a .ckpt", lambda tensors, place: {"state_dict": Trap(place.canary)}, refused("code")),
    _codec("code beside the tensors", lambda tensors, place: {**tensors, "x": Trap(place.canary)}, refused("code")),
    _codec("code deep in a .ckpt", lambda t, p: {"state_dict": t, "o": [{"a": (Trap(p.canary),)}]}, refused("code")),
    _raw("code in a bare pickle", lambda place: pickle.dumps(Trap(place.canary)), refused("code")),
    _raw(
        "code in a pickle named .safetensors",
        lambda p: pickle.dumps(Trap(p.canary)),
        refused("code|pickle"),
        "movqgan.safetensors",
    ),
    _codec("a whole module", lambda tensors, place: torch.nn.Linear(2, 2), refused(NOT_TENSORS)),
    _codec("a .ckpt of the older form", lambda t, p: {"state_dict": t}, same(), _use_new_zipfile_serialization=False),
    _codec("a .ckpt of an ordered dict", lambda tensors, place: OrderedDict(tensors), same()),
    _codec("a .ckpt of parameters", lambda t, p: {n: torch.nn.Parameter(v) for n, v in t.items()}, same()),
    _codec("a .ckpt in float16", lambda t, p: {n: v.half() for n, v in t.items()}, drawn()),
    _codec(
        "a tensor that is transposed in its file",
        _with(lambda t: t.transpose(2, 3).contiguous().transpose(2, 3)),
        same(),
    ),
    _codec("a meta tensor", _with(lambda tensor: tensor.to("meta")), refused("meta|no data|no values")),
    _codec("a tensor of stride 0", _with(lambda tensor: torch.ones(1).expand(tensor.shape)), refused(CONV)),
    _codec("a tensor of stride 0 of 4 TB", _with(_huge((1_000_000, 1_000_000))), refused()),
    _codec("a sparse tensor", _with(lambda tensor: tensor.to_sparse()), refused("sparse|layout")),
    _codec(
        "a sparse tensor of 4 TB",
        _with(lambda t: torch.sparse_coo_tensor(torch.zeros(2, 1), torch.ones(1), (10**6, 10**6))),
        refused(),
    ),
    _codec("a nested tensor", _with(lambda t: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])), refused()),
    _codec("a quantised tensor", _with(lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)), refused()),
    _codec("a complex tensor", _with(lambda tensor: tensor.to(torch.complex64)), refused("complex|dtype|C64")),
    _codec("a value too large for float32", _with(lambda t: t.double() * 1e300), refused(CONV, "finite|large|range")),
    _codec("a tensor of booleans", _with(lambda tensor: tensor > 0), refused("bool|dtype")),
    _codec("a tensor of whole numbers", _with(lambda tensor: tensor.long()), refused("int64|I64|dtype|zero")),
    _codec("numpy arrays", lambda t, p: {n: v.numpy() for n, v in t.items()}, refused()),
    _codec("a number in place of a tensor", _with(lambda tensor: 1.0), refused(CONV)),
    _codec("a list", lambda tensors, place: list(tensors.values()), refused("list")),
    _codec("a lone tensor", lambda tensors, place: torch.ones(3), refused("Tensor")),
    _codec("whole numbers as names", lambda t, p: dict(enumerate(t.values())), refused()),
    _codec("a state_dict in a state_dict", _nested(2), same_or_refused(reference=lambda place: place.generate())),
    _codec("200 state_dicts", _nested(200), refused()),
    _raw("a pickle nested 100,000 deep", _deep_list, refused("nested|deep|damaged|pickle")),
    _raw(
        "the first half of a .ckpt",
        lambda place: (d := _saved(place))[: len(d) // 2],
        refused("cut|short|incomplete|damaged|zip"),
    ),
    _raw(
        "a .ckpt without its last byte", lambda place: _saved(place)[:-1], refused("cut|short|incomplete|damaged|zip")
    ),
    _raw("a .ckpt of 2 bytes", lambda place: b"PK", refused()),
    _raw("a .ckpt with a changed byte of its data", _other_checksum, either("damaged|checksum|CRC")),
    _raw("a .ckpt that unpacks to 1 GB", _zip_bomb, refused()),
    _header("a header that is a list", lambda header: [header], refused("header|safetensors")),
    _header("a header that is no JSON", lambda header: b"{not json" + b" " * 100, refused("header|safetensors|JSON")),
    _header("a header nested 10,000 deep", lambda header: b'{"a":' * 10_000, refused("header|safetensors|JSON|deep")),
    _header("overlapping tensors", _overlapping, refused("header|overlap|safetensors|offset")),
    _header("a dtype of another width", _first(dtype="F64"), refused("header|safetensors|bytes|shape")),
    _header("a dtype that does not exist", _first(dtype="F32X"), refused("F32X|header|safetensors")),
    _header("a dtype of the same width", _first(dtype="I32"), refused("I32")),
    _header("a shape beyond the file", _first(shape=[10**9, 10**9]), refused("header|safetensors|shape")),
    _header("a shape beyond all numbers", _first(shape=[2**63, 2**63]), refused("header|safetensors|shape")),
    _header("offsets beyond the file", _first(data_offsets=[0, 2**60]), refused("header|safetensors|offset|bytes")),
    _header("negative offsets", _first(data_offsets=[-8, 0]), refused("header|safetensors|offset")),
    _header(
        "metadata that are no texts",
        lambda header: {**header, "__metadata__": {"format": 1}},
        refused("header|safetensors|metadata"),
    ),
    change_case("a header of 2^63 bytes", _length(2**63), refused("header|safetensors|know")),
    change_case("a header of 200 MB", _length(200_000_000), refused("header|safetensors|know")),
    change_case("a header of 0 bytes", _length(0), refused("header|safetensors|know")),
)
