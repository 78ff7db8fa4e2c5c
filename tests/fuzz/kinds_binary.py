"""Random changes of safetensors files, of pickles and of converted files, and other files in their place."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from .attempts import Expected, either, refused, same_or_refused, unchanged
from .cases_downloads import CONTENTS
from .cases_pickles import CONV, Trap, header_and_data, write_header
from .cases_values import zero_tail
from .kinds_text import _deep, _encoded, _entry, _tail
from .mutation import Mutation, any_command, flip_bits, mangle
from .place import Arguments, Place, change_tensor, make_picture

Change = Callable[[Path, Random], str]
DTYPES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I32",
    "I8",
    "U8",
    "BOOL",
    "F8_E4M3",
    "F8_E5M2",
    "F4",
    "C64",
    "f32",
    "",
    7,
)
NUMBERS = (-1, 0, 1, 2, 31, 33, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30, 1.5, None, "8", [])


def _weights_file(place: Place, random: Random) -> Path:
    return random.choice([*place.shards, place.movqgan])


# Headers


def mutate_header(place: Place, random: Random) -> Mutation:
    """The header of a shard or of the MoVQGAN is changed, or the file's length."""
    file = _weights_file(place, random)
    way = random.choice([_flipped, _flipped, _field, _field, _length, _shortened, _lengthened, _renamed])
    what = way(file, random)
    arguments = any_command(place, random)
    sure = way in (_shortened, _lengthened, _length)
    return Mutation(f"{file.name}: {what}", arguments, refused(file.name) if sure else _same_as(arguments))


def _same_as(arguments: Arguments) -> Expected:
    return same_or_refused(reference=unchanged(arguments))


def _flipped(file: Path, random: Random) -> str:
    content = file.read_bytes()
    changed, what = flip_bits(content, random, 0, 8 + int.from_bytes(content[:8], "little"))
    file.write_bytes(changed)
    return what


def _field(file: Path, random: Random) -> str:
    """One field of one tensor."""
    header, data = header_and_data(file)
    name = random.choice([name for name in header if name != "__metadata__"])
    field: dict[str, Any] = header[name]
    key = random.choice(["dtype", "shape", "data_offsets"])
    if key == "dtype":
        field[key] = random.choice([dtype for dtype in DTYPES if dtype != field[key]])
    else:
        numbers = list(field[key])
        position = random.randrange(len(numbers))
        numbers[position] = random.choice([number for number in NUMBERS if number != numbers[position]])
        field[key] = numbers if random.random() < 0.8 else random.choice(NUMBERS)
    write_header(file, header, data)
    return f"{key} of {name} is {str(field[key])[:60]}"


def _length(file: Path, random: Random) -> str:
    content = file.read_bytes()
    good = int.from_bytes(content[:8], "little")
    length = random.choice([0, 1, good - 1, good + 1, len(content), 100_000_001, 2**32, 2**63 - 1, 2**64 - 1])
    file.write_bytes(length.to_bytes(8, "little") + content[8:])
    return f"the header's length is {length} instead of {good}"


def _shortened(file: Path, random: Random) -> str:
    content = file.read_bytes()
    count = random.choice([1, 2, 4, 100, 4096, random.randrange(1, len(content)), len(content) - random.randrange(20)])
    file.write_bytes(content[: len(content) - count])
    return f"{count} bytes fewer"


def _lengthened(file: Path, random: Random) -> str:
    count = random.choice([1, 2, 8, 17, 4096, 10**6])
    tail = random.choice([bytes(count), random.randbytes(count), b"\n" * count])
    file.write_bytes(file.read_bytes() + tail)
    return f"{count} bytes more"


def _renamed(file: Path, random: Random) -> str:
    header, data = header_and_data(file)
    name = random.choice([name for name in header if name != "__metadata__"])
    new = random.choice([f"{name}2", name.upper(), "", "x" * 10_000, f"{name}\0", "模型", "__metadata__", "\ud800"])
    write_header(file, {(new if key == name else key): value for key, value in header.items()}, data)
    return f"{name} is called {new[:20]!r}"


# Values


