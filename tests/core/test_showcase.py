"""`benchmarks.showcase`: how pictures are laid out and made to fit; that its graphs and cards name what is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.showcase import comfyui
from benchmarks.showcase.__main__ import main
from benchmarks.showcase.cards import CARDS, Output, without_language_model
from benchmarks.showcase.composing import (
    CAPTION_SIZE,
    CARD,
    SHOWN_WIDTH,
    Captioned,
    Section,
    card_of_best,
    card_of_one,
    card_of_pair,
    card_of_steps,
    card_of_thought,
    card_of_turns,
    enlarged,
    fitted,
    font,
    sheet,
    wrapped,
)
from benchmarks.showcase.graphs import given_pictures, graphs
from benchmarks.showcase.judging import request_of
from lumina_core.errors import InputError

ROOT = Path(__file__).parents[2]
SCHEMAS = json.loads((ROOT / "tests" / "nodes" / "schemas.json").read_text(encoding="utf-8"))
COLOURS = [(10 + 30 * number, 200 - 20 * number, 25 * number) for number in range(8)]


def flat(*colours: tuple[int, int, int], side: int = 96) -> list[Image.Image]:
    return [Image.new("RGB", (side, side), colour) for colour in colours]


def noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))


def count(page: Image.Image, colour: tuple[int, int, int]) -> int:
    """How many pixels have a colour."""
    return int((np.asarray(page) == colour).all(-1).sum())


# Composing


def test_a_whole_factor_keeps_every_pixel() -> None:
    picture = noise(96)
    assert np.array_equal(np.asarray(enlarged(picture, 288))[1::3, 1::3], np.asarray(picture))
    assert enlarged(picture.crop((0, 0, 96, 48)), 200).size == (200, 100)


def test_captions_are_wrapped_within_their_width() -> None:
    caption = "a large lion left of a small cactus on the sand"
    lines = wrapped(caption, SHOWN_WIDTH)
    assert " ".join(lines) == caption and 1 < len(lines) <= 3
    assert max(font(CAPTION_SIZE).getlength(line) for line in lines) <= SHOWN_WIDTH
    assert wrapped("a cat", SHOWN_WIDTH) == ["a cat"] and wrapped("unbreakable", 1) == ["unbreakable"]


def test_the_sheet_shows_every_picture_enlarged() -> None:
    shown = [Captioned(picture, "a caption") for picture in flat(*COLOURS[:6])]
    page = sheet([[Section("One", tuple(shown[:4])), Section("Two", tuple(shown[4:]), arrows=True)]])
    assert page.width > 6 * SHOWN_WIDTH
    assert [count(page, colour) for colour in COLOURS[:6]] == [SHOWN_WIDTH**2] * 6


@pytest.mark.parametrize(
    ("layout", "pictures"),
    [
        (card_of_one, 1),
        (card_of_thought, 1),
        (card_of_pair, 2),
        (card_of_steps, 2),
        (card_of_steps, 4),
        (card_of_turns, 4),
    ],
)
def test_a_card_is_square_and_shows_its_pictures_alike(layout, pictures) -> None:
    card = layout(flat(*COLOURS[:pictures], side=384))
    shown = [count(card, colour) for colour in COLOURS[:pictures]]
    assert card.size == (CARD, CARD) and min(shown) > CARD**2 / 8
    if layout is not card_of_thought:
        assert len(set(shown)) == 1


def test_the_card_of_candidates_shows_the_chosen_one_once_and_large() -> None:
    (chosen,) = flat(COLOURS[3], side=384)
    card = card_of_best([chosen, *flat(*COLOURS)])
    large, *others = sorted((count(card, colour) for colour in COLOURS), reverse=True)
    assert large == count(card, COLOURS[3]) and len(set(others)) == 1 and large > 6 * others[0] > 0


def test_files_fit_each_and_all_together() -> None:
    pictures = {"noise": noise(200), **dict(zip("ab", flat((1, 2, 3), (4, 5, 6)), strict=True))}
    free = fitted(pictures, "WEBP", 10**6, 10**6)
    each = fitted(pictures, "WEBP", len(free["noise"]) // 2, 10**6)
    assert len(each["noise"]) <= len(free["noise"]) // 2 and each["a"] == free["a"]
    assert sum(map(len, fitted(pictures, "JPEG", 10**6, 20_000).values())) <= 20_000
    for limits in ((100, 10**6), (10**6, 100)):
        with pytest.raises(InputError, match="least quality"):
            fitted(pictures, "JPEG", *limits)


# What it names


def test_every_example_has_a_card_of_what_its_nodes_show() -> None:
    examples = {path.stem: json.loads(path.read_text("utf-8")) for path in (ROOT / "example_workflows").glob("*.json")}
    assert examples.keys() == CARDS.keys()
    for name, card in CARDS.items():
        nodes = examples[name]["nodes"]
        titles, kinds = [node.get("title") for node in nodes], [node["type"] for node in nodes]
        found = [kinds.count(one.kind) if isinstance(one, Output) else titles.count(one) for one in card.shown]
        assert found == [1] * len(found), name


def test_every_help_picture_has_a_graph_of_nodes_that_exist() -> None:
    assert {path.stem for path in (ROOT / "web" / "docs" / "pictures").iterdir()} == graphs().keys()
    for graph in graphs().values():
        for link in graph.links:
            source, output, target, slot = re.fullmatch(r"(\w+)\.(\w+) (\w+)\.(\w+)", link).groups()
            for node, name, side in ((source, output, "outputs"), (target, slot, "inputs")):
                schema = SCHEMAS.get(graph.nodes[node].kind)
                assert schema is None or name in dict(schema[side]), link
        for node in graph.nodes.values():
            widgets = {name for name, _ in SCHEMAS[node.kind]["inputs"]} if node.kind in SCHEMAS else None
            assert widgets is None or node.values.keys() <= widgets | {"control_after_generate"}
            assert node.kind != "LoadImage" or node.values["image"] in given_pictures()


def test_the_request_stands_in_for_the_answer_of_a_language_model() -> None:
    nodes = {
        "ask": {"class_type": "LuminaMGPT2_ThinkingInstruction", "inputs": {"prompt": "a fox"}},
        "clip": {"class_type": "CLIPLoader", "inputs": {}},
        "model": {"class_type": "TextGenerate", "inputs": {"clip": ["clip", 0], "prompt": ["ask", 0]}},
        "read": {"class_type": "LuminaMGPT2_ThinkingAnswer", "inputs": {"answer": ["model", 0], "prompt": ["ask", 1]}},
    }
    without_language_model(nodes)
    assert "clip" not in nodes and nodes["model"]["inputs"] == {"value": "<caption>a fox</caption>"}
    assert request_of(nodes, ["read", 0]) == "a fox"


# The command


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--only", "cards", "help"], "no-such-package"), (["--only", "readme", "--names", "sampler"], "sampler")],
)
def test_what_is_missing_is_told_before_anything_is_drawn(tmp_path, monkeypatch, capsys, arguments, told) -> None:
    monkeypatch.setattr(comfyui, "PACKAGES", {"no_such_module": "no-such-package"})
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err and not list(tmp_path.iterdir())
