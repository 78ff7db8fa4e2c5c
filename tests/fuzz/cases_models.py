"""Cases: weights of other models and of other forms, and other codecs."""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from lumina_core.checkpoint.codec_identity import CODEBOOK, CodecIdentity

from .attempts import Attempt, Expected, case, change_case, drawn, refused, same
from .cases_layouts import WHOLE
from .place import MOVQGAN, Arguments, Place

LAYER = "model.layers.0.self_attn.q_proj"


def _only(what: str, tensors: dict[str, torch.Tensor], *words: str, name: str = WHOLE) -> Attempt:
    """A folder whose only weights are these."""

    def change(place: Place) -> None:
        place.without_weights()
        save_file(tensors, place.checkpoint / name)

    return change_case(what, change, refused(*words))


def _tensors(shape: tuple[int, ...], *names: str) -> dict[str, torch.Tensor]:
    return {name: torch.ones(shape) for name in names}


def _other_codec_of_converted(place: Place) -> Arguments:
    """Its codes are as many, its channels are not."""
    other = place.other_codec(channels=2 * MOVQGAN.channels)
    return place.generate("--movqgan", other, checkpoint=place.converted("bf16"))


def _identity(place: Place, **changes: object) -> dict[str, object]:
    """What a config says of the codec that the place has."""
    codec = CodecIdentity.of(MOVQGAN.channels, MOVQGAN.multipliers, place.base.movqgan)
    return {**codec.values(), **changes}


def _named_codec(what: str, expected: Expected, **changes: object) -> Attempt:
    return change_case(what, lambda place: place.change_config(image_codec=_identity(place, **changes)), expected)


def _exchanged(place: Place) -> None:
    """Another codec of the same shapes."""
    place.change_config(image_codec=_identity(place))
    save_file({name: tensor.flip(0).contiguous() for name, tensor in place.base.movqgan.items()}, place.movqgan)


def _exchanged_of_converted(place: Place) -> Arguments:
    save_file({name: tensor.flip(0).contiguous() for name, tensor in place.base.movqgan.items()}, place.movqgan)
    return place.generate("--movqgan", place.movqgan, checkpoint=place.converted("bf16"))


def _diffusers(place: Place) -> None:
    """A pipeline whose parts lie in folders of their own."""
    (place.checkpoint / "model_index.json").write_text('{"_class_name": "LuminaPipeline"}')
    (place.checkpoint / "transformer").mkdir()
    for file in (place.config, place.index, *place.shards):
        file.rename(place.checkpoint / "transformer" / file.name)


CODEC = "MoVQGAN|codec"
CASES: tuple[Attempt, ...] = (
    _named_codec("the config names the codec", same()),
    _named_codec("the config names a codec of other channels", refused(CODEC), channels=256),
    _named_codec("the config names a codec of other multipliers", refused(CODEC), multipliers=[1, 2, 2, 4]),
    _named_codec("the config names a codec of no channels", refused("image_codec"), channels=0),
    _named_codec("the config names a codec by texts", refused("image_codec"), first_values={CODEBOOK: ["x"]}),
    _named_codec("the config names a codec by other values", refused(CODEC), first_values={CODEBOOK: [9.0] * 8}),
    change_case("another codec of the same shapes", _exchanged, refused(CODEC)),
    case("a converted file with another codec of the same shapes", _exchanged_of_converted, refused(CODEC)),
    change_case("a folder of diffusers", _diffusers, refused("model_index|config|diffusers|weights")),
    change_case("a MoVQGAN of 32 codes", lambda place: place.other_codec(codebook_size=32), refused("32 codes")),
    change_case("a MoVQGAN of 4 pixels a code", lambda p: p.other_codec(multipliers=(1, 1, 1)), refused("4 pixels")),
    change_case("a MoVQGAN of grey pictures", lambda p: p.other_codec(picture_channels=1), refused("channel|picture")),
    _only("a LoRA alone", _tensors((4, 4), f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"), "LoRA"),
    _only(
        "a LoRA of kohya alone",
        _tensors((4, 4), "lora_unet_a.lora_down.weight", "lora_unet_a.lora_up.weight", "lora_unet_a.alpha"),
        "LoRA",
    ),
    _only(
        "an adapter of PEFT",
        _tensors((4, 4), f"base_model.model.{LAYER}.lora_A.default.weight"),
        "LoRA",
        name="adapter_model.safetensors",
    ),
    _only(
        "weights of GPTQ",
        _tensors((4, 4), f"{LAYER}.qweight", f"{LAYER}.qzeros", f"{LAYER}.scales"),
        "quanti[sz]ed|GPTQ|AWQ",
    ),
    _only(
        "weights of bitsandbytes",
        _tensors((4, 4), f"{LAYER}.weight", f"{LAYER}.weight.absmax"),
        "quanti[sz]ed|bitsandbytes",
    ),
    _only(
        "another diffusion model",
        _tensors((4, 4), "model.diffusion_model.input_blocks.0.0.weight"),
        "missing|another model|diffusion",
    ),
    _only("another language model", _tensors((4,), "transformer.h.0.ln_1.weight"), "missing|another model"),
    _only("a file without tensors", {}, "no tensor|missing|empty"),
    case(
        "a converted file with another codec",
        _other_codec_of_converted,
        refused("MoVQGAN|codec|channels"),
    ),
    case(
        "a converted file with its own codec",
        lambda place: place.generate("--movqgan", place.movqgan, checkpoint=place.converted("bf16")),
        drawn(),
    ),
)
