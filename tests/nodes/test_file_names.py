"""The names of files that Save Lumina Checkpoint writes."""

from __future__ import annotations

import importlib
import itertools
import re
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any

import pytest

ENDING = "_00001_.safetensors"


@pytest.fixture(scope="module")
def file_names(pack: ModuleType) -> Any:
    return importlib.import_module(f"{pack.__name__}.nodes.file_names")


@pytest.fixture(scope="module")
def input_error(file_names: Any) -> type[Exception]:
    return file_names.InputError


@pytest.mark.parametrize("character", [*'<>:"|?*', "\0", "\n", "\x1f", "\x7f", "\ud800"])
@pytest.mark.parametrize("where", ["a{}b", "{}", "folder{}/name"])
def test_characters_that_windows_forbids_are_refused(file_names, input_error, character, where):
    prefix = where.format(character)
    with pytest.raises(input_error, match="expected a name that every system can store"):
        file_names.prefix_path(prefix, "filename_prefix", ENDING)


@pytest.mark.parametrize("name", ["CON", "nul", "Aux", "prn", "com1", "LPT9", "COM¹", "con.txt", "nul .x", "CONIN$"])
@pytest.mark.parametrize("where", ["{}", "{}/name", "folder/{}"])
def test_names_of_devices_are_refused(file_names, input_error, name, where):
    with pytest.raises(input_error, match="is a device on Windows"):
        file_names.prefix_path(where.format(name), "filename_prefix", ENDING)


@pytest.mark.parametrize("prefix", ["name.", "name ", "folder./name", "folder /name", " ", "..."])
def test_dots_and_spaces_at_the_end_are_refused(file_names, input_error, prefix):
    with pytest.raises(input_error, match="without a dot or space at the end"):
        file_names.prefix_path(prefix, "filename_prefix", ENDING)


@pytest.mark.parametrize("prefix", ["a" * 237, "é" * 119, "a" * 300, "b" * 256 + "/name", "a" * 5000])
def test_names_that_are_too_long_are_refused_in_a_short_line(file_names, input_error, prefix):
    with pytest.raises(input_error, match=r"bytes( long)?$") as caught:
        file_names.prefix_path(prefix, "filename_prefix", ENDING)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "prefix", ["", "/", ".", "..", "../out", "a/../../b", "/absolute", "\\absolute", "a/", "a\\..\\b"]
)
def test_prefixes_that_leave_the_folder_or_name_nothing_are_refused(file_names, input_error, prefix):
    with pytest.raises(input_error, match="inside the folder"):
        file_names.prefix_path(prefix, "filename_prefix", ENDING)


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        ("lumina_mgpt2", "lumina_mgpt2"),
        ("mine/small", "mine/small"),
        ("mine\\small", "mine/small"),
        ("./mine//small", "mine/small"),
        ("größe 東京.v1", "größe 東京.v1"),
        ("console/nullable", "console/nullable"),
        ("a" * 236, "a" * 236),
    ],
)
def test_names_that_every_system_can_store_are_taken(file_names, prefix, path):
    assert file_names.prefix_path(prefix, "filename_prefix", ENDING) == PurePosixPath(path)


def test_the_time_is_filled_in(file_names):
    path = file_names.prefix_path("%year%/%month%-%day%_%hour%%minute%%second%", "filename_prefix", ENDING)
    assert re.fullmatch(r"20\d\d/[01]\d-[0-3]\d_[0-2]\d[0-5]\d[0-6]\d", str(path))


def test_numbers_go_on_from_the_highest_of_all_folders(file_names, tmp_path):
    roots = [tmp_path / "one", tmp_path / "two"]
    for root, number in zip(roots, (3, 7), strict=True):
        (root / "sub").mkdir(parents=True)
        (root / "sub" / f"name_{number:05}_.safetensors").touch()
        (root / "sub" / "name_other_.safetensors").touch()
    paths = file_names.numbered_paths(roots[0], PurePosixPath("sub/name"), ".safetensors", roots)
    found = [path.relative_to(roots[0]).as_posix() for path in itertools.islice(paths, 2)]
    assert found == ["sub/name_00008_.safetensors", "sub/name_00009_.safetensors"]


def test_new_folders_are_removed_after_a_failure_and_no_others(file_names, tmp_path):
    (tmp_path / "kept").mkdir()
    made = []

    def fail() -> None:
        with file_names.new_folders(tmp_path / "kept" / "new" / "er" / "file"):
            made.append((tmp_path / "kept" / "new" / "er").is_dir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert made == [True]
    assert list(tmp_path.rglob("*")) == [tmp_path / "kept"]


def test_a_folder_that_cannot_be_made_is_an_input_error(file_names, input_error, tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(input_error, match="cannot write"),
        file_names.new_folders(tmp_path / "file" / "sub" / "name"),
    ):
        pass