def mutate_data(place: Place, random: Random) -> Mutation:
    """Values of a shard or of the MoVQGAN are changed."""
    file = _weights_file(place, random)
    way = random.choice([_not_finite, _not_finite, _zeros, _zeros, _zero_tail, _any_bits, _block])
    what, expected = way(file, random)
    arguments = place.generate() if random.random() < 0.85 else place.convert(weights=random.choice(["int4", "bf16"]))
    return Mutation(f"{file.name}: {what}", arguments, expected)


def _names(file: Path) -> list[str]:
    """The tensors that are no whole numbers."""
    return sorted(name for name, tensor in load_file(file).items() if tensor.is_floating_point())


def _not_finite(file: Path, random: Random) -> tuple[str, Expected]:
    name, value = random.choice(_names(file)), random.choice([math.nan, math.inf, -math.inf])
    count = random.choice([1, 1, 3, 10**9])

    def change(tensor: Tensor) -> Tensor:
        flat = tensor.view(-1)
        for position in [random.randrange(len(flat)) for _ in range(min(count, 50))]:
            flat[position] = value
        return tensor

    change_tensor(file, name, change)
    return f"{value} in {name}", refused(name, "finite|NaN|infinit")


def _zeros(file: Path, random: Random) -> tuple[str, Expected]:
    name = random.choice([name for name in _names(file) if not name.endswith("bias")])
    change_tensor(file, name, random.choice([torch.zeros_like, lambda tensor: -torch.zeros_like(tensor)]))
    return f"{name} is zeros", refused(name, "zero")


def _zero_tail(file: Path, random: Random) -> tuple[str, Expected]:
    share = random.uniform(0.05, 1.0)
    zero_tail(file, share)
    return f"the last {share:.1%} are zeros", refused("zero")


def _any_bits(file: Path, random: Random) -> tuple[str, Expected]:
    """A flipped bit gives another value that may be as good, or one that is not finite."""
    content = file.read_bytes()
    changed, what = flip_bits(content, random, 8 + int.from_bytes(content[:8], "little"))
    file.write_bytes(changed)
    finite = all(bool(tensor.isfinite().all()) for tensor in load_file(file).values())
    return what, either() if finite else refused("finite|NaN|infinit")


def _block(file: Path, random: Random) -> tuple[str, Expected]:
    """A block of a disk is lost."""
    content = bytearray(file.read_bytes())
    low = 8 + int.from_bytes(content[:8], "little")
    start = random.randrange(low, len(content) - 4096)
    content[start : start + 4096] = random.choice([bytes(4096), b"\xff" * 4096])
    file.write_bytes(content)
    finite = all(bool(tensor.isfinite().all()) for tensor in load_file(file).values())
    return f"a block at {start} is lost", either() if finite else refused("finite|NaN|infinit")


# Pickles


def mutate_pickle(place: Place, random: Random) -> Mutation:
    """A MoVQGAN of torch.save: code in it, odd tensors, or its bytes changed."""
    way = random.choice([_trap, _odd, _odd, _torn, _torn, _torn])
    what, expected = way(place, random)
    return Mutation(what, any_command(place, random), expected)


def _options(random: Random) -> dict[str, bool]:
    return {} if random.random() < 0.7 else {"_use_new_zipfile_serialization": False}


def _trap(place: Place, random: Random) -> tuple[str, Expected]:
    trap: Any = Trap(place.canary)
    tensors: dict[str, Any] = dict(place.base.movqgan)
    contents = [trap, [trap], {"state_dict": trap}, {**tensors, CONV: trap}, {**tensors, "x": (trap,)}]
    contents += [{"state_dict": tensors, "callbacks": {"a": trap}}, {"a": trap, **tensors}]
    place.save_codec("movqgan_270M.ckpt", random.choice(contents), **_options(random))
    return "code", refused("code")


