"""A checkpoint gives the same model in any of its forms; a bad one is refused in one line that says what to do."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.checkpoint.locate import INDEX, find_movqgan
from lumina_core.checkpoint.published import EMBEDDING, HEAD, published_shapes
from lumina_core.checkpoint.tensors import TensorStore
from lumina_core.errors import CheckpointError
from lumina_core.model.load import fill, load_transformer
from lumina_core.model.transformer import Transformer

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
NORM = "model.norm.weight"
MAPS = Path("/proc/self/maps")
pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


@pytest.fixture(scope="session")
def source(golden: Path) -> Path:
    return golden / "transformer" / "mha"


@pytest.fixture(scope="session")
def tensors(source: Path) -> dict[str, Tensor]:
    """All published tensors, the unused ones included."""
    return load_file(source / "model.safetensors")


@pytest.fixture
def whole(tmp_path: Path, source: Path) -> Path:
    """A folder with config and one file."""
    folder = tmp_path / "whole"
    shutil.copytree(source, folder)
    (folder / "expected.safetensors").unlink()
    return folder


@pytest.fixture
def sharded(tmp_path: Path, source: Path, tensors: dict[str, Tensor]) -> Path:
    """The published form: config, two shards, index."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    shutil.copy(source / "config.json", folder)
    names = sorted(tensors)
    weight_map = {name: SHARDS[2 * index // len(names)] for index, name in enumerate(names)}
    for shard in SHARDS:
        save_file({name: tensors[name] for name in names if weight_map[name] == shard}, folder / shard)
    write_index(folder, weight_map)
    return folder


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def change_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def put_tensor(file: Path, name: str, tensor: Tensor | None) -> None:
    """Puts a tensor into a file, or takes it out of it where None."""
    tensors = {**{other: kept.clone() for other, kept in load_file(file).items()}, name: tensor}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)


def shard_of(folder: Path, name: str) -> Path:
    return folder / json.loads((folder / INDEX).read_text())["weight_map"][name]


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


def meta_model(folder: Path) -> Transformer:
    with torch.device("meta"):
        return Transformer(TransformerConfig.from_file(folder / "config.json"))


def refusal(path: Path | str) -> str:
    """The one line that a CheckpointError says when this is loaded."""
    with pytest.raises(CheckpointError) as caught:
        load_transformer(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rename_model(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "lumina.safetensors")
    (folder / "movqgan.safetensors").touch()
    return folder


@pytest.mark.parametrize(
    ("form", "path_of"),
    [
        pytest.param("sharded", lambda folder: folder, id="shards and index"),
        pytest.param("whole", lambda folder: folder, id="one file"),
        pytest.param("whole", str, id="a path in a string"),
        pytest.param("whole", rename_model, id="one file of any name beside a MoVQGAN"),
        pytest.param("whole", lambda folder: folder / "model.safetensors", id="single file, config beside it"),
    ],
)
def test_every_form_gives_the_published_logits(
    request: pytest.FixtureRequest, source: Path, form: str, path_of: Callable[[Path], Path | str]
) -> None:
    model = load_transformer(path_of(request.getfixturevalue(form)), dtype=torch.float32)
    expected = load_file(source / "expected.safetensors")
    torch.testing.assert_close(model(expected["input_ids"]), expected["logits"], atol=1e-4, rtol=0)


def test_loaded_model_only_infers(whole: Path) -> None:
    model = load_transformer(whole)
    assert not model.training and not any(weight.requires_grad for weight in model.parameters())


def test_code_tables_are_rows_of_the_whole_tables(whole: Path, tensors: dict[str, Tensor]) -> None:
    change_config(whole, image_token_offset=500, image_codebook_size=100)
    model = load_transformer(whole, dtype=torch.float32)
    assert torch.equal(model.code_embedding.weight, tensors[EMBEDDING][500:600])
    assert torch.equal(model.code_head.weight, tensors[HEAD][500:600])
    assert torch.equal(model.text_embedding, tensors[EMBEDDING]) and torch.equal(model.text_head, tensors[HEAD])


def test_a_model_of_text_alone_has_no_codes(whole: Path) -> None:
    change_config(whole, image_token_offset=640, image_codebook_size=100)
    assert len(load_transformer(whole).code_range) == 0


def test_codes_may_end_the_vocabulary_but_not_pass_it(whole: Path) -> None:
    change_config(whole, image_token_offset=540, image_codebook_size=100)
    assert load_transformer(whole).code_range == range(540, 640)
    change_config(whole, image_codebook_size=101)
    message = refusal(whole)
    assert "config.json" in message and "640" in message and "540 to 640" in message and "set image_token" in message


def test_companions_lie_beside_the_weights(whole: Path) -> None:
    for path in (whole, whole / "model.safetensors"):
        checkpoint = open_checkpoint(path)
        assert checkpoint.path == path and checkpoint.config_path == whole / "config.json"
        assert checkpoint.tensors.paths == (whole / "model.safetensors",) and checkpoint.movqgan is None


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["vae.safetensors"], None),
        (["movqgan_tiny.ckpt"], "movqgan_tiny.ckpt"),
        (["movqgan_67M.ckpt", "movqgan_270M.ckpt"], "movqgan_270M.ckpt"),
        (["movqgan_270M.ckpt", "movqgan.safetensors"], "movqgan.safetensors"),
        (["movqgan_67M.ckpt", "movqgan_102M.safetensors"], None),
    ],
)
def test_movqgan_is_found_where_there_is_no_doubt(tmp_path: Path, names: list[str], found: str | None) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert find_movqgan(tmp_path) == (tmp_path / found if found else None)


