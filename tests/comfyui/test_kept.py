"""A run that is cancelled keeps its rows, and Continue Picture draws the rest."""

from __future__ import annotations

import json
import shutil

import pytest
from workflows import DECODE, MODEL, MOVQGAN, PROMPT, SAMPLER, SAVE, node, text_to_image

CONTINUE, SPLIT = "20", "21"
CANCEL_AT = (4, 8, 16)


@pytest.fixture
def kept(server):
    """The folder of kept pictures, empty before and after."""
    folder = server.base / "output" / "lumina_mgpt2"
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def continuing(name: str, **changes) -> dict:
    workflow = text_to_image(**changes)
    workflow[CONTINUE] = node("LuminaMGPT2_ContinuePicture", vae=[MOVQGAN, 0], kept=name, model=[MODEL, 0])
    for owner in (PROMPT, SAMPLER):
        workflow[owner]["inputs"]["canvas"] = [CONTINUE, 0]
    return workflow


def cancelled(server, folder, **changes) -> str:
    """The name of what is kept of a run that is cancelled in the middle.

    The fourth progress message is there on the fastest machine; on a slow one it may precede the first whole row.
    """
    for cancel_at in CANCEL_AT:
        run = server.run(text_to_image(decoder="ar", **changes), cancel_at=cancel_at)
        if run.interrupted and folder.exists():
            (path,) = folder.iterdir()
            assert run.interrupted_at == SAMPLER and run.error is None
            return path.name
    raise AssertionError("no run was cancelled in the middle")


def offered(server) -> list[str]:
    info = server.get("/object_info/LuminaMGPT2_ContinuePicture")["LuminaMGPT2_ContinuePicture"]
    return info["input"]["optional"]["kept"][1]["options"]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_cancelled_picture_is_continued_as_if_it_had_not_been(server, kept, batch_size):
    whole = server.run(text_to_image(seed=40, batch_size=batch_size))
    assert whole.succeeded, whole.error
    name = cancelled(server, kept, seed=40, batch_size=batch_size)
    lists = json.loads((kept / name).read_text())["tokens"]
    assert len(lists) == batch_size and all(3 + 13 <= len(tokens) < 3 + 12 * 13 + 1 for tokens in lists)
    assert offered(server) == ["none", name]
    continued = server.run(continuing(name, seed=40))
    assert continued.succeeded, continued.error
    assert SAMPLER in continued.executed
    first, second = ([picture.tobytes() for picture in server.pictures(run, SAVE)] for run in (whole, continued))
    assert first == second and len(first) == batch_size


def test_split_panels_after_a_continued_picture_leaves_it_whole(server, kept):
    """The rows of a picture look different when they are decoded without those below."""
    whole = server.run(text_to_image(seed=77))
    workflow = continuing(cancelled(server, kept, seed=77), seed=77)
    workflow[SPLIT] = node("LuminaMGPT2_SplitPanels", image=[DECODE, 0], canvas=[CONTINUE, 0])
    workflow[SAVE]["inputs"]["images"] = [SPLIT, 2]
    continued = server.run(workflow)
    assert continued.succeeded, continued.error
    first, second = (server.pictures(run, SAVE)[0].tobytes() for run in (whole, continued))
    assert first == second


def test_the_log_says_what_is_kept_and_where(server, kept):
    name = cancelled(server, kept, seed=41)
    lines = [line for line in server.log.splitlines() if str(kept / name) in line]
    assert len(lines) == 1 and "of 12 rows are drawn and kept in" in lines[0] and "Continue Picture" in lines[0]


def test_a_continued_run_that_is_cancelled_keeps_the_given_rows_too(server, kept):
    name = cancelled(server, kept, seed=42)
    (tokens,) = json.loads((kept / name).read_text())["tokens"]
    shutil.rmtree(kept)
    for cancel_at in CANCEL_AT:
        kept.mkdir(exist_ok=True)
        (kept / "one row.json").write_text(json.dumps({"tokens": [tokens[: 3 + 13]]}))
        server.run(continuing("one row.json", seed=42, decoder="ar"), cancel_at=cancel_at)
        names = [path.name for path in kept.iterdir() if path.name != "one row.json"]
        if names:
            break
    (again,) = json.loads((kept / names[0]).read_text())["tokens"]
    assert again[: 3 + 13] == tokens[: 3 + 13] and len(again) >= 3 + 2 * 13
    whole, continued = (server.run(one) for one in (text_to_image(seed=42), continuing(names[0], seed=42)))
    assert server.pictures(whole, SAVE)[0].tobytes() == server.pictures(continued, SAVE)[0].tobytes()


@pytest.mark.parametrize("name", ["gone.tokens.json", "../../models/x.json", "/etc/passwd", ""])
def test_a_kept_file_that_is_not_there_is_refused_when_the_workflow_is_queued(server, kept, name):
    (error,) = server.queue(continuing(name))["node_errors"][CONTINUE]["errors"]
    assert f"the kept picture {name!r} is not in {kept}" in error["details"]


def test_a_damaged_kept_file_is_a_clear_error(server, kept):
    kept.mkdir()
    (kept / "broken.json").write_text('{"tokens": [[1, 2, 3]]}')
    run = server.run(continuing("broken.json"))
    assert run.error["node_id"] == CONTINUE and "the start of a picture" in run.error["exception_message"]


def test_without_its_model_a_kept_file_asks_for_it(server, kept):
    kept.mkdir()
    (kept / "some.json").write_text('{"tokens": [[1, 2, 3]]}')
    workflow = continuing("some.json")
    del workflow[CONTINUE]["inputs"]["model"]
    run = server.run(workflow)
    assert run.error["node_id"] == CONTINUE and "connect it to input model" in run.error["exception_message"]


@pytest.mark.parametrize(("missing", "hint"), [("vae", "or Load MoVQGAN"), ("kept", "connect one to image")])
def test_what_is_not_connected_is_asked_for(server, missing, hint):
    workflow = continuing("none")
    workflow[CONTINUE]["inputs"].pop(missing)
    run = server.run(workflow)
    assert run.error["node_id"] == CONTINUE and hint in run.error["exception_message"]