def _odd(place: Place, random: Random) -> tuple[str, Expected]:
    ways: dict[str, Callable[[Tensor], object]] = {
        "meta": lambda tensor: tensor.to("meta"),
        "stride 0": lambda tensor: torch.ones(1).expand(tensor.shape),
        "stride 0 of petabytes": lambda tensor: torch.ones(1).expand(10**7, 10**8),
        "sparse": lambda tensor: tensor.to_sparse(),
        "complex": lambda tensor: tensor.to(torch.complex64),
        "boolean": lambda tensor: tensor > 0,
        "a number": lambda tensor: 1.0,
        "a list": lambda tensor: tensor.flatten().tolist()[:10],
        "numpy": lambda tensor: tensor.numpy(),
        "NaN": lambda tensor: tensor * math.nan,
        "zeros": torch.zeros_like,
        "no values": lambda tensor: tensor.flatten()[:0],
        "another shape": lambda tensor: tensor.flatten()[None],
        "float64 infinity": lambda tensor: tensor.double() * math.inf,
        "too large for float32": lambda tensor: tensor.double() * 1e200,
    }
    what = random.choice(list(ways))
    names = [name for name in place.base.movqgan if name.endswith("weight")]
    name = random.choice(names)
    content = {**place.base.movqgan, name: ways[what](place.base.movqgan[name])}
    content = content if random.random() < 0.5 else {"state_dict": content}
    place.save_codec("movqgan_270M.ckpt", content)
    return f"{name} is {what}", refused()


def _torn(place: Place, random: Random) -> tuple[str, Expected]:
    file = place.save_codec("movqgan_270M.ckpt", **_options(random))
    content, what = mangle(file.read_bytes(), random)
    file.write_bytes(content)
    return what, either()


# Other files


def mutate_foreign(place: Place, random: Random) -> Mutation:
    """Another file in place of one of the checkpoint's."""
    targets = (place.config, place.index, place.checkpoint / "tokenizer.json", *place.shards, place.movqgan)
    target = random.choice([*targets, place.checkpoint / "tokenizer_config.json"])
    others = sorted(file for file in place.checkpoint.iterdir() if file != target and file not in place.shards)
    length = random.choice([1, 7, 8, 100, 5000])
    make_picture((32, 32)).save(place.inputs / "p.webp")
    contents = {name: content for name, (content, _) in CONTENTS.items()} | {
        "random bytes": random.randbytes(length),
        "zeros": bytes(length),
        "ones": b"\xff" * length,
        "a text": b"no such file, sorry.\n" * random.randint(1, 30),
        "a picture": (place.inputs / "p.webp").read_bytes(),
        "an archive": b"PK\x03\x04" + random.randbytes(length),
        "gzip": b"\x1f\x8b\x08" + random.randbytes(length),
        "XML": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        "an empty object": b"{}",
        "an empty list": b"[]",
        **{file.name: file.read_bytes() for file in others},
    }
    what = random.choice(list(contents))
    target.write_bytes(contents[what])
    return Mutation(f"{what} in place of {target.name}", any_command(place, random), refused())


# Converted files


def mutate_converted(place: Place, random: Random) -> Mutation:
    """A converted file: its metadata, header, length or values are changed."""
    weights = random.choice(["int4", "int8", "bf16"])
    file = place.converted(weights)
    arguments = place.generate("--weights", "auto", checkpoint=file)
    way = random.choice(
        [_metadata, _metadata, _metadata, _flipped, _field, _shortened, _lengthened, _not_finite, _zeros]
    )
    what = way(file, random)
    if way is _metadata:
        return Mutation(what[0], arguments, what[1](arguments, weights))
    if isinstance(what, tuple):
        return Mutation(what[0], arguments, what[1])
    sure = way in (_shortened, _lengthened)
    return Mutation(what, arguments, refused(file.name) if sure else either())


def _metadata(file: Path, random: Random) -> tuple[str, Callable[[Arguments, str], Expected]]:
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    key = random.choice(["format", "weights", "config", "tokenizer"])
    good = metadata[f"lumina_mgpt2.{key}"].encode()
    way = random.choice([mangle, mangle, _encoded, _entry, _deep, _tail]) if len(good) > 20 else mangle
    content, what = way(good, random)
    Place.change_metadata(None, file, **{key: content.decode("utf-8", "replace")})  # type: ignore[arg-type]
    return f"{key}: {what}", lambda arguments, weights: either()
