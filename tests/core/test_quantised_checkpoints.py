"""Checkpoints that torchao and ComfyUI quantised load with their values; other forms are refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.checkpoint.locate import INDEX
from lumina_core.checkpoint.published import packed_name
from lumina_core.checkpoint.tensors import TensorStore
from lumina_core.convert import plan_conversion
from lumina_core.errors import CheckpointError
from lumina_core.model.load import load_transformer
from lumina_core.quant.schemes import SCHEMES

from .checkpoints import SHARDS
from .quantised_files import DOWN, HEAD, QUERY, Saved, blocks, comfy, comfy_by_metadata, scaled_fp8, torchao

QUERY_PARTS = "model.layers.0.self_attn.q_proj."
FORMS = [
    pytest.param(torchao, "int8", "torchao, Int8Tensor", id="torchao int8"),
    pytest.param(torchao, "fp8", "torchao, Float8Tensor", id="torchao fp8"),
    pytest.param(torchao, "int4", "torchao, Int4TilePackedTo4dTensor", id="torchao int4"),
    pytest.param(comfy, "int8", "ComfyUI, int8_tensorwise", id="comfy_quant int8"),
    pytest.param(comfy, "fp8", "ComfyUI, float8_e4m3fn", id="comfy_quant fp8"),
    pytest.param(comfy_by_metadata, "fp8", "ComfyUI, float8_e4m3fn", id="metadata of ComfyUI"),
    pytest.param(scaled_fp8, "fp8", "ComfyUI, float8_e4m3fn", id="scaled fp8"),
]


@pytest.fixture(scope="module")
def tensors(checkpoint: Path) -> dict[str, Tensor]:
    return {name: tensor for shard in SHARDS for name, tensor in load_file(checkpoint / shard).items()}


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """The small checkpoint without its weights."""
    return Path(
        shutil.copytree(checkpoint, tmp_path / "quantised", ignore=shutil.ignore_patterns("model*", "*.index.json"))
    )


def write(folder: Path, saved: Saved, name: str = "model.safetensors") -> Path:
    save_file({key: one.contiguous() for key, one in saved.tensors.items()}, folder / name, saved.metadata)
    return folder


def state(path: Path, weights: str = "auto") -> dict[str, Tensor]:
    return load_transformer(path, dtype=torch.float32, weights=weights).state_dict()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether both hold the same bytes."""
    return first.keys() == second.keys() and all(
        torch.equal(tensor.view(torch.uint8), second[name].view(torch.uint8)) for name, tensor in first.items()
    )


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_transformer(path, dtype=torch.float32)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("save", "scheme", "form"), FORMS)
def test_the_values_are_those_of_the_file(
    folder: Path, checkpoint: Path, tensors: dict[str, Tensor], save: Callable[..., Saved], scheme: str, form: str
) -> None:
    opened = open_checkpoint(write(folder, save(tensors, scheme)))
    assert opened.scheme == scheme and opened.stored_weights == f"{scheme} ({form})"
    assert same(state(folder), state(checkpoint, scheme))


@pytest.mark.parametrize("file", ["torchao_0.18", "comfyui_0.33"])
def test_files_that_the_programs_wrote(golden: Path, file: str) -> None:
    """As the programs dequantise them: int8, fp8 and int4 of torchao, int8 in both forms and fp8 of ComfyUI."""
    expected = load_file(golden / "quantised" / f"{file}_dequantised.safetensors")
    store = TensorStore([golden / "quantised" / f"{file}.safetensors"])
    scales = {key: store.get(QUERY_PARTS + key) for key in ("codes", "scale")}
    found = {QUERY: SCHEMES["int8"].dequantize(scales, 128).bfloat16()}
    found |= {name: store.get(name) for name in expected if name != QUERY}
    assert store.scheme == "int8" and same(found, expected)


@pytest.mark.parametrize(("config", "scheme"), [("Int8WeightOnlyConfig", "int8"), ("Float8WeightOnlyConfig", "fp8")])
def test_what_the_installed_torchao_saves(folder: Path, tensors: dict[str, Tensor], config: str, scheme: str) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    saving = pytest.importorskip("torchao.prototype.safetensors.safetensors_support", reason="torchao is too old")
    quantised = {}
    for name in blocks(tensors):
        layer = nn.Linear(*reversed(tensors[name].shape), bias=False)
        layer.weight = nn.Parameter(tensors[name])
        quantization.quantize_(layer, getattr(quantization, config)(set_inductor_config=False))
        quantised[name] = layer.weight.data
    try:
        saved = Saved(*saving.flatten_tensor_state_dict(tensors | quantised))
    except ValueError as error:  # int8 before 0.16
        pytest.skip(f"this torchao does not save it: {error}")
    store = open_checkpoint(write(folder, saved)).tensors
    for name, weight in quantised.items():
        packed = {key: store.get(packed_name(name, key)) for key in SCHEMES[scheme].packed_specs(weight.shape[1])}
        assert torch.equal(SCHEMES[scheme].dequantize(packed, weight.shape[1]), weight.dequantize())


