"""Cases: where the files of a checkpoint lie, what they and their tensors are called, and other models."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable

import torch
from safetensors.torch import save_file

from lumina_core.checkpoint.locate import INDEX

from .attempts import Attempt, Expected, Make, case, change_case, drawn, refused, same, same_or_refused
from .place import Arguments, Place

WHOLE = "model.safetensors"
PARTS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


def _whole(name: str, rename: Callable[[str], str] = str) -> Callable[[Place], object]:
    return lambda place: place.save_whole(place.checkpoint / name, rename)


def _prefixed(prefix: str) -> Attempt:
    return change_case(f"tensors prefixed {prefix}", _whole(WHOLE, lambda name: prefix + name), same())


def _all_prefixed(place: Place) -> None:
    """Every tensor of the shards and of the index is prefixed."""
    index = json.loads(place.index.read_text())
    prefixed = {f"module.{name}": shard for name, shard in index["weight_map"].items()}
    for shard in place.shards:
        names = [name for name, file in index["weight_map"].items() if file == shard.name]
        tensors = place.tensors()
        save_file({f"module.{name}": tensors[name] for name in names}, shard.with_suffix(".new"))
    for shard in place.shards:
        shard.with_suffix(".new").rename(shard)
    place.index.write_text(json.dumps({"weight_map": prefixed}))


def _buffers(place: Place) -> None:
    frequencies = torch.ones(8)
    more = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": frequencies.clone() for layer in range(2)}
    place.save_whole(place.checkpoint / WHOLE, **more)


def _unused_codec(place: Place) -> None:
    place.save_whole(place.checkpoint / WHOLE, **{"model.vqmodel.quantize.embedding.weight": torch.ones(4, 4)})


def _pickled(name: str) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        tensors = place.tensors()
        place.without_weights()
        torch.save(tensors, place.checkpoint / name)

    return change


def _pickled_shards(place: Place) -> None:
    tensors, index = place.tensors(), json.loads(place.index.read_text())
    names = dict(zip([shard.name for shard in place.shards], PARTS, strict=True))
    place.without_weights()
    weight_map = {name: names[shard] for name, shard in index["weight_map"].items()}
    for part in PARTS:
        torch.save({name: tensors[name] for name, file in weight_map.items() if file == part}, place.checkpoint / part)
    (place.checkpoint / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _hub_cache(named: str) -> Make:
    """The checkpoint as the Hugging Face hub keeps it: a folder of snapshots, its files linked to blobs."""

    def make(place: Place) -> Arguments:
        root = place.inputs / "hub" / "models--someone--lumina"
        snapshot = root / "snapshots" / "0123456789abcdef"
        (root / "blobs").mkdir(parents=True)
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text(snapshot.name)
        snapshot.mkdir(parents=True)
        for number, file in enumerate(sorted(place.checkpoint.iterdir())):
            shutil.copy(file, root / "blobs" / str(number))
            (snapshot / file.name).symlink_to(root / "blobs" / str(number))
        place.environment = {"HF_HUB_CACHE": str(root.parent)}
        return place.generate(checkpoint={"root": root, "snapshot": snapshot, "name": "someone/lumina"}[named])

    return make


def _stale_index(place: Place) -> None:
    index = place.index.read_text()
    place.save_whole(place.checkpoint / WHOLE)
    place.index.write_text(index)


def _whole_beside_shards(place: Place) -> None:
    save_file(place.tensors(), place.checkpoint / WHOLE)


def _other_whole_beside_shards(place: Place) -> None:
    tensors = {name: tensor * 1.5 if "embed" in name else tensor for name, tensor in place.tensors().items()}
    save_file(tensors, place.checkpoint / WHOLE)


def _one_shard_alone(place: Place) -> None:
    place.index.unlink()
    place.shards[1].unlink()


def _shards_without_index(place: Place) -> None:
    place.index.unlink()


def _named(choose: Callable[[Place], object]) -> Make:
    return lambda place: place.generate(checkpoint=choose(place))


def _named_after(change: Callable[[Place], object], choose: Callable[[Place], object]) -> Make:
    def make(place: Place) -> Arguments:
        change(place)
        return place.generate(checkpoint=choose(place))

    return make


def _moved_codec(name: str) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        target = place.checkpoint / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".safetensors":
            place.movqgan.rename(target)
        else:
            place.save_codec(name)

    return change


def _codec_keys(rename: Callable[[str], str], **more: object) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        tensors = {rename(name): tensor for name, tensor in place.base.movqgan.items()}
        place.save_codec("movqgan_270M.ckpt", {"state_dict": tensors, **more} if more else tensors)

    return change


def _prefixed_codec(place: Place) -> None:
    tensors = {f"first_stage_model.{name}": tensor for name, tensor in place.base.movqgan.items()}
    save_file(tensors, place.movqgan)


def _lightning_codec() -> Callable[[Place], None]:
    more = {"epoch": 3, "global_step": 1000, "pytorch-lightning_version": "1.9.0", "optimizer_states": [{"state": {}}]}
    return _codec_keys(str, **more)


def _index(what: str, change: Callable[[dict[str, str]], object], expected: Expected) -> Attempt:
    def rewrite(place: Place) -> None:
        weight_map = json.loads(place.index.read_text())["weight_map"]
        place.index.write_text(json.dumps({"metadata": {}, "weight_map": change(weight_map)}))

    return change_case(what, rewrite, expected)


def _swapped(weight_map: dict[str, str]) -> dict[str, str]:
    files = sorted(set(weight_map.values()))
    return {name: files[1 - files.index(file)] for name, file in weight_map.items()}


def _fifo(name: str) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        (place.checkpoint / name).unlink()
        os.mkfifo(place.checkpoint / name)

    return change


def _loop(name: str) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        (place.checkpoint / name).unlink()
        (place.checkpoint / name).symlink_to(name)

    return change


def _device(name: str) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        (place.checkpoint / name).unlink()
        (place.checkpoint / name).symlink_to("/dev/zero")

    return change


FILES = ("config.json", "tokenizer.json", "model-00001-of-00002.safetensors", "movqgan.safetensors", INDEX)
CASES: tuple[Attempt, ...] = (
    *(_prefixed(p) for p in ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "base_model.model.")),
    *(_prefixed(prefix) for prefix in ("module._orig_mod.", "_fsdp_wrapped_module._orig_mod.")),
    change_case("tensors of indexed shards prefixed module.", _all_prefixed, same()),
    change_case("buffers of the rotary embedding", _buffers, same()),
    change_case("the unused codec within the transformer", _unused_codec, same()),
    case("one shard is named", _named(lambda place: place.shards[0]), same()),
    case("the index is named", _named(lambda place: place.index), same_or_refused("index")),
    case("config.json is named", _named(lambda place: place.config), same_or_refused(r"config\.json")),
    case("a folder with a slash at its end", _named(lambda place: f"{place.checkpoint}/"), same()),
    case("a folder named through ..", _named(lambda place: place.out / ".." / "checkpoint"), same()),
    case("a file .sft is named", _named_after(_whole("m.sft"), lambda p: p.checkpoint / "m.sft"), same()),
    case("a folder with one file .sft", _named_after(_whole("m.sft"), lambda p: p.checkpoint), same()),
    case(
        "a suffix in capitals", _named_after(_whole("M.SAFETENSORS"), lambda p: p.checkpoint / "M.SAFETENSORS"), same()
    ),
    case("a folder with a suffix in capitals", _named_after(_whole("M.SAFETENSORS"), lambda p: p.checkpoint), same()),
    change_case("one file of another name", _whole("lumina-7b.safetensors"), same()),
    change_case("pytorch_model.bin", _pickled("pytorch_model.bin"), same()),
    change_case("pytorch_model.bin in two parts", _pickled_shards, same()),
    change_case("a .bin under the name .safetensors", _pickled("model.safetensors"), same()),
    change_case("consolidated.00.pth", _pickled("consolidated.00.pth"), same()),
    change_case("consolidated.safetensors", _whole("consolidated.safetensors"), same()),
    case("a .pth is named", _named_after(_pickled("m.pth"), lambda p: p.checkpoint / "m.pth"), same()),
    case("the root of a hub's cache", _hub_cache("root"), same()),
    case("a snapshot of a hub's cache", _hub_cache("snapshot"), same()),
    case("the name of a repository in the hub's cache", _hub_cache("name"), same()),
    change_case("a stale index beside a whole file", _stale_index, same("index")),
    change_case("shards and a whole file of the same", _whole_beside_shards, same("index|shards|model.safetensors")),
    change_case(
        "shards and a whole file of another", _other_whole_beside_shards, drawn("index|shards|model.safetensors")
    ),
    change_case("one shard of two, without the index", _one_shard_alone, refused("1 of 2|00002|shard")),
    change_case("all shards, without the index", _shards_without_index, same_or_refused("index")),
    change_case("MoVQGAN in movqgan/270M", _moved_codec("movqgan/270M/movqgan_270M.ckpt"), same()),
    change_case("MoVQGAN in movqgan/270M as safetensors", _moved_codec("movqgan/270M/movqgan.safetensors"), same()),
    change_case("a MoVQGAN of Lightning", _lightning_codec(), same()),
    change_case("a MoVQGAN prefixed module.", _codec_keys(lambda name: f"module.{name}"), same()),
    change_case("a MoVQGAN prefixed model.", _codec_keys(lambda name: f"model.{name}"), same()),
    change_case("a MoVQGAN prefixed first_stage_model.", _prefixed_codec, same()),
    _index("an index that leads out of the folder", lambda m: dict.fromkeys(m, "../x.safetensors"), refused(r"\.\./x")),
    _index("an index with an absolute path", lambda m: dict.fromkeys(m, "/dev/zero"), refused("/dev/zero")),
    _index("an index without tensors", lambda m: {}, refused("index")),
    _index("an index of a list", list, refused("weight_map")),
    _index("an index whose shards are swapped", _swapped, same_or_refused("index|shard")),
    _index("an index that lacks a tensor", lambda m: dict(list(m.items())[:-1]), same_or_refused()),
    _index(
        "an index with a tensor too many", lambda m: {**m, "extra": next(iter(m.values()))}, same_or_refused("extra")
    ),
    *(change_case(f"{name} is a pipe", _fifo(name), refused("pipe")) for name in FILES),
    *(change_case(f"{name} is a link to itself", _loop(name), refused(name)) for name in FILES[:4]),
    *(change_case(f"{name} is an endless device", _device(name), refused("device")) for name in FILES[:4]),
    case("an empty folder", _named(lambda place: place.inputs), refused("inputs")),
)
