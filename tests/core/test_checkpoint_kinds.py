"""Every form of a good checkpoint draws the same; a broken one is refused with what it is, by its bytes and values."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.checkpoint.locate import INDEX, find_movqgan
from lumina_core.checkpoint.tensors import TensorStore
from lumina_core.errors import CheckpointError, LuminaError
from lumina_core.model.load import load_transformer
from lumina_core.movqgan.load import load_movqgan
from lumina_core.pipeline import Lumina

from .checkpoints import CONFIG, SHARDS

IDS = torch.tensor([[5, 9, 300, 17]])


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    """The small checkpoint, in a copy that may be changed."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copied"))


@pytest.fixture
def whole_file(copied: Path) -> Path:
    """The copy with its tensors in one `model.safetensors`."""
    tensors = all_tensors(copied)
    for name in (*SHARDS, INDEX):
        (copied / name).unlink()
    save_file(tensors, copied / "model.safetensors")
    return copied


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file that may be written again: a mapped file must not change."""
    return {name: tensor.clone() for name, tensor in load_file(file).items()}


def all_tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for shard in SHARDS for name, tensor in read(folder / shard).items()}


def logits(path: Path | str) -> Tensor:
    return load_transformer(path, dtype=torch.float32).forward(IDS)


def refusal(path: Path) -> str:
    with pytest.raises(LuminaError) as caught:
        load_transformer(path, dtype=torch.float32)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(read(file)), file)


def renamed(rename: Callable[[str], str]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {rename(name): tensor for name, tensor in tensors.items()}


# Good input


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"base_model.model.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"transformer.{name}",
        lambda name: name.replace("model.layers.0.", "model.layers.0._fsdp_wrapped_module."),
        lambda name: name.replace(".self_attn.", "._checkpoint_wrapped_module.self_attn."),
        lambda name: f"_fsdp_wrapped_module.{name}",
    ],
)
def test_prefixes_of_trainers(whole_file: Path, checkpoint: Path, rename: Callable[[str], str]) -> None:
    change_tensors(whole_file, renamed(rename))
    assert torch.equal(logits(whole_file), logits(checkpoint))


@pytest.mark.parametrize(("name", "values"), [("rotary_emb.inv_freq", 8), ("_extra_state", 0)])
def test_buffers_that_no_model_needs(whole_file: Path, checkpoint: Path, name: str, values: int) -> None:
    buffer = {f"model.layers.0.self_attn.{name}": torch.zeros(values)}
    change_tensors(whole_file, lambda tensors: {**tensors, **buffer})
    assert torch.equal(logits(whole_file), logits(checkpoint))


def test_two_tensors_of_one_name(whole_file: Path) -> None:
    change_tensors(whole_file, lambda tensors: {**tensors, "module.model.norm.weight": torch.ones(32)})
    assert "both `model.norm.weight` and `module.model.norm.weight`" in refusal(whole_file)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "consolidated.00-of-01.pth", "model.CKPT"])
@pytest.mark.parametrize("wrap", [lambda tensors: tensors, lambda tensors: {"model": OrderedDict(tensors), "step": 3}])
def test_pickled_weights(whole_file: Path, checkpoint: Path, name: str, wrap: Callable[[dict], dict]) -> None:
    torch.save(wrap(read(whole_file / "model.safetensors")), whole_file / name)
    (whole_file / "model.safetensors").unlink()
    assert torch.equal(logits(whole_file), logits(checkpoint))


@pytest.mark.parametrize("name", ["model.sft", "MODEL.SAFETENSORS", "weights.SafeTensors", "consolidated.safetensors"])
def test_names_of_safetensors(whole_file: Path, checkpoint: Path, name: str) -> None:
    (whole_file / "model.safetensors").rename(whole_file / name)
    for path in (whole_file, whole_file / name):
        assert torch.equal(logits(path), logits(checkpoint))


def test_the_bytes_decide_and_not_the_name(whole_file: Path, checkpoint: Path) -> None:
    tensors = read(whole_file / "model.safetensors")
    torch.save(tensors, whole_file / "model.safetensors")
    assert torch.equal(logits(whole_file), logits(checkpoint))
    (whole_file / "model.safetensors").unlink()
    save_file(tensors, whole_file / "model.ckpt")
    assert torch.equal(logits(whole_file), logits(checkpoint))


@pytest.mark.parametrize("with_index", [True, False])
def test_one_shard_stands_for_its_set(copied: Path, checkpoint: Path, with_index: bool) -> None:
    if not with_index:
        (copied / INDEX).unlink()
    for path in (copied, copied / SHARDS[0], copied / SHARDS[1]):
        assert torch.equal(logits(path), logits(checkpoint))


@pytest.mark.parametrize("with_index", [True, False])
def test_one_shard_without_the_others(copied: Path, with_index: bool) -> None:
    if not with_index:
        (copied / INDEX).unlink()
    (copied / SHARDS[1]).unlink()
    for path in (copied, copied / SHARDS[0]):
        message = refusal(path)
        assert SHARDS[1] in message if with_index or path != copied else "shards missing" in message


@pytest.mark.parametrize("stale", [True, False])
def test_a_whole_file_comes_before_an_index(
    copied: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture, stale: bool
) -> None:
    save_file(all_tensors(copied), copied / "model.safetensors")
    for shard in SHARDS if stale else ():
        (copied / shard).unlink()
    with caplog.at_level(logging.WARNING):
        assert torch.equal(logits(copied), logits(checkpoint))
    assert "model.safetensors is used, since it is whole" in caplog.text and INDEX in caplog.text


@pytest.mark.parametrize("main", ["abc", None])
def test_snapshot_in_the_local_cache(
    copied: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: str | None
) -> None:
    repository = tmp_path / "hub" / "models--some-owner--some.model"
    shutil.copytree(copied, repository / "snapshots" / "abc")
    if main is not None:
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(main)
        (repository / "snapshots" / "newer").mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for path in ("some-owner/some.model", repository, tmp_path / "hub"):
        assert torch.equal(logits(path), logits(checkpoint))
    assert "does not exist" in refusal(Path("some-owner/another"))


def test_byte_order_marks(whole_file: Path, checkpoint: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        file = whole_file / name
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert torch.equal(logits(whole_file), logits(checkpoint))
    assert open_checkpoint(whole_file).vocabulary == open_checkpoint(checkpoint).vocabulary


@pytest.mark.parametrize("place", ["movqgan/270M/movqgan_270M.ckpt", "movqgan/movqgan.SFT", "MoVQGAN-270M.pth"])
def test_places_of_the_movqgan(copied: Path, place: str) -> None:
    target = copied / place
    target.parent.mkdir(parents=True, exist_ok=True)
    (copied / "movqgan.safetensors").rename(target)
    assert find_movqgan(copied) == target
    load_movqgan(target)
    load_movqgan(target.parent)


def test_weights_split_for_model_parallelism(whole_file: Path) -> None:
    for part in range(2):
        torch.save(read(whole_file / "model.safetensors"), whole_file / f"consolidated.0{part}-of-02.pth")
    (whole_file / "model.safetensors").unlink()
    assert "split for model parallelism" in refusal(whole_file)


@pytest.mark.parametrize("prefix", ["model.", "first_stage_model.", "module.", "vqgan.module."])
@pytest.mark.parametrize("lightning", [True, False])
def test_prefixed_movqgan(copied: Path, tmp_path: Path, prefix: str, lightning: bool) -> None:
    tensors = load_file(copied / "movqgan.safetensors")
    content = {prefix + name: tensor for name, tensor in tensors.items()}
    if lightning:
        content = {"state_dict": content, "epoch": 3, "hyper_parameters": argparse.Namespace(lr=1.0), "callbacks": {}}
    torch.save(content, tmp_path / "movqgan.ckpt")
    own = load_movqgan(tmp_path / "movqgan.ckpt").state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in tensors.items())


# Configs


@pytest.mark.parametrize(
    "values",
    [
        {"rope_scaling": {"rope_type": "default"}},
        {"rope_scaling": {"type": "default", "factor": 1.0}},
        {"rope_scaling": {"type": "linear", "factor": 1.0}},
        {"rope_scaling": {"rope_type": "default", "original_max_position_embeddings": 4096}},
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
        {"rotary_base": 10000, "norm_eps": 1e-5, "rotary_dim": 16, "qk_norm": True, "hidden_act": "SiLU"},
        {"text_config": {"hidden_size": 32, "other": 5}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"sliding_window": None},
        {"sliding_window": 4096, "use_sliding_window": False},
        {"sliding_window": 1024},
        {"layer_types": ["full_attention"] * 2},
        {"quantization_config": None},
        {"partial_rotary_factor": 1.0},
        {"logits_scaling": 1.0},
        {"attention_dropout": 0.1, "initializer_range": 0.02, "z_loss_weight": 1e-5},
    ],
)
def test_keys_that_change_nothing(values: dict) -> None:
    assert TransformerConfig.from_dict({**CONFIG, **values}) == TransformerConfig.from_dict(CONFIG)


@pytest.mark.parametrize(
    "values",
    [{"rope_theta": 50_000.0}, {"rope_parameters": {"rope_theta": 50_000}}, {"rope_scaling": {"rope_theta": 5e4}}],
)
def test_the_base_of_the_rotary_embedding_is_read(values: dict) -> None:
    assert TransformerConfig.from_dict({**CONFIG, **values}).rope_theta == 50_000


@pytest.mark.parametrize(
    "values",
    [
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"rope_scaling": {"factor": 2.0}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}},
        {"rope_parameters": {"sliding_attention": {"rope_theta": 1e6}, "full_attention": {"rope_theta": 1e4}}},
        *({key: 50_000} for key in ("rotary_base", "rope_base", "rotary_emb_base", "global_rope_theta", "theta")),
        *({key: 1e-6} for key in ("norm_eps", "layer_norm_eps", "layernorm_epsilon")),
        *({key: 0.5} for key in ("rotary_percentage", "attention_scale", "softmax_scale", "scale_embedding")),
        *({key: False} for key in ("use_qk_norm", "qk_norm", "qk_layernorm", "is_causal")),
        *({key: {"bits": 4}} for key in ("quantization", "quant_config", "quantize_config")),
        {"rotary_dim": 8},
        {"window_size": 256},
        {"no_rope_layer_interval": 4},
        {"text_config": {"hidden_size": 64}},
        {"rope_parameters": {"rope_theta": 5e4}, "rope_theta": 1e4},
        {"rope_scaling": {"type": None, "rope_theta": 5e4}, "rope_theta": 1e4},
        {"rope_theta": 10**400},
        {"rms_norm_eps": 10**400},
        {"sliding_window": 64},
        {"layer_types": ["sliding_attention", "full_attention"]},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"partial_rotary_factor": 0.5},
        {"logits_scaling": 16.0},
        {"embedding_multiplier": 12.0},
        {"some_new_multiplier": 2.0},
        {"final_logit_softcapping": 30.0},
        {"attention_bias": True},
        {"hidden_act": "gelu"},
        {"num_local_experts": 8},
        {"image_codec": {"channels": "many"}},
        {"image_codec": 5},
    ],
)
def test_keys_that_change_the_arithmetic(values: dict) -> None:
    with pytest.raises(CheckpointError, match=next(reversed(values)).split(".")[0].split("_theta")[0]):
        TransformerConfig.from_dict({**CONFIG, **values})


@pytest.mark.parametrize("layers", [10**6, 10**12, 3, 1])
def test_layers_of_the_config_are_those_of_the_file(whole_file: Path, layers: int) -> None:
    (whole_file / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}))
    message = refusal(whole_file)
    assert "layers" in message and "config.json" in message


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "vocab_size", "head_dim", "num_attention_heads"])
def test_sizes_of_the_config_are_those_of_the_file(whole_file: Path, key: str) -> None:
    (whole_file / "config.json").write_text(json.dumps({**CONFIG, key: 10**9}))
    assert refusal(whole_file)


# Values


def spoil(name: str, change: Callable[[Tensor], object]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    def spoiled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        change(tensors[name])
        return tensors

    return spoiled


NORM, UP, EMBEDDING = "model.norm.weight", "model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (UP, lambda t: t[3, 3].fill_(float("nan")), "NaN or infinite"),
        (UP, lambda t: t[0, 0].fill_(float("inf")), "NaN or infinite"),
        (EMBEDDING, lambda t: t[7].fill_(-float("inf")), "NaN or infinite"),
        ("model.layers.0.self_attn.q_norm.bias", lambda t: t[0, 1].fill_(float("nan")), "NaN or infinite"),
        (UP, lambda t: t[0, 0].fill_(-2e6), "too large, beyond 1e+06"),
        (NORM, lambda t: t.zero_(), "holds only zeros"),
        (UP, lambda t: t.zero_(), "holds only zeros"),
        (UP, lambda t: t[-8:].zero_(), "hole of zeros"),
        (UP, lambda t: t[8:17].zero_(), "hole of zeros"),
        (UP, lambda t: t[:8].zero_(), "hole of zeros"),
        (NORM, lambda t: t[-16:].zero_(), "hole of zeros"),
        (NORM, lambda t: t[3:19].zero_(), "hole of zeros"),
        (EMBEDDING, lambda t: t[-40:].zero_(), "hole of zeros"),
        (EMBEDDING, lambda t: t[390:410].zero_(), "hole of zeros in the rows of image codes"),
        ("lm_head.weight", lambda t: t[400:416].zero_(), "hole of zeros in the rows of image codes"),
    ],
)
def test_values_that_no_model_has(
    whole_file: Path, name: str, change: Callable[[Tensor], object], expected: str
) -> None:
    change_tensors(whole_file, spoil(name, change))
    message = refusal(whole_file)
    assert f"`{name}`" in message and expected in message and str(whole_file) in message


def test_values_that_a_model_may_have(whole_file: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors[EMBEDDING][-1].zero_()
        tensors[UP][5].zero_()
        tensors["model.layers.0.self_attn.q_norm.bias"].zero_()
        return tensors

    change_tensors(whole_file, change)
    load_transformer(whole_file, dtype=torch.float32)


def test_large_tensors_are_looked_at_in_parts(whole_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lumina_core.checkpoint.tensors.PART_BYTES", 1000)
    load_transformer(whole_file, dtype=torch.float32)
    for row in (0, 200, -1):
        change_tensors(whole_file, spoil(EMBEDDING, lambda t, row=row: t[row, 5].fill_(float("nan"))))
        with pytest.raises(CheckpointError, match="NaN"):
            TensorStore([whole_file / "model.safetensors"]).get(EMBEDDING)
        change_tensors(whole_file, spoil(EMBEDDING, lambda t, row=row: t[row, 5].fill_(1.0)))


# Diagnoses


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(1)}, "is a LoRA"),
        (lambda t: {**t, f"{UP[:-7]}.scale_weight": torch.ones(1)}, "fp8 or int8 weights with scales"),
        (lambda t: {**t, f"{UP[:-7]}.qweight": torch.ones(1)}, "quantised by GPTQ"),
        (lambda t: {**t, f"{UP}.absmax": torch.ones(1)}, "quantised by bitsandbytes"),
        (lambda t: {"some.weight": torch.ones(1)}, "of another model"),
        (lambda t: {n: x for n, x in t.items() if ".layers.1." not in n}, "of 1 layers"),
    ],
)
def test_foreign_tensors(whole_file: Path, change: Callable[[dict], dict], expected: str) -> None:
    change_tensors(whole_file, change)
    assert expected in refusal(whole_file)


def test_a_movqgan_in_place_of_the_transformer(whole_file: Path) -> None:
    shutil.copy(whole_file / "movqgan.safetensors", whole_file / "model.safetensors")
    assert "is a MoVQGAN, not the transformer" in refusal(whole_file)


def test_float8_weights(whole_file: Path) -> None:
    change_tensors(whole_file, lambda t: {**t, UP: t[UP].to(torch.float8_e4m3fn)})
    assert "holds F8_E4M3" in refusal(whole_file)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (b"GGUF" + bytes(200), "is a GGUF file"),
        (bytes(5000), "is all zeros"),
        (b"", "is empty"),
        (b'{"error": "not found"}', "is JSON text"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "movqgan.safetensors", "config.json", "tokenizer.json"])
def test_files_are_named_by_their_bytes(whole_file: Path, name: str, content: bytes, expected: str) -> None:
    (whole_file / name).write_bytes(content)
    if name.endswith(".json") and content.startswith(b"{"):
        expected = ""
    with pytest.raises(LuminaError) as caught:
        Lumina.load(whole_file, device="cpu")
    assert str(whole_file / name) in str(caught.value) and expected in str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: data + bytes(17), "is too long: 17 bytes follow its last tensor"),
        (lambda data: data[:-5], "is cut off: 5 of its"),
        (lambda data: data[:40], "ends inside its header"),
    ],
)
def test_sizes_of_safetensors(whole_file: Path, change: Callable[[bytes], bytes], expected: str) -> None:
    file = whole_file / "model.safetensors"
    file.write_bytes(change(file.read_bytes()))
    assert expected in refusal(whole_file)


@pytest.mark.filterwarnings("ignore")  # quantised and nested tensors are deprecated
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(1).expand(10**9),
        lambda: torch.ones(4).to_sparse(),
        lambda: torch.ones(4, device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: torch.ones(3, dtype=torch.complex64),
        lambda: torch.ones(3, dtype=torch.int64),
    ],
)
def test_tensors_that_are_not_plain(copied: Path, tmp_path: Path, make: Callable[[], Tensor]) -> None:
    tensors = load_file(copied / "movqgan.safetensors")
    torch.save({**tensors, "decoder.conv_in.weight": make()}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"decoder\.conv_in\.weight|cannot read|not a file of plain"):
        load_movqgan(tmp_path / "x.ckpt")


def test_pipes_and_devices(whole_file: Path) -> None:
    os.mkfifo(whole_file / "pipe")
    for path in (whole_file / "pipe", Path("/dev/zero")):
        assert "a pipe or a device, not a file" in refusal(path)


# What other programs leave


def test_files_of_macos_are_left_out(copied: Path, checkpoint: Path) -> None:
    for file in list(copied.iterdir()):
        (copied / f"._{file.name}").write_bytes(bytes.fromhex("00051607") + bytes(100))
    assert torch.equal(logits(copied), logits(checkpoint))
    (copied / INDEX).unlink()
    assert torch.equal(logits(copied), logits(checkpoint))


@pytest.mark.parametrize(
    "beside", ["training_args.bin", "model_args.pth", "scaler.pt", "optimizer.pt", "mp_rank_00_optim_states.pt"]
)
def test_what_trainers_write_beside_the_weights(whole_file: Path, checkpoint: Path, beside: str) -> None:
    torch.save(read(whole_file / "model.safetensors"), whole_file / "mp_rank_00_model_states.pt")
    (whole_file / "model.safetensors").unlink()
    torch.save({"step": 5}, whole_file / beside)
    assert torch.equal(logits(whole_file), logits(checkpoint))


@pytest.mark.parametrize("keys", [("checkpoint", "state_dict"), ("state_dict", "model"), ("module",)])
def test_weights_within_other_values(whole_file: Path, checkpoint: Path, keys: tuple[str, ...]) -> None:
    content: dict = read(whole_file / "model.safetensors")
    for key in reversed(keys):
        content = {key: content, "step": 5}
    (whole_file / "model.safetensors").unlink()
    torch.save(content, whole_file / "pytorch_model.bin")
    assert torch.equal(logits(whole_file), logits(checkpoint))


def test_names_of_the_base_model(whole_file: Path, checkpoint: Path) -> None:
    change_tensors(whole_file, renamed(lambda name: name.removeprefix("model.")))
    assert torch.equal(logits(whole_file), logits(checkpoint))


def test_float64_weights(whole_file: Path, checkpoint: Path) -> None:
    change_tensors(whole_file, lambda tensors: {name: tensor.double() for name, tensor in tensors.items()})
    assert torch.equal(logits(whole_file), logits(checkpoint))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.0.self_attn.q_proj.base_layer.weight", "adapter that was not merged"),
        ("model.layers.0.self_attn.q_proj.W_q", "quantised by HQQ"),
        ("model.layers.0.self_attn.q_proj.scales", "quantised by MLX"),
        ("model.layers.0.self_attn.q_proj._weight_qdata", "quantised by torchao"),
        ("model.layers.0.self_attn.qkv_proj.weight", "fused or renamed layers"),
    ],
)
def test_names_that_tell_a_program(whole_file: Path, name: str, expected: str) -> None:
    change_tensors(whole_file, lambda tensors: {**tensors, name: torch.ones(2)})
    assert expected in refusal(whole_file)


def test_weights_that_were_not_gathered(whole_file: Path) -> None:
    change_tensors(whole_file, lambda tensors: {name: torch.zeros(0) for name in tensors})
    assert "ZeRO-3" in refusal(whole_file)


@pytest.mark.parametrize("name", ["model.safetensors.part", "model.safetensors.crdownload", "model.safetensors.txt"])
def test_an_unfinished_download_is_named(whole_file: Path, name: str) -> None:
    (whole_file / "model.safetensors").rename(whole_file / name)
    assert f"found none, and {name}, which is no finished download" in refusal(whole_file)


def test_a_program_of_torchscript(copied: Path, tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "movqgan.ckpt")
    with pytest.raises(CheckpointError, match="is a TorchScript program"):
        load_movqgan(tmp_path / "movqgan.ckpt")


def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "~nobody-of-this-name/hub")
    assert "does not exist" in refusal(Path("some-owner/some-model"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_json_in_utf16(whole_file: Path, checkpoint: Path, encoding: str) -> None:
    text = (whole_file / "config.json").read_text()
    (whole_file / "config.json").write_bytes((text if encoding == "utf-16" else "\ufeff" + text).encode(encoding))
    assert torch.equal(logits(whole_file), logits(checkpoint))


def test_a_key_that_comes_twice(whole_file: Path) -> None:
    text = (whole_file / "config.json").read_text()
    (whole_file / "config.json").write_text(text.replace("{", '{"rope_theta": 5.0, "rope_theta": 6.0,', 1))
    assert "the key 'rope_theta' comes twice" in refusal(whole_file)


def test_a_key_that_comes_twice_with_one_value(whole_file: Path, checkpoint: Path) -> None:
    text = (whole_file / "config.json").read_text()
    (whole_file / "config.json").write_text(text.replace("{", '{"rope_theta": 1e4, "rope_theta": 1e4,', 1))
    assert torch.equal(logits(whole_file), logits(checkpoint))


def test_int4_scales(whole: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    with safe_open(whole, "pt") as file:
        metadata = file.metadata()
    tensors = read(whole)
    name = next(name for name in tensors if name.endswith(".scale_zero"))
    for value in (0.0, -1.0):
        tensors[name][3, 0, 0] = value
        save_file(tensors, tmp_path / "spoilt.safetensors", metadata=metadata)
        assert f"`{name}` holds scales that are not positive" in refusal(tmp_path / "spoilt.safetensors")
