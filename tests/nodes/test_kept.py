"""What is kept of a run that is cancelled or fails."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

GRID = 8
ROW = GRID + 1


class Interrupted(BaseException):
    """As ComfyUI's exception of a cancel."""


@pytest.fixture
def folder(nodes: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of kept pictures, which does not exist yet."""
    monkeypatch.setattr(nodes("nodes.folders"), "kept_folder", lambda: tmp_path / "output" / "kept")
    monkeypatch.setattr(nodes("nodes.comfy_adapter"), "show_text", lambda text: None)
    return tmp_path / "output" / "kept"


@pytest.fixture(scope="module")
def lumina(nodes: Any) -> Any:
    return nodes("lumina_core.pipeline").Lumina.load("demo", dtype=torch.float32, device="cpu")


def request_of(nodes: Any, given_rows: int = 0, pictures: int = 1) -> Any:
    given = torch.zeros(given_rows, GRID, dtype=torch.int64) if given_rows else None
    settings = nodes("lumina_core.decoding.settings").DecodeSettings(seed=7)
    return nodes("lumina_core.decoding.request").Request([[0]] * pictures, GRID, GRID, given, settings)


def fail(nodes: Any, lumina: Any, accepted: tuple[int, ...] | None, error: BaseException, given_rows: int = 0) -> None:
    """A run that raises after a report of so many accepted codes."""
    count = len(accepted or (0,))
    codes = torch.arange(GRID * GRID).view(1, GRID, GRID).repeat(count, 1, 1)
    accepted_or_none = accepted or (0,)
    reached = tuple(given_rows * GRID + one for one in accepted_or_none)
    report = nodes("lumina_core.decoding.settings").StepReport(codes, accepted_or_none, GRID * GRID, 1, reached=reached)
    last = None if accepted is None else report
    request = request_of(nodes, given_rows, count)
    with nodes("nodes.kept").kept_on_failure(request, lumina.vocabulary, lambda: last):
        raise error


@pytest.mark.parametrize("error", [Interrupted(), RuntimeError("CUDA error"), KeyboardInterrupt()])
def test_the_error_passes_through_and_the_rows_are_kept(nodes, lumina, folder, caplog, error):
    with pytest.raises(type(error)) as caught:
        fail(nodes, lumina, (2 * GRID + 3,), error)
    assert caught.value is error
    (path,) = folder.iterdir()
    (tokens,) = json.loads(path.read_text())["tokens"]
    assert len(tokens) == 3 + 2 * ROW + 3
    (line,) = caplog.messages
    assert line.startswith(f"2 of 8 rows are drawn and kept in {path}; Continue Picture")
    assert path.name == "64x64_seed_7.tokens.json"


@pytest.mark.parametrize("accepted", [None, (0,), (GRID - 1,), (3 * GRID, GRID - 1)])
def test_without_a_complete_new_row_of_every_picture_nothing_is_kept(nodes, lumina, folder, caplog, accepted):
    with pytest.raises(Interrupted):
        fail(nodes, lumina, accepted, Interrupted(), given_rows=4)
    assert not folder.exists() and not caplog.messages


@pytest.mark.parametrize(("reached", "is_kept"), [(16, False), (GRID * GRID, True)])
def test_of_a_picture_with_a_mask_only_a_whole_one_is_kept(nodes, lumina, folder, reached, is_kept):
    """Continue Picture would draw the given codes below its rows anew."""
    codes, mask = torch.zeros(1, GRID, GRID, dtype=torch.int64), torch.zeros(1, GRID, GRID, dtype=torch.bool)
    mask[:, :4] = True
    request = replace(request_of(nodes), given_codes=codes, mask=mask)
    report = nodes("lumina_core.decoding.settings").StepReport(codes, (16,), 16, 1, reached=(reached,))
    assert report.rows > request.canvas.given_rows
    with pytest.raises(Interrupted), nodes("nodes.kept").kept_on_failure(request, lumina.vocabulary, lambda: report):
        raise Interrupted
    assert folder.exists() == is_kept


def test_nothing_is_overwritten(nodes, lumina, folder):
    for _ in range(3):
        with pytest.raises(Interrupted):
            fail(nodes, lumina, (GRID,), Interrupted())
    assert len(list(folder.iterdir())) == 3


def test_a_folder_that_cannot_be_written_does_not_hide_the_error(nodes, lumina, folder, caplog):
    folder.parent.write_text("a file, where the folder should be")
    with pytest.raises(Interrupted):
        fail(nodes, lumina, (GRID,), Interrupted())
    assert "could not be kept" in caplog.text


def test_kept_rows_are_read_back_exactly(nodes, lumina, folder):
    with pytest.raises(Interrupted):
        fail(nodes, lumina, (3 * GRID + 5, 2 * GRID), Interrupted())
    (path,) = folder.iterdir()
    begun = nodes("nodes.kept").read_kept(path, lumina.vocabulary)
    assert (begun.grid_h, begun.grid_w) == (GRID, GRID)
    assert torch.equal(begun.codes, torch.arange(2 * GRID).view(1, 2, GRID).repeat(2, 1, 1))


def test_the_last_row_of_a_whole_picture_is_left_to_be_drawn(nodes, lumina, folder):
    nodes("nodes.kept").keep_codes(torch.zeros(1, GRID, GRID, dtype=torch.int64), lumina.vocabulary)
    (path,) = folder.iterdir()
    assert nodes("nodes.kept").read_kept(path, lumina.vocabulary).codes.shape == (1, GRID - 1, GRID)


def test_codes_that_cannot_be_decoded_for_lack_of_memory_are_kept(nodes, lumina, folder, monkeypatch):
    out_of_memory = nodes("lumina_core.errors").OutOfMemory
    vae = nodes("nodes.vae").MoVQGANVae
    monkeypatch.setattr(nodes("nodes.comfy_adapter"), "release_memory", lambda: None)
    monkeypatch.setattr(nodes("nodes.comfy_adapter").management, "unload_all_models", lambda: None, raising=False)

    def decode_one(codes: torch.Tensor) -> torch.Tensor:
        raise out_of_memory("no memory")

    codec = vae.__new__(vae)
    codec.vocabulary, codec.make_room, codec._decode_one = lumina.vocabulary, lambda *_: None, decode_one
    with pytest.raises(out_of_memory, match=r"^no memory$"):
        codec.decode_codes(torch.zeros(2, GRID, GRID, dtype=torch.int64))
    (path,) = folder.iterdir()
    assert len(json.loads(path.read_text())["tokens"]) == 2


def test_links_out_of_the_folder_and_other_files_are_not_listed(nodes, monkeypatch, tmp_path):
    folders = nodes("nodes.folders")
    monkeypatch.setattr(folders.folder_paths, "get_output_directory", lambda: str(tmp_path / "output"), raising=False)
    folder = folders.kept_folder()
    folder.mkdir(parents=True)
    (tmp_path / "secret.json").write_text("{}")
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    (folder / "picture.png").touch()
    (folder / "a.tokens.json").touch()
    assert folders.kept_paths() == {"a.tokens.json": folder / "a.tokens.json"}


def test_a_model_whose_file_changed_after_it_was_loaded_is_not_drawn_with(nodes, tmp_path):
    stamps, path = nodes("nodes.stamps"), tmp_path / "model.safetensors"
    path.write_bytes(b"before")
    files = nodes("lumina_core.files.stamps").FileStamps.of([path])
    model = nodes("nodes.types").ManagedLumina("mine", SimpleNamespace(files=files), None)
    stamps.check_unchanged(model)
    path.write_bytes(b"after it")
    with pytest.raises(nodes("lumina_core.errors").CheckpointError, match=r"after mine was loaded; run again"):
        stamps.check_unchanged(model)
