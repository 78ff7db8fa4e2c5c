"""What is drawn of a picture is kept, shown and continued, and the picture is that of a run without a break."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeSettings, StepReport
from lumina_core.errors import InputError
from lumina_core.pictures.sizes import picture_length
from lumina_core.pipeline import Lumina
from lumina_core.tokens.token_files import (
    is_token_file,
    keep_tokens,
    lists_of,
    read_token_lists,
    rows_to_continue,
    token_values,
)
from lumina_core.tokens.vocabulary import Vocabulary

from .cli_runs import CommandLine

GRID_H, GRID_W = 8, 4
SIZE = ("--width", 32, "--height", 64)
VOCABULARY = Vocabulary(
    image_start=1,
    image_end=2,
    end_of_row=3,
    end_of_turn=4,
    grid_units=(5, 6, 7, 8),
    image_token_offset=100,
    codebook_size=64,
)


def picture(rows: int = GRID_H) -> list[int]:
    """The tokens of a picture, of its first rows only."""
    codes = torch.arange(GRID_H * GRID_W).view(GRID_H, GRID_W)
    return VOCABULARY.picture_tokens(codes)[: 3 + rows * (GRID_W + 1)]


# Lists of tokens


def test_a_begun_picture_has_the_rows_that_are_complete() -> None:
    whole = VOCABULARY.picture_tokens(torch.arange(GRID_H * GRID_W).view(GRID_H, GRID_W))
    for length in range(3, len(whole) + 1):
        begun = VOCABULARY.parse_begun(whole[:length])
        rows = min((length - 3 + 1) // (GRID_W + 1), GRID_H)  # the end of the last row may be missing
        assert (begun.grid_h, begun.grid_w, tuple(begun.codes.shape)) == (GRID_H, GRID_W, (rows, GRID_W))
        assert begun.codes.flatten().tolist() == list(range(rows * GRID_W))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (picture()[:2], "has 2 tokens; expected at least its header"),
        ([*picture(), 2, 2], f"came with {picture_length(8, 4) + 1} tokens; expected at most {picture_length(8, 4)}"),
        ([*picture(), 3], "is 3; expected 2, the end of the picture"),
        ([*picture(2), 100, 99], "token 14 of the picture is 99; expected an image code"),
        ([*picture(2), 100.0], "token 13 of the picture is 100.0; expected an image code"),
        ([True, *picture()[1:]], "token 0 of the picture is True; expected 1"),
        ([*picture(1)[:-1], 100], "token 7 of the picture is 100; expected 3, the end of row 0"),
    ],
)
def test_begun_pictures_that_are_none(tokens: list[int], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        VOCABULARY.parse_begun(tokens)


def test_rows_to_continue_are_those_that_every_picture_has() -> None:
    begun = rows_to_continue([picture(3), picture(2), [*picture(2), 100]], VOCABULARY, "kept.json")
    assert tuple(begun.codes.shape) == (3, 2, GRID_W)
    with pytest.raises(InputError, match="holds no complete row"):
        rows_to_continue([picture(3), picture(0)], VOCABULARY, "kept.json")
    with pytest.raises(InputError, match="different sizes"):
        rows_to_continue([picture(3), VOCABULARY.picture_tokens(torch.zeros(4, 4).long())], VOCABULARY, "kept.json")


@pytest.fixture(scope="module")
def demo() -> Lumina:
    return Lumina.load("demo", weights="fp32", device="cpu")


def test_lists_grow_with_the_reports_to_the_whole_pictures(demo: Lumina) -> None:
    given = torch.randint(0, 16, (2, 3, GRID_W), generator=torch.Generator().manual_seed(0))
    settings = DecodeSettings(window_size=4, cfg_scale=2.0)
    request = Request([[1, 2, 3], [1, 2]], GRID_H, GRID_W, given, settings)
    reports: list[StepReport] = []
    codes = demo.sample(request, reports.append).codes
    whole = [demo.vocabulary.picture_tokens(one) for one in codes]
    assert len(reports) > 4
    for report in reports:
        lists = lists_of(report, demo.vocabulary)
        assert lists == [tokens[: len(begun)] for tokens, begun in zip(whole, lists, strict=True)]
        begun = [demo.vocabulary.parse_begun(tokens) for tokens in lists]
        assert min(len(one.codes) for one in begun) == report.rows >= 3
    assert lists_of(reports[-1], demo.vocabulary) == whole


# Files


def test_kept_tokens_overwrite_nothing_and_are_read_again(tmp_path: Path) -> None:
    lists = [picture(2), picture(3)]
    places = [keep_tokens(lists, tmp_path / "a.png") for _ in range(3)]
    assert [place.name for place in places] == ["a.tokens.json", "a.tokens_1.json", "a.tokens_2.json"]
    assert all(read_token_lists(place) == lists for place in places)
    assert keep_tokens(lists, tmp_path / "a.png", tmp_path / "t.json") == tmp_path / "t.json"
    assert keep_tokens(lists, tmp_path / "a.png", tmp_path / "t.json").name == "a.tokens_3.json"
    assert keep_tokens(lists, tmp_path / ("ä" * 120 + ".png")).parent == tmp_path


@pytest.mark.parametrize("content", [b'\xef\xbb\xbf{"tokens": [[1, 2]]}', b' {"tokens":[[1,2]]}'])
def test_a_file_of_tokens_is_known_by_its_name_or_its_bytes(tmp_path: Path, content: bytes) -> None:
    for name in ("kept.json", "kept", "kept.png"):
        (tmp_path / name).write_bytes(content)
        assert is_token_file(tmp_path / name)
        assert read_token_lists(tmp_path / name) == [[1, 2]]


def test_other_files_are_no_tokens(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert not is_token_file(tmp_path / "a.png") and not is_token_file(tmp_path / "absent.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in the file system here")
def test_a_pipe_is_never_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tokens.json")
    with pytest.raises(InputError, match="a pipe or a device"):
        read_token_lists(tmp_path / "tokens.json")


# The command line


def save_begun(lumina: CommandLine, lengths: list[int], name: str = "whole") -> Path:
    """The tokens of `name`, each picture cut off after as many."""
    path = lumina.path("begun.json")
    lists = [tokens[:length] for tokens, length in zip(lumina.tokens(name), lengths, strict=True)]
    path.write_text(json.dumps(token_values(lists)))
    return path


@pytest.mark.parametrize("length", [7, 8, 9, 24, 40])
def test_a_continued_picture_is_the_one_without_a_break(lumina: CommandLine, length: int) -> None:
    options = (*SIZE, "--seed", 5, "--no-metadata")
    lumina.generate(*options, name="whole").succeeded()
    begun = save_begun(lumina, [length])
    lumina.generate(*options, "--condition", begun, name="continued").succeeded()
    assert lumina.tokens("continued") == lumina.tokens("whole")
    assert lumina.stats("continued")["sampled_tokens"] < lumina.stats("whole")["sampled_tokens"]
    assert lumina.path("continued.png").read_bytes() == lumina.path("whole.png").read_bytes()


def test_a_continued_batch_is_the_one_without_a_break(lumina: CommandLine) -> None:
    lumina.generate(*SIZE, "--batch", 3, name="whole").succeeded()
    begun = save_begun(lumina, [30, 14, 21])
    for batch in ("--batch", 3), ():
        lumina.generate(*SIZE, *batch, "--condition", begun, name="continued").succeeded()
        assert lumina.tokens("continued") == lumina.tokens("whole")
        assert lumina.path("continued_2.png").exists()
    refused = "holds 3 pictures and the batch is 2"
    lumina.refuses_to_generate(*SIZE, "--batch", 2, "--condition", begun, expected=refused)


def test_whole_pictures_that_are_drawn_again_are_said(lumina: CommandLine) -> None:
    lumina.generate(*SIZE, "--batch", 2, name="whole").succeeded()
    begun = save_begun(lumina, [10**6, 14])
    continued = lumina.generate(*SIZE, "--condition", begun, name="continued")
    assert continued.code == 0 and "holds whole pictures too" in continued.err and "after row 2" in continued.err


def test_one_begun_picture_is_continued_in_several_ways(lumina: CommandLine) -> None:
    lumina.generate(*SIZE, name="whole").succeeded()
    begun = save_begun(lumina, [14])
    lumina.generate(*SIZE, "--batch", 2, "--condition", begun, name="several").succeeded()
    first, second = lumina.tokens("several")
    assert first == lumina.tokens("whole")[0] and second[:13] == first[:13] and second != first


def test_a_lower_given_height_keeps_fewer_rows(lumina: CommandLine) -> None:
    lumina.generate(*SIZE, name="whole").succeeded()
    begun = save_begun(lumina, [30])
    options = (*SIZE, "--condition", begun)
    lumina.generate(*options, "--given-height", 16, name="continued").succeeded()
    assert lumina.tokens("continued") == lumina.tokens("whole")
    assert lumina.stats("continued")["sampled_tokens"] == 6 * 4
    too_high = f"the given height is 48 and {begun} holds 5 complete rows; expected at most 40"
    lumina.refuses_to_generate(*options, "--given-height", 48, expected=too_high)


def test_a_panel_is_continued_with_what_is_above_it(lumina: CommandLine, noise: Path) -> None:
    task = (*SIZE, "--task", "control", "--map", "depth")
    lumina.generate(*task, "--condition", noise, name="whole").succeeded()
    begun = save_begun(lumina, [3 + 6 * 5])
    lumina.generate(*task, "--condition", begun, name="continued").succeeded()
    assert lumina.tokens("continued") == lumina.tokens("whole")


def test_begun_pictures_that_do_not_fit(lumina: CommandLine) -> None:
    lumina.generate(*SIZE, name="whole").succeeded()
    begun = save_begun(lumina, [20])
    lumina.refuses_to_generate("--condition", begun, expected="is 32x64 and the canvas 32x32; expected 32x64")
    begun = save_begun(lumina, [5])
    lumina.refuses_to_generate(*SIZE, "--condition", begun, expected="holds no complete row")
    decode = ("decode", begun, "--checkpoint", lumina.checkpoint, "--out", lumina.path("d.png"))
    lumina.refuses(*decode, expected="picture 0 has no complete row")
    whole = lumina.path("whole.json")
    lumina.refuses_to_generate(*SIZE, "--condition", whole, expected="at least one row must be left to draw")
    begun.write_text("{")
    lumina.refuses_to_generate(*SIZE, "--condition", begun, expected=f"{begun} is not valid JSON")


def test_decode_shows_the_complete_rows(lumina: CommandLine) -> None:
    lumina.generate(*SIZE, name="whole").succeeded()
    for length, rows in ((8, 1), (24, 4), (3 + 8 * 5, 8)):
        done = lumina.decode(save_begun(lumina, [length]), "decoded.png")
        assert done.code == 0
        unfinished = f"WARNING: Picture 0 was not finished: it is decoded as far as it got, {rows} of 8 rows"
        assert done.err.startswith(unfinished) if rows < 8 else not done.err
        with Image.open(lumina.path("decoded.png")) as shown:
            assert shown.size == (32, 8 * rows)


class _Stop(KeyboardInterrupt):
    """Ctrl-C."""


def test_what_is_drawn_when_the_user_cancels_is_kept_and_continued(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lumina.generate(*SIZE, "--decoder", "ar", name="whole").succeeded()
    sample = Lumina.sample

    def cancelled(self: Lumina, request: Request, on_step: object) -> object:
        def watched(report: StepReport) -> None:
            on_step(report)  # type: ignore[operator]
            if report.accepted[0] >= 9:
                raise _Stop

        return sample(self, request, watched)

    monkeypatch.setattr(Lumina, "sample", cancelled)
    line = lumina.generate(*SIZE, "--decoder", "ar").refusal(130)
    monkeypatch.undo()
    kept = lumina.path("o.tokens.json")
    assert f"cancelled after 2 of 8 rows; their tokens are saved in {kept}" in line
    assert f"--condition {kept} draws the rest" in line
    assert sorted(lumina.files()) == ["o.tokens.json", "whole.json", "whole.png", "whole.stats.json"]
    lumina.generate(*SIZE, "--decoder", "ar", "--condition", kept, name="continued").succeeded()
    assert lumina.tokens("continued") == lumina.tokens("whole")


def test_less_than_a_row_is_not_kept(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Lumina.sample

    def cancelled(self: Lumina, request: Request, on_step: object) -> object:
        short = replace(request, settings=replace(request.settings, decoder="ar"))

        def watched(report: StepReport) -> None:
            on_step(report)  # type: ignore[operator]
            raise _Stop

        return sample(self, short, watched)

    monkeypatch.setattr(Lumina, "sample", cancelled)
    lumina.refuses_to_generate(*SIZE, expected="cancelled; nothing was written", code=130)
