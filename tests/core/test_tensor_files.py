"""Tensors come out of files as they went in; a file that is damaged, foreign or holds code is refused by its name."""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from lumina_core.checkpoint.diagnosis import check_tensors
from lumina_core.checkpoint.tensor_files import read_pickle
from lumina_core.checkpoint.tensors import TensorStore
from lumina_core.errors import CheckpointError
from lumina_core.files.json_text import read_json

TENSORS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2, dtype=torch.float16)}
PICKLE_FORMS = ["zip", "legacy"]


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, (str(self.folder),)


def pickled(content: object, form: str) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=form == "zip")
    return file.getvalue()


def written(file: Path, data: bytes) -> Path:
    file.write_bytes(data)
    return file


def refusal(action: Callable[[], object]) -> str:
    """The one line that a CheckpointError says."""
    with pytest.raises(CheckpointError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_store_gives_every_tensor_of_every_file(tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.safetensors" for index in range(2)]
    for file, (name, tensor) in zip(files, TENSORS.items(), strict=True):
        save_file({name: tensor}, file)
    store = TensorStore(files)
    assert store.shapes == {"a.weight": (3, 4), "b": (2,)}
    assert_same({name: store.get(name) for name in store.shapes}, TENSORS)


def test_a_tensor_of_the_store_is_no_copy(tmp_path: Path) -> None:
    store = TensorStore([written(tmp_path / "x.safetensors", save(TENSORS))])
    first, second = store.get("a.weight"), store.get("a.weight")
    assert first is not second and first.data_ptr() == second.data_ptr()


def test_name_in_two_files(tmp_path: Path) -> None:
    files = [written(tmp_path / f"{index}.safetensors", save({"b": torch.ones(1)})) for index in range(2)]
    message = refusal(lambda: TensorStore(files))
    assert "`b`" in message and all(str(file) in message for file in files)


def test_metadata_is_read(tmp_path: Path) -> None:
    for metadata in ({"format": "pt", "own": "{}"}, {}):
        file = written(tmp_path / "x.safetensors", save(TENSORS, metadata or None))
        assert TensorStore([file]).metadata == metadata


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"<!doctype html><title>404</title>", id="web page"),
        pytest.param(lambda data: data + b"0", id="too long"),
        pytest.param(lambda data: data.replace(b"F32", b"Q99"), id="unknown dtype"),
        pytest.param(lambda data: data.replace(b"[3,4]", b"[4,4]"), id="shape that does not fit"),
        pytest.param(lambda data: b"\xff" * 8 + data[8:], id="endless header"),
    ],
)
def test_damaged_safetensors_file(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = written(tmp_path / "x.safetensors", damage(save(TENSORS)))
    message = refusal(lambda: TensorStore([file]))
    assert str(file) in message and "download it again" in message


def test_safetensors_file_cut_anywhere(tmp_path: Path) -> None:
    data = save(TENSORS)
    for length in range(len(data)):
        file = written(tmp_path / f"{length}.safetensors", data[:length])
        assert str(file) in refusal(lambda file=file: TensorStore([file]))


@pytest.mark.parametrize("name", ["absent.safetensors", "."])
def test_path_that_is_no_file(tmp_path: Path, name: str) -> None:
    expected = "is a folder" if name == "." else "is missing"
    assert f"{tmp_path / name} {expected}" in refusal(lambda: TensorStore([tmp_path / name]))


@pytest.mark.parametrize("form", PICKLE_FORMS)
@pytest.mark.parametrize("wrap", [lambda tensors: tensors, lambda tensors: {"state_dict": tensors, "epoch": 3}])
def test_pickle_gives_its_tensors_and_nothing_else(tmp_path: Path, form: str, wrap: Callable) -> None:
    content = wrap({**TENSORS, "step": 7, "nested": {"c": torch.ones(1)}, 5: torch.ones(1)})
    assert_same(read_pickle(written(tmp_path / "x.ckpt", pickled(content, form))), TENSORS)


@pytest.mark.parametrize("form", PICKLE_FORMS)
def test_code_in_a_pickle_never_runs(tmp_path: Path, form: str) -> None:
    trace = tmp_path / "trace"
    file = written(tmp_path / "x.ckpt", pickled({**TENSORS, "payload": Payload(trace)}, form))
    torch.load(file, weights_only=False)
    trace.rmdir()  # the payload is armed
    message = refusal(lambda: read_pickle(file))
    assert not trace.exists()
    assert str(file) in message and "it holds" in message and "code, which is never run" in message


def test_code_in_a_bare_pickle_never_runs(tmp_path: Path) -> None:
    file = written(tmp_path / "x.ckpt", pickle.dumps(Payload(tmp_path / "trace"), 2))
    assert str(file) in refusal(lambda: read_pickle(file))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("form", PICKLE_FORMS)
def test_pickle_cut_anywhere(tmp_path: Path, form: str) -> None:
    data = pickled(TENSORS, form)
    for length in range(0, len(data) - 1, 3):
        file = written(tmp_path / f"{length}.ckpt", data[:length])
        assert str(file) in refusal(lambda file=file: read_pickle(file))


@pytest.mark.parametrize("content", [[torch.ones(1)], torch.ones(1), 5, None])
def test_pickle_of_no_dict(tmp_path: Path, content: object) -> None:
    file = written(tmp_path / "x.ckpt", pickled(content, "zip"))
    message = refusal(lambda: read_pickle(file))
    assert f"{file} contains a {type(content).__name__}; expected a dict" in message


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"5"])
def test_json_that_is_no_object(tmp_path: Path, content: bytes) -> None:
    file = written(tmp_path / "x.json", content)
    assert str(file) in refusal(lambda: read_json(file))


def test_absent_json(tmp_path: Path) -> None:
    assert f"{tmp_path / 'x.json'} is missing" in refusal(lambda: read_json(tmp_path / "x.json"))


def test_one_error_names_all_that_is_wrong() -> None:
    found, expected = {"a": (1,), "b": (2, 3)}, {"b": (3, 2), "c": (4,)}
    message = refusal(lambda: check_tensors(found, expected, "some/folder"))
    assert message.startswith("some/folder")
    for problem in ("missing `c`", "unexpected `a`", "`b` has shape [2, 3], expected [3, 2]"):
        assert problem in message


def test_many_problems_are_counted_not_listed() -> None:
    message = refusal(lambda: check_tensors({}, {f"t{index}": (1,) for index in range(9)}, "x"))
    assert re.findall(r"`t\d`", message) == [f"`t{index}`" for index in range(5)] and "4 more" in message


def test_what_fits_is_accepted() -> None:
    check_tensors({"b": (2,), "a": (1,)}, {"a": (1,), "b": (2,)}, "x")
