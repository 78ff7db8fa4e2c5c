"""Masks: rounded to codes, cropped with their picture, and what they keep of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from lumina_core.errors import InputError
from lumina_core.pictures.masks import SEAM, canvas_mask, keep_outside, mask_of_codes, pixels_of_mask
from lumina_core.pipeline import Lumina
from lumina_core.tokens.task_inputs import check_condition, is_whole

from .cli_runs import CommandLine, read_pixels, save_noise


def box(size: tuple[int, int], *corners: int) -> Image.Image:
    """A black picture, white from the first corner to before the second."""
    image = Image.new("L", size)
    left, top, right, bottom = corners
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=255)
    return image


def rows(mask: torch.Tensor) -> list[str]:
    return ["".join(".#"[int(code)] for code in row) for row in mask[0]]


def test_every_code_that_a_mask_touches_is_drawn() -> None:
    mask = torch.zeros(1, 32, 24)
    mask[0, 7, 8], mask[0, 16, 16:] = 0.5, 1
    mask[0, 31, 0] = 0.49
    assert rows(mask_of_codes(mask, 4, 3)) == [".#.", "...", "..#", "..."]


def test_a_mask_of_another_size_is_scaled_and_said(caplog: pytest.LogCaptureFixture) -> None:
    mask = torch.zeros(1, 64, 64)
    mask[0, :16, 32:] = 1
    assert rows(mask_of_codes(mask, 4, 4)) == ["..##", "....", "....", "...."]
    assert caplog.messages == ["The mask is 64x64 and the canvas 32x32: it is scaled."]
    caplog.clear()
    assert rows(canvas_mask(box((20, 10), 0, 0, 10, 10), (40, 20), 64, 32)) == ["####...."] * 4
    assert caplog.messages == ["The mask is 20x10 and its picture 40x20: it is scaled."]


def test_masks_of_the_canvas_or_of_its_codes_are_not_scaled(caplog: pytest.LogCaptureFixture) -> None:
    of_codes = torch.zeros(1, 4, 4)
    of_codes[0, 1, 2] = 1
    assert torch.equal(mask_of_codes(of_codes, 4, 4), mask_of_codes(pixels_of_mask(of_codes), 4, 4))
    assert not caplog.messages


def test_a_mask_is_cropped_as_its_picture() -> None:
    """A picture twice as wide as the canvas loses a half at its sides."""
    assert rows(canvas_mask(box((128, 64), 40, 0, 48, 8), (128, 64), 64, 64))[:2] == [".#......", "........"]


def test_a_mask_of_a_panel_is_that_of_the_lower_one() -> None:
    mask = canvas_mask(box((32, 32), 0, 0, 8, 8), (32, 32), 32, 64, whole=False)
    assert rows(mask) == [*["...."] * 4, "#...", *["...."] * 3]


def test_a_full_mask_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert mask_of_codes(torch.ones(1, 32, 32), 4, 4).all()
    assert caplog.messages == ["The mask covers the whole picture: nothing of it is kept."]


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (torch.zeros(1, 32, 32), "the mask is empty"),
        (torch.stack((torch.ones(32, 32), torch.zeros(32, 32))), "the mask is empty"),
        (torch.full((1, 32, 32), 255.0), "values from 255 to 255; expected 0"),
        (torch.full((1, 32, 32), float("nan")), "values from nan"),
        (torch.zeros(0, 32, 32), "the mask is empty"),
    ],
)
def test_bad_masks_are_refused(mask: torch.Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says):
        mask_of_codes(mask, 4, 4)


def test_own_pixels_are_kept_bit_for_bit_outside() -> None:
    own, drawn = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = torch.zeros(2, 8, 8).bool()
    codes[:, 2:5, 3:7] = True
    kept, inside = keep_outside(drawn, own, codes), pixels_of_mask(codes)[:, None].expand(-1, 3, -1, -1)
    assert torch.equal(kept[~inside], own[~inside]) and not torch.equal(kept[inside], own[inside])


def test_a_shift_of_the_codec_leaves_no_seam_and_fades_out_inside() -> None:
    own = torch.zeros(1, 1, 96, 128)
    codes = torch.zeros(1, 12, 16).bool()
    codes[:, :, 8:] = True
    kept = keep_outside(own + 0.2, own, codes)[0, 0, 40]
    steps = kept.diff().abs()
    assert kept[63] == 0 and float(steps.max()) < 0.2 / SEAM * 1.5
    assert float(kept[64 + SEAM]) == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize(
    ("task", "given", "continued", "says"),
    [
        ("t2i", False, False, "a mask came without a picture"),
        ("t2i", True, True, "a mask came with a given height"),
        ("control", True, False, "the task control takes no mask"),
        ("predict", True, False, "the task predict takes no mask"),
    ],
)
def test_masks_that_a_task_does_not_take(task: str, given: bool, continued: bool, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_condition(task, given, continued, True)


def test_a_condition_is_the_whole_canvas_with_a_mask_unless_it_is_a_panel() -> None:
    check_condition("pair", True, False, True)
    assert is_whole("t2i", True) and is_whole("pair", True)
    assert not is_whole("edit", True) and not is_whole("t2i", False)


# Whole runs


SIZE = (96, 96)


@pytest.fixture(scope="module")
def demo() -> Lumina:
    return Lumina.load("demo", weights="fp32", device="cpu")


@pytest.fixture(scope="module")
def scene(demo: Lumina) -> Image.Image:
    return demo.draw("a blue circle and a red square on a white background", *SIZE, seed=3).images[0]


def test_python_keeps_the_picture_around_the_best_of_the_candidates(demo: Lumina, scene: Image.Image) -> None:
    prompt, mask = "a green star on a black background", box(SIZE, 0, 0, 96, 12)
    settings = {"condition": scene, "mask": mask, "seed": 5, "cfg_scale": 1.0}
    best = demo.draw(prompt, *SIZE, candidates=4, **settings)
    nats = best.result.given_log_likelihood
    assert nats is not None and best.index == int(np.argmax(nats)) and 1 <= best.result.effective_sample_size <= 4
    found, own = np.asarray(best.images[0]), np.asarray(scene)
    assert len(best.images) == len(best.codes) == 1
    assert (found[16:] == own[16:]).all() and (found[:16] != own[:16]).any()
    alone = demo.draw(prompt, *SIZE, **{**settings, "seed": 5 + best.index})
    assert torch.equal(alone.codes, best.codes) and alone.result.given_log_likelihood is None


def test_candidates_without_anything_after_them_are_told(
    demo: Lumina, scene: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    below = box(SIZE, 0, 80, 96, 96)
    best = demo.draw("a blue circle", *SIZE, condition=scene, mask=below, candidates=2)
    assert best.index == 0 and len(best.images) == 1
    assert "Nothing is given after what is drawn" in caplog.messages[-1]


def test_a_masked_edit_keeps_the_lower_panel_around_the_mask(demo: Lumina, scene: Image.Image) -> None:
    mask = box(SIZE, 0, 0, 24, 24)
    image = demo.draw("make it green", 96, 192, task="edit", condition=scene, mask=mask, seed=1).images[0]
    panels, own = np.asarray(image).reshape(2, 96, 96, 3), np.asarray(scene)
    outside = np.ones(SIZE, bool)
    outside[:24, :24] = False
    assert (panels[0] == own).all() and (panels[1][outside] == own[outside]).all()


def test_the_command_line_draws_candidates_and_says_which(lumina: CommandLine) -> None:
    given, marked = save_noise(lumina.path("given.png"), (32, 32)), lumina.path("mask.png")
    box((32, 32), 8, 8, 24, 16).save(marked)
    options = ("--condition", given, "--mask", marked, "--cfg", 1)
    lumina.generate(*options, "--seed", 7, "--candidates", 3)
    stats = lumina.stats()
    with Image.open(lumina.path("o.png")) as picture:
        settings = json.loads(picture.text["lumina_mgpt2"])
    chosen = stats["chosen"]
    assert chosen == int(np.argmax(stats["given_log_likelihood"])) and 1 <= stats["effective_sample_size"] <= 3
    assert settings["seed"] == 7 + chosen and settings["mask"] == "mask.png" and settings["steps"] == 2
    best, own = read_pixels(lumina.path("o.png")), read_pixels(given)
    lumina.generate(*options, "--seed", 7 + chosen, name="alone")
    assert (read_pixels(lumina.path("alone.png")) == best).all() and lumina.tokens("alone") == lumina.tokens()
    outside = np.ones((32, 32), bool)
    outside[8:16, 8:24] = False
    assert (best[outside] == own[outside]).all()


def test_a_line_of_a_file_of_prompts_has_its_own_mask(lumina: CommandLine) -> None:
    given = save_noise(lumina.path("given.png"), (32, 32))
    box((32, 32), 0, 0, 8, 32).save(lumina.path("mask.png"))
    line = {"prompt": "a star", "condition": given.name, "mask": "mask.png", "width": 32, "height": 32}
    lumina.path("p.jsonl").write_text(json.dumps(line))
    command = "generate", "--checkpoint", lumina.checkpoint, "--device", "cpu", "--prompts", lumina.path("p.jsonl")
    assert lumina.run(*command, "--out", lumina.path("all")).code == 0
    drawn = read_pixels(lumina.path("all") / "00000.png")
    assert (drawn[:, 8:] == read_pixels(given)[:, 8:]).all()
    lumina.refuses(*command, "--out", lumina.path("all"), "--candidates", 2, expected="it is for --prompt")
    box((32, 32), 0, 0, 16, 32).save(lumina.path("mask.png"))
    lumina.refuses(*command, "--out", lumina.path("all"), expected="its mask_id is")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--candidates", 2), "candidates came without a mask"),
        (("--mask", "white.png"), "a mask came without a picture"),
        (("--mask", "white.png", "--condition", "white.png", "--candidates", 2, "--batch", 2), "a batch of 2 came"),
        (("--mask", "white.png", "--condition", "white.png", "--candidates", 0), "candidates is 0"),
        (("--mask", "white.png", "--condition", "white.png", "--given-height", 8), "a mask came with a given height"),
        (("--mask", "black.png", "--condition", "white.png"), "the mask is empty"),
        (("--mask", "no.png", "--condition", "white.png"), "no.png"),
        (("--mask", "white.png", "--condition", "white.png", "--out", "white.png"), "white.png"),
    ],
)
def test_bad_options_are_one_line(lumina: CommandLine, options: tuple[object, ...], says: str) -> None:
    for name, level in (("white.png", 255), ("black.png", 0)):
        Image.new("L", (32, 32), level).save(lumina.path(name))
    paths = (lumina.path(one) if str(one).endswith(".png") else one for one in options)
    lumina.refuses_to_generate(*paths, expected=says)
