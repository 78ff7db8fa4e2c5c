"""Cases: values of tensors that no training leaves, and tensors of another kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .attempts import Attempt, Expected, case, change_case, drawn, refused, same_or_refused
from .place import Arguments, Place, change_tensor

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"
QUERY_NORM, NORM, EMBEDDING, HEAD = (
    "model.layers.1.self_attn.q_norm.weight",
    "model.norm.weight",
    "model.embed_tokens.weight",
    "lm_head.weight",
)
# What a checkpoint has before its image codes.
TEXT_ROWS = 256
NOT_FINITE = r"finite|NaN|infinit|not numbers"


def with_one(value: float, position: int = -1) -> Callable[[Tensor], Tensor]:
    """Sets one value of a tensor."""

    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[position] = value
        return tensor

    return change


def _constant_stretch(tensor: Tensor) -> Tensor:
    tensor.view(-1)[1000:3000] = 0.01
    return tensor


def _without_text_rows(tensor: Tensor) -> Tensor:
    tensor[:TEXT_ROWS] = 0
    return tensor


def _tensor(what: str, name: str, change: Callable[[Tensor], Tensor], expected: Expected) -> Attempt:
    return change_case(what, lambda place: place.change_tensor(name, change), expected)


def _codec(what: str, name: str, change: Callable[[Tensor], Tensor], expected: Expected) -> Attempt:
    return change_case(what, lambda place: change_tensor(place.movqgan, name, change), expected)


def _pickled_codec(place: Place) -> None:
    tensors = {name: tensor.clone() for name, tensor in place.base.movqgan.items()}
    tensors["decoder.conv_out.weight"].view(-1)[0] = float("nan")
    place.save_codec("movqgan_270M.ckpt", {"state_dict": tensors})


def zero_tail(file: Path, share: float = 0.5) -> None:
    """What is left where a download wrote the end of a file as zeros."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    kept = start + int((len(content) - start) * (1 - share))
    file.write_bytes(content[:kept] + b"\0" * (len(content) - kept))


def _converted(what: str, weights: str, find: str, change: Callable[[Tensor], Tensor], expected: Expected) -> Attempt:
    def make(place: Place) -> Arguments:
        file = place.converted(weights)
        names = [name for name in load_file(file) if find in name]
        change_tensor(file, names[0], change)
        return place.generate("--weights", "auto", checkpoint=file)

    return case(what, make, expected)


def _cast(what: str, dtype: torch.dtype, expected: Expected) -> Attempt:
    def change(place: Place) -> None:
        for shard in place.shards:
            save_file({name: tensor.to(dtype) for name, tensor in load_file(shard).items()}, shard)

    return change_case(what, change, expected)


def _with_scales(place: Place) -> None:
    """As vLLM and others store fp8: a weight and the scale it is to be multiplied by."""
    tensors = {
        name: tensor.to(torch.float8_e4m3fn) if "_proj" in name else tensor for name, tensor in place.tensors().items()
    }
    scales = {f"{name}_scale": torch.ones(()) for name in tensors if "_proj" in name}
    place.without_weights()
    save_file({**tensors, **scales}, place.checkpoint / "model.safetensors")


def _convert_of(name: str, change: Callable[[Tensor], Tensor], weights: str) -> Callable[[Place], Arguments]:
    def make(place: Place) -> Arguments:
        place.change_tensor(name, change)
        return place.convert(weights=weights)

    return make