@pytest.mark.parametrize("scheme", ["int8", "fp8", "int4"])
def test_a_quantised_head_is_dequantised(
    folder: Path, tensors: dict[str, Tensor], scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumina_core.checkpoint.tensors.PART_BYTES", 2000)
    monkeypatch.setattr("lumina_core.checkpoint.packed_weights.ELEMENTS", 500)
    write(folder, torchao(tensors, scheme, [HEAD]))
    opened = open_checkpoint(folder)
    assert opened.scheme is None
    packed = SCHEMES[scheme].quantize(tensors[HEAD])
    expected = SCHEMES[scheme].dequantize(packed, tensors[HEAD].shape[1])
    found = opened.tensors.get(HEAD)
    assert torch.equal(found, expected.bfloat16() if scheme == "int4" else expected)
    load_transformer(folder, dtype=torch.float32)


@pytest.mark.parametrize("save", [torchao, comfy])
def test_one_scale_for_all_rows(folder: Path, tensors: dict[str, Tensor], save: Callable[..., Saved]) -> None:
    saved = save(tensors, "fp8")
    values, scale = ("_weight_qdata", "_weight_scale") if save is torchao else ("weight", "weight_scale")
    saved.tensors[QUERY_PARTS + scale] = torch.tensor(0.25)
    if save is torchao:
        described = json.loads(saved.metadata[QUERY])
        described["_data"]["block_size"] = list(tensors[QUERY].shape)
        saved.metadata[QUERY] = json.dumps(described)
    store = open_checkpoint(write(folder, saved)).tensors
    assert torch.equal(store.get(QUERY_PARTS + "scale"), torch.full((len(tensors[QUERY]),), 0.25))
    assert torch.equal(store.get(QUERY_PARTS + "values").float(), saved.tensors[QUERY_PARTS + values].float())


def test_shards_that_part_a_weight_from_its_scale(folder: Path, checkpoint: Path, tensors: dict[str, Tensor]) -> None:
    saved = torchao(tensors, "int8")
    shards = [Saved({}), Saved({})]
    for name, tensor in saved.tensors.items():
        shards[name.endswith("_scale")].tensors[name] = tensor
    for listed, shard in zip((saved.metadata, {}), shards, strict=True):
        shard.metadata = listed
    for name, shard in zip(SHARDS, shards, strict=True):
        write(folder, shard, name)
    index = {name: SHARDS[number] for number, shard in enumerate(shards) for name in shard.tensors}
    (folder / INDEX).write_text(json.dumps({"weight_map": index}))
    assert same(state(folder), state(checkpoint, "int8"))


def test_a_converted_file_that_another_program_quantised(
    checkpoint: Path, tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    """It needs no folder: config and tokenizer are in its metadata."""
    plan_conversion(checkpoint, "bf16").write(file := tmp_path / "alone.safetensors")
    with safe_open(file, "pt") as opened:
        metadata = dict(opened.metadata())
    saved = comfy({name: one.bfloat16() for name, one in tensors.items()}, "int8")
    save_file(saved.tensors, file, metadata)
    assert open_checkpoint(file).scheme == "int8"
    load_transformer(file)


def test_a_config_that_names_torchao(folder: Path, tensors: dict[str, Tensor]) -> None:
    """As transformers writes it."""
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "torchao", "quant_type": {}}
    (folder / "config.json").write_text(json.dumps(config))
    load_transformer(write(folder, torchao(tensors, "int8")), dtype=torch.float32)


def described(name: str, **changes: object) -> Callable[[Saved], None]:
    """Changes what the metadata of torchao say of a tensor."""

    def change(saved: Saved) -> None:
        found = json.loads(saved.metadata[name])
        found["_data"] |= changes.pop("data", {})
        saved.metadata[name] = json.dumps(found | changes)

    return change


def with_tensor(name: str, tensor: Tensor | None) -> Callable[[Saved], None]:
    """Replaces a tensor of the query's layer; None takes it out."""

    def change(saved: Saved) -> None:
        del saved.tensors[QUERY_PARTS + name]
        if tensor is not None:
            saved.tensors[QUERY_PARTS + name] = tensor

    return change


def metadata(name: str, text: str) -> Callable[[Saved], None]:
    return lambda saved: saved.metadata.update({name: text})


def quant(text: bytes) -> Callable[[Saved], None]:
    return with_tensor("comfy_quant", torch.tensor(list(text), dtype=torch.uint8))


TORCHAO_FAULTS = [
    ("int8", metadata("tensor_names", "[oh"), "`tensor_names`, of torchao, is not valid JSON"),
    ("int8", metadata("tensor_names", '{"a": 1}'), "is no list of names"),
    ("int8", lambda saved: saved.metadata.pop(QUERY), "of torchao, is missing"),
    ("int8", metadata(QUERY, "{"), "of torchao, is not valid JSON"),
    ("int8", metadata(QUERY, "{}"), "names no class"),
    ("int8", described(QUERY, _tensor_data_names=3), "is not that of a Int8Tensor"),
    ("int8", described(QUERY, _type="NVFP4Tensor"), "torchao's NVFP4Tensor, which is not supported; expected Int4Tile"),
    ("int4", described(QUERY, _type="Int4Tensor"), "is torchao's Int4Tensor, which is not supported"),
    ("int4", described(QUERY, data={"block_size": [1, 64]}), "with group size 64"),
    ("int4", described(QUERY, data={"shape": None}), "have shape None"),
    ("int8", described(QUERY, data={"block_size": [1, 8]}), "one scale for [1, 8] weights"),
    ("int8", described(QUERY, _tensor_data_names=["scale"]), "q_proj._weight_qdata` is missing"),
    ("int8", with_tensor("_weight_scale", None), "q_proj._weight_scale` is missing"),
    ("int8", with_tensor("_weight_scale", torch.ones(3, 1)), "has shape [3, 1], expected one scale, or one for each"),
    ("int8", with_tensor("_weight_zero_point", torch.ones(32, 1, dtype=torch.int8)), "zero points (asymmetric)"),
    ("fp8", with_tensor("_weight_qdata", torch.zeros(32, 32, dtype=torch.float8_e5m2)), "F8_E5M2, expected F8_E4M3"),
    ("int4", with_tensor("_weight_qdata", torch.zeros(4, 8, 32, 2, dtype=torch.int32)), "shape [4, 8, 32, 2]"),
    ("int4", with_tensor("_weight_scale_and_zero", torch.ones(1, 8, 2).bfloat16()), "expected at least [1, 32, 2]"),
    ("int8", lambda saved: saved.metadata.clear(), "lacks the metadata that say how"),
]


@pytest.mark.parametrize(("scheme", "damage", "expected"), TORCHAO_FAULTS)
def test_what_torchao_saved_is_refused_in_one_line(
    folder: Path, tensors: dict[str, Tensor], scheme: str, damage: Callable[[Saved], None], expected: str
) -> None:
    damage(saved := torchao(tensors, scheme))
    assert expected in refusal(write(folder, saved))


COMFY_FAULTS = [
    (
        comfy,
        quant(b'{"format": "nvfp4"}'),
        "ComfyUI's format 'nvfp4', which is not supported; expected float8_e4m3fn or",
    ),
    (comfy, quant(b'{"format": "int8_tensorwise", "convrot": true}'), "rotated weights (convrot)"),
    (comfy, quant(b"{}"), "format None"),
    (comfy, quant(b"\xff\x00"), "q_proj.comfy_quant` is not valid JSON"),
    (comfy, quant(b"[1]"), "contains a JSON list"),
    (comfy, with_tensor("weight_scale", None), "has no `weight_scale` or `scale_weight`"),
    (comfy, with_tensor("weight_scale", torch.ones(2)), "has shape [2], expected one scale"),
    (comfy, with_tensor("weight", torch.zeros(32, 32)), "holds F32, expected F8_E4M3"),
    (comfy_by_metadata, metadata("_quantization_metadata", "{"), "_quantization_metadata` is not valid JSON"),
    (comfy_by_metadata, metadata("_quantization_metadata", "{}"), "list no layers"),
    (comfy_by_metadata, lambda saved: saved.metadata.clear(), "fp8 or int8 weights with scales, and nothing that says"),
]


@pytest.mark.parametrize(("save", "damage", "expected"), COMFY_FAULTS)
def test_what_comfyui_saved_is_refused_in_one_line(
    folder: Path,
    tensors: dict[str, Tensor],
    save: Callable[..., Saved],
    damage: Callable[[Saved], None],
    expected: str,
) -> None:
    damage(saved := save(tensors, "fp8"))
    assert expected in refusal(write(folder, saved))


def test_a_mixed_file_names_the_first_layer_that_differs(folder: Path, tensors: dict[str, Tensor]) -> None:
    saved = torchao(tensors, "int8", [name for name in tensors if "_proj" in name and name != DOWN])
    message = refusal(write(folder, saved))
    assert f"`{DOWN}` is F32 and `{QUERY}` is int8 (torchao, Int8Tensor); expected the linear layers of all" in message
