"""The help pages of the nodes, in English and Chinese, and their pictures. No test here needs ComfyUI.

The frontend shows docs/<node id>/<locale>.md, else docs/<node id>.md, and looks for pictures from docs/ in both.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from lumina_core.tokens.prompts import TEMPLATES

PACK = Path(__file__).parents[2]
DOCS = PACK / "web" / "docs"
PICTURES = DOCS / "pictures"
SCHEMAS = json.loads((Path(__file__).parent / "schemas.json").read_text(encoding="utf-8"))
LABELS = json.loads((PACK / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
MOST_PICTURE_BYTES, MOST_BYTES = 36_000, 380_000
WIDTHS = range(700, 1001)
LINK = re.compile(r"\]\(([^)]*)\)")
PICTURE = re.compile(r"!\[([^\]]+)\]\(([^)\s]+)\)")
TEMPLATE_BLOCK = re.compile(r"```text\n(.*?)\n```", re.DOTALL)


@dataclass(frozen=True)
class Language:
    """Where the page of a node is, and the titles of its sections on inputs and outputs."""

    suffix: str
    inputs: str
    outputs: str

    def path(self, node_id: str) -> Path:
        return DOCS / f"{node_id}{self.suffix}"

    def text(self, node_id: str) -> str:
        return self.path(node_id).read_text(encoding="utf-8")


ENGLISH = Language(".md", "Inputs", "Outputs")
CHINESE = Language("/zh.md", "输入", "输出")
LANGUAGES = {"en": ENGLISH, "zh": CHINESE}

each_node = pytest.mark.parametrize("node_id", SCHEMAS)
each_language = pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)


def section(text: str, title: str) -> str:
    """What is below the heading `## title`, up to the next one."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def titles_of(node_id: str) -> dict[Language, str]:
    return {ENGLISH: SCHEMAS[node_id]["display_name"], CHINESE: LABELS[node_id]["display_name"]}


def names_of(node_id: str, language: Language) -> tuple[list[str], list[str]]:
    """The inputs and the outputs of a node, as the frontend shows them."""
    inputs, outputs = ([name for name, _ in SCHEMAS[node_id][kind]] for kind in ("inputs", "outputs"))
    if language == ENGLISH:
        return inputs, outputs
    labels = LABELS[node_id]
    named = [labels["outputs"].get(str(index), {}).get("name", name) for index, name in enumerate(outputs)]
    return [labels["inputs"].get(name, {}).get("name", name) for name in inputs], named


def pages() -> list[Path]:
    return sorted(DOCS.rglob("*.md"))


def test_every_node_has_a_page_in_each_language_and_nothing_else_has():
    assert set(pages()) == {language.path(node_id) for node_id in SCHEMAS for language in LANGUAGES.values()}


@each_language
@each_node
def test_page_begins_with_its_title_and_a_picture(node_id, language):
    title, picture = language.text(node_id).split("\n\n")[:2]
    assert title == f"# {titles_of(node_id)[language]}"
    shown = PICTURE.fullmatch(picture)
    assert shown and (DOCS / shown[2]).is_file(), picture


@each_language
@each_node
def test_page_names_every_input_and_output(node_id, language):
    text, (inputs, outputs) = language.text(node_id), names_of(node_id, language)
    on_inputs, on_outputs = section(text, language.inputs), section(text, language.outputs)
    assert [name for name in inputs if f"**{name}**" not in on_inputs] == []
    assert [name for name in outputs if f"**{name}**" not in on_outputs] == []


@each_node
def test_chinese_page_tells_the_names_in_stored_workflows(node_id):
    """The pictures show them."""
    text = CHINESE.text(node_id)
    names = [name for kind in ("inputs", "outputs") for name, _ in SCHEMAS[node_id][kind]]
    assert [name for name in names if f"`{name}`" not in text and f"**{name}**" not in text] == []


@each_node
def test_both_pages_show_the_same_picture(node_id):
    first, second = ([shown[2] for shown in PICTURE.finditer(one.text(node_id))] for one in LANGUAGES.values())
    assert first == second


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(DOCS).as_posix())
def test_page_leads_to_what_is_there(path):
    """Only to pictures: a link to a heading would leave the graph, and there are no other pages to show."""
    text = path.read_text(encoding="utf-8")
    assert LINK.findall(text) == [shown[2] for shown in PICTURE.finditer(text)]
    assert [one for one in LINK.findall(text) if not (DOCS / one).is_file()] == []


def test_every_picture_is_shown():
    shown = {DOCS / one[2] for path in pages() for one in PICTURE.finditer(path.read_text(encoding="utf-8"))}
    assert set(PICTURES.iterdir()) == shown


@pytest.mark.parametrize("path", sorted(PICTURES.iterdir()), ids=lambda path: path.name)
def test_picture_is_small_and_readable(path):
    with Image.open(path) as picture:
        assert picture.format == "WEBP" and picture.width in WIDTHS
    assert path.stat().st_size <= MOST_PICTURE_BYTES


def test_help_is_small():
    assert sum(path.stat().st_size for path in DOCS.rglob("*") if path.is_file()) <= MOST_BYTES


@each_language
def test_page_of_lumina_prompt_shows_the_wording_of_every_task(language):
    blocks = set(TEMPLATE_BLOCK.findall(language.text("LuminaMGPT2_TaskPrompt")))
    assert blocks == {template.text for template in TEMPLATES.values()}