def test_no_more_than_two_tensors_are_held_at_a_time(whole: Path) -> None:
    model, store = meta_model(whole), TensorStore([whole / "model.safetensors"])
    given: list[weakref.ref] = []

    def get(name: str) -> Tensor:
        assert sum(tensor() is not None for tensor in given) <= 1
        tensor = store.get(name).clone()
        given.append(weakref.ref(tensor))
        return tensor

    fill(model, get, torch.float32, "cpu")
    assert len(given) == len(published_shapes(model.config)) and not any(tensor() is not None for tensor in given)


def test_a_load_that_fails_halfway_leaves_the_model_empty(whole: Path) -> None:
    model, store = meta_model(whole), TensorStore([whole / "model.safetensors"])

    def get(name: str) -> Tensor:
        if name == HEAD:
            raise CheckpointError("unreadable")
        return store.get(name)

    with pytest.raises(CheckpointError, match="unreadable"):
        fill(model, get, torch.float32, "cpu")
    assert all(weight.is_meta for weight in model.parameters())


@pytest.mark.skipif(not MAPS.exists(), reason="the system does not list memory maps")
def test_a_refused_checkpoint_is_closed(sharded: Path) -> None:
    change_config(sharded, vocab_size=641)
    refusal(sharded)
    gc.collect()
    assert str(sharded) not in MAPS.read_text()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        pytest.param(lambda shard: shard.unlink(), "download them again", id="absent"),
        pytest.param(lambda shard: cut(shard, 0), "download it again", id="empty"),
        pytest.param(lambda shard: cut(shard, 100), "download it again", id="cut in the header"),
        pytest.param(lambda shard: cut(shard, shard.stat().st_size // 2), "download it again", id="cut in the middle"),
    ],
)
def test_damaged_shard_is_named(sharded: Path, damage: Callable[[Path], None], named: str) -> None:
    damage(sharded / SHARDS[1])
    message = refusal(sharded)
    assert str(sharded) in message and SHARDS[1] in message and SHARDS[0] not in message and named in message


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (torch.ones(95), f"`{NORM}` has shape [95], expected [96]"),
        (torch.ones(96, 1), f"`{NORM}` has shape [96, 1], expected [96]"),
        (None, f"missing `{NORM}`"),
    ],
)
def test_tensor_that_does_not_fit_is_named(sharded: Path, tensor: Tensor | None, problem: str) -> None:
    put_tensor(shard_of(sharded, NORM), NORM, tensor)
    message = refusal(sharded)
    assert str(sharded) in message and problem in message and "Check that" in message


def test_unexpected_tensor_is_named(sharded: Path) -> None:
    put_tensor(sharded / SHARDS[0], "model.layers.3.extra", torch.ones(1))
    assert "unexpected `model.layers.3.extra`" in refusal(sharded)


def test_tensor_in_two_shards_is_named(sharded: Path) -> None:
    for shard in SHARDS:
        put_tensor(sharded / shard, NORM, torch.ones(96))
    message = refusal(sharded)
    assert f"`{NORM}`" in message and all(shard in message for shard in SHARDS)


def test_config_of_another_model_is_noticed(whole: Path) -> None:
    change_config(whole, num_hidden_layers=4)
    assert "num_hidden_layers is 4, and the tensors are of 3 layers" in refusal(whole)


@pytest.mark.parametrize("weight_map", [None, ["a"], {"a": 1}])
def test_index_without_weight_map(sharded: Path, weight_map: object) -> None:
    write_index(sharded, weight_map)
    message = refusal(sharded)
    assert str(sharded / INDEX) in message and "`weight_map`" in message and "download it again" in message


def test_index_that_is_no_json_object(sharded: Path) -> None:
    for content in ("", "{", "[]"):
        (sharded / INDEX).write_text(content)
        assert str(sharded / INDEX) in refusal(sharded)


@pytest.mark.parametrize("name", ["../outside.safetensors", "{parent}/outside.safetensors", f"./{SHARDS[0]}", ""])
def test_index_never_leads_out_of_its_folder(sharded: Path, name: str) -> None:
    shutil.copy(sharded / SHARDS[0], sharded.parent / "outside.safetensors")
    name = name.format(parent=sharded.parent)
    write_index(sharded, {"a": name, "b": SHARDS[1]})
    message = refusal(sharded)
    assert str(sharded / INDEX) in message and repr(name) in message and "same folder" in message


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]"])
def test_config_that_is_absent_or_no_json_object(whole: Path, content: bytes | None) -> None:
    (whole / "config.json").unlink()
    if content is not None:
        (whole / "config.json").write_bytes(content)
    for path in (whole, whole / "model.safetensors"):
        assert str(whole / "config.json") in refusal(path)


@pytest.mark.parametrize("names", [[], ["a.safetensors", "b.safetensors"], ["movqgan.safetensors"], ["movqgan.bin"]])
def test_folder_without_index_holds_one_file(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    message = refusal(tmp_path)
    found = ", ".join(name for name in names if name[0] in "ab") or "none"
    assert str(tmp_path) in message and "exactly one .safetensors" in message and message.endswith(f"found {found}")


@pytest.mark.parametrize("name", ["absent", "absent.safetensors", "nul\0"])
def test_path_that_is_no_checkpoint(whole: Path, name: str) -> None:
    message = refusal(whole / name)
    assert str(whole / name) in message and "expected a" in message
