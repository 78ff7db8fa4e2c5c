"""Pictures of the demo in ComfyUI, checked by the judge of the demo's training data."""

from __future__ import annotations

import sys

import numpy as np
from comfy_server import PACK
from workflows import SAVE, text_to_image

BATCH, RIGHT = 8, 6


def pictures_of(server, **changes) -> list[np.ndarray]:
    run = server.run(text_to_image(**changes))
    assert run.succeeded, run.error
    return [np.asarray(picture) for picture in server.pictures(run, SAVE)]


def test_pictures_match_the_prompt(server, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(PACK)])
    from training.world import Claim, Spec, judge, recognise

    spec = Spec("position", (Claim(1, "circle", "red"), Claim(1, "square", "blue")), "left of")
    drawn = pictures_of(server, prompt="a red circle left of a blue square", batch_size=BATCH, seed=100)
    assert len(drawn) == BATCH
    assert sum(judge(spec, recognise(picture)) for picture in drawn) >= RIGHT


def test_speed_settings_never_change_the_picture(server):
    first = pictures_of(server, seed=11, decoder="ar")
    for window in (1, 7, 71):
        assert np.array_equal(first, pictures_of(server, seed=11, decoder="gumbel", window=window))


def test_a_picture_of_a_batch_is_the_picture_of_its_own_seed(server):
    for decoder in ("gumbel", "sjd", "coupled"):
        batch = pictures_of(server, seed=20, batch_size=3, decoder=decoder)
        assert np.array_equal(batch[2], pictures_of(server, seed=22, decoder=decoder)[0])