NAN, INF = float("nan"), float("inf")
CASES: tuple[Attempt, ...] = (
    _tensor("a matrix of one value", UP, lambda tensor: torch.full_like(tensor, 0.02), refused(UP, "hole")),
    _tensor("a stretch of one value", UP, _constant_stretch, refused(UP, "hole")),
    _tensor("a matrix of numbers too small to count", UP, lambda tensor: tensor * 1e-30, refused(UP, "too small")),
    _tensor("text rows of the embedding are zeros", EMBEDDING, _without_text_rows, refused("embedding of the token")),
    _tensor("a NaN in a matrix", UP, with_one(NAN), refused(UP, NOT_FINITE)),
    _tensor("an infinity in a matrix", DOWN, with_one(INF, 5), refused(DOWN, NOT_FINITE)),
    _tensor("a negative infinity in the head's text rows", HEAD, with_one(-INF, 0), refused(HEAD, NOT_FINITE)),
    _tensor("a NaN in the last row of the embedding", EMBEDDING, with_one(NAN), refused(EMBEDDING, NOT_FINITE)),
    _tensor("a NaN in a norm", NORM, with_one(NAN), refused(NORM, NOT_FINITE)),
    _tensor("a NaN in a norm's bias", QUERY_NORM.replace("weight", "bias"), with_one(NAN), refused("bias", NOT_FINITE)),
    _tensor("a norm of zeros", NORM, torch.zeros_like, refused(NORM, "zero")),
    _tensor("the norm of queries is zeros", QUERY_NORM, torch.zeros_like, refused(QUERY_NORM, "zero")),
    _tensor("a matrix of zeros", UP, torch.zeros_like, refused(UP, "zero")),
    _tensor("an embedding of zeros", EMBEDDING, torch.zeros_like, refused(EMBEDDING, "zero")),
    _tensor("a head of zeros", HEAD, torch.zeros_like, refused(HEAD, "zero")),
    _tensor("a matrix of minus zeros", UP, lambda tensor: -torch.zeros_like(tensor), refused(UP, "zero")),
    _tensor("one value of a matrix is zero", UP, with_one(0.0), drawn()),
    change_case("a shard whose second half is zeros", lambda place: zero_tail(place.shards[1]), refused("zero")),
    change_case("a shard whose last tenth is zeros", lambda place: zero_tail(place.shards[0], 0.1), refused("zero")),
    change_case("a shard of a header and zeros", lambda place: zero_tail(place.shards[0], 1.0), refused("zero")),
    _codec("a NaN in the MoVQGAN", "decoder.conv_out.weight", with_one(NAN), refused("decoder.conv_out", NOT_FINITE)),
    _codec("codes of zeros", "quantize.embedding.weight", torch.zeros_like, refused("quantize.embedding", "zero")),
    _codec("a convolution of zeros", "decoder.conv_in.weight", torch.zeros_like, refused("decoder.conv_in", "zero")),
    _codec("an infinity among the codes", "quantize.embedding.weight", with_one(INF), refused("quantize", NOT_FINITE)),
    change_case("a MoVQGAN whose second half is zeros", lambda place: zero_tail(place.movqgan), refused("zero")),
    change_case("a NaN in the MoVQGAN's pickle", _pickled_codec, refused("decoder.conv_out", NOT_FINITE)),
    _converted("a NaN in a converted file's scales", "int8", ".scale", with_one(NAN), refused("scale", NOT_FINITE)),
    _converted("an int4 file's scales are zeros", "int4", ".scale", torch.zeros_like, refused("scale", "zero")),
    _converted("a converted file's norm is zeros", "bf16", NORM, torch.zeros_like, refused(NORM, "zero")),
    case("converting a NaN to int4", _convert_of(UP, with_one(NAN), "int4"), refused(UP, NOT_FINITE)),
    case("converting a NaN to bf16", _convert_of(NORM, with_one(NAN), "bf16"), refused(NORM, NOT_FINITE)),
    case("converting a matrix of zeros", _convert_of(UP, torch.zeros_like, "int8"), refused(UP, "zero")),
    case("converting a norm of zeros", _convert_of(NORM, torch.zeros_like, "bf16"), refused(NORM, "zero")),
    _cast("a checkpoint in fp16", torch.float16, drawn()),
    _cast("a checkpoint in bf16", torch.bfloat16, drawn()),
    _cast("a checkpoint in float64", torch.float64, same_or_refused("F64")),
    _cast("a checkpoint in fp8 without scales", torch.float8_e4m3fn, refused("F8|fp8|float8")),
    _cast("a checkpoint of whole numbers", torch.int64, refused("I64")),
    change_case("fp8 weights with scales", _with_scales, refused("F8|fp8|float8")),
)
