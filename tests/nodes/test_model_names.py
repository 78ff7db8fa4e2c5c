"""The names of checkpoints and MoVQGANs in the lists: each means one path, over several model folders."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lumina_core.convert import plan_conversion

DEMO = Path(__file__).parents[2] / "lumina_core" / "demo"


@pytest.fixture(scope="module")
def names(pack: ModuleType) -> Any:
    return importlib.import_module(f"{pack.__name__}.nodes.model_names")


@pytest.fixture
def roots(tmp_path: Path) -> list[Path]:
    """An extra folder, which ComfyUI lists first, and the usual one."""
    folders = [tmp_path / "extra disk" / "lum", tmp_path / "models" / "lumina_mgpt2"]
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


def listed(roots: list[Path], find: Callable[[list[Path], list[str]], dict[str, Path]]) -> dict[str, Path]:
    """What `find` returns for the files in the roots, merged as ComfyUI merges them."""
    return find(roots, sorted({str(path.relative_to(root)) for root in roots for path in root.rglob("*")}))


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_name_in_two_folders_means_the_first_and_the_other_has_a_name_of_its_own(names, roots):
    first, second = (put(root / "same.safetensors") for root in roots)
    folders = [put(root / "deep" / "er" / "config.json").parent for root in roots]
    assert listed(roots, names.checkpoint_paths) == {
        "same.safetensors": first,
        "deep/er": folders[0],
        f"same.safetensors [{roots[1].as_posix()}]": second,
        f"deep/er [{roots[1].as_posix()}]": folders[1],
    }


def test_the_same_holds_for_files(names, roots):
    paths = [put(root / "movqgan_270M.ckpt") for root in roots]
    found = listed(roots, names.file_paths)
    assert found == {"movqgan_270M.ckpt": paths[0], f"movqgan_270M.ckpt [{roots[1].as_posix()}]": paths[1]}
    assert [names.name_of(path, found) for path in paths] == list(found)


def test_a_file_that_two_folders_share_has_one_name(names, roots):
    path = put(roots[0] / "one.safetensors")
    roots[1].rmdir()
    roots[1].symlink_to(roots[0], target_is_directory=True)
    assert listed(roots, names.checkpoint_paths) == {"one.safetensors": path}


def test_files_put_flat_into_a_model_folder_are_one_checkpoint(names, roots):
    shutil.copytree(DEMO, roots[1], dirs_exist_ok=True, ignore=shutil.ignore_patterns("loras"))
    assert listed(roots, names.checkpoint_paths) == {"lumina_mgpt2": roots[1]}


def test_flat_folders_of_one_name_and_a_subfolder_of_that_name_stay_apart(names, roots):
    subfolder = put(roots[0] / "lumina_mgpt2" / "config.json").parent
    put(roots[1] / "config.json")
    found = listed(roots, names.checkpoint_paths)
    assert found == {"lumina_mgpt2": subfolder, f"lumina_mgpt2 [{roots[1].as_posix()}]": roots[1]}


def test_a_converted_file_beside_flat_files_is_a_checkpoint_of_its_own(names, roots):
    shutil.copytree(DEMO, roots[1], dirs_exist_ok=True, ignore=shutil.ignore_patterns("loras"))
    plan_conversion("demo", "int4").write(roots[1] / "saved.safetensors")
    assert set(listed(roots, names.checkpoint_paths)) == {"lumina_mgpt2", "saved.safetensors"}


@pytest.mark.parametrize("has_config", [True, False])
@pytest.mark.parametrize("has_index", [True, False])
def test_shards_are_not_listed_one_by_one(names, roots, has_config, has_index):
    for number in (1, 2):
        put(roots[1] / f"model-0000{number}-of-00002.safetensors")
    if has_config:
        put(roots[1] / "config.json", b"{}")
    if has_index:
        shards = {f"tensor{k}": f"model-0000{k}-of-00002.safetensors" for k in (1, 2)}
        put(roots[1] / "model.safetensors.index.json", json.dumps({"weight_map": shards}).encode())
    assert listed(roots, names.checkpoint_paths) == ({"lumina_mgpt2": roots[1]} if has_config else {})


def test_what_an_index_names_is_not_listed_under_any_name(names, roots):
    for name in ("part a.safetensors", "part b.safetensors", "alone.safetensors"):
        put(roots[1] / "sub" / name)
    index = {"weight_map": {"x": "part a.safetensors", "y": "part b.safetensors"}}
    put(roots[1] / "sub" / "model.safetensors.index.json", json.dumps(index).encode())
    assert list(listed(roots, names.checkpoint_paths)) == ["sub/alone.safetensors"]


@pytest.mark.parametrize("index", [b"", b"[]", b'{"weight_map": 3}', b'{"weight_map": {"x": 3}}', b"version https"])
def test_a_damaged_index_hides_nothing(names, roots, index):
    put(roots[1] / "alone.safetensors")
    put(roots[1] / "model.safetensors.index.json", index)
    assert list(listed(roots, names.checkpoint_paths)) == ["alone.safetensors"]


@pytest.mark.parametrize("name", ["a.sft", "a.SAFETENSORS", "a.SafeTensors", "a-00001-of-00001.safetensors"])
def test_a_single_file_is_listed_with_every_suffix_of_its_format(names, roots, name):
    assert listed([put(roots[0] / name).parent], names.checkpoint_paths) == {name: roots[0] / name}


@pytest.mark.parametrize("name", ["movqgan.safetensors", "MoVQGAN_270M.safetensors", "a.ckpt", "a.txt"])
def test_what_is_no_checkpoint_is_not_listed(names, roots, name):
    put(roots[0] / name)
    assert listed(roots, names.checkpoint_paths) == {}


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "consolidated.00.pth", "model.safetensors"])
def test_a_folder_with_a_config_is_listed_whatever_its_weights_are(names, roots, weights):
    put(roots[0] / "mine" / weights)
    folder = put(roots[0] / "mine" / "config.json").parent
    assert listed(roots, names.checkpoint_paths) == {"mine": folder}


def test_of_shared_folders_only_checkpoints_of_this_model_are_listed(names, roots, tmp_path):
    shared = tmp_path / "models" / "diffusion_models"
    own, converted = shared / "mine", shared / "deep" / "demo-int4.safetensors"
    shutil.copytree(DEMO, own, ignore=shutil.ignore_patterns("loras"))
    put(converted).unlink()
    plan_conversion(DEMO, "int4").write(converted)
    put(shared / "flux.safetensors")  # damaged
    shutil.copy(DEMO / "movqgan.safetensors", shared / "vae.safetensors")
    foreign = put(shared / "llama" / "config.json", b'{"model_type": "llama"}').parent
    shutil.copy(DEMO / "model.safetensors", foreign)
    put(roots[1] / "mine" / "config.json")
    files = sorted(str(path.relative_to(shared)) for path in shared.rglob("*.safetensors"))
    found = names.checkpoint_paths(roots, [str(Path("mine", "config.json"))], [shared], files)
    assert found == {
        "mine": roots[1] / "mine",
        f"mine [{shared.as_posix()}]": own,
        "deep/demo-int4.safetensors": converted,
    }


def test_a_file_of_a_shared_folder_that_is_replaced_is_looked_at_again(names, roots, tmp_path):
    shared = tmp_path / "diffusion_models"
    path = put(shared / "model.safetensors")
    assert names.checkpoint_paths(roots, [], [shared], [path.name]) == {}
    path.unlink()
    plan_conversion(DEMO, "int4").write(path)
    assert names.checkpoint_paths(roots, [], [shared], [path.name]) == {path.name: path}


def test_the_loras_of_the_demo_follow_those_of_the_user(nodes, monkeypatch, tmp_path):
    folders, own = nodes("nodes.folders"), put(tmp_path / "style" / "mine.safetensors")
    listed_paths = {"style/mine.safetensors": str(own), "removed.safetensors": None}
    monkeypatch.setattr(folders.folder_paths, "get_filename_list", lambda kind: list(listed_paths), raising=False)
    monkeypatch.setattr(folders.folder_paths, "get_full_path", lambda kind, name: listed_paths[name], raising=False)
    silver = "demo silver (built in)"
    assert folders.lora_paths() == {
        "style/mine.safetensors": own,
        silver: folders.DEMO_FOLDER / "loras" / "silver.safetensors",
    }
    assert folders.lora_path(silver).is_file() and folders.lora_path("style/mine.safetensors") == own
    with pytest.raises(nodes("lumina_core.errors").InputError, match=r"'removed.safetensors' is not in models/loras"):
        folders.lora_path("removed.safetensors")
