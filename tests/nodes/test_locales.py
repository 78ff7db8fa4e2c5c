"""The texts of the nodes in each language: all there, and in English those of the schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodes import test_schemas

schemas = test_schemas.schemas  # the fixture
PUBLISHED = test_schemas.PUBLISHED
LOCALES = Path(__file__).parents[2] / "locales"
LANGUAGES = ("en", "zh")
FOLDERS = ("lumina-mgpt2", "comfyui-lumina-mgpt2")  # as the registry and as git name the pack's folder
CHINESE = re.compile(r"[\u4e00-\u9fff]")
NAMES = {
    *("Checkpoint", "Latent", "MoVQGAN", "VAE", "vae", "cfg", "top_k", "top_p", "min_p"),
    *("bf16", "fp32", "fp16", "int8", "int4", "fp8", "int8-dynamic", "HQQ"),
    *("gumbel", "ar", "sjd", "coupled", "Canny", "HED"),
    *("0", "8", "16", "32", "64"),
}


def read(language: str, name: str) -> dict:
    return json.loads((LOCALES / language / name).read_text(encoding="utf-8"))


def texts(entry: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The texts below an entry, with their keys."""
    for key, value in entry.items():
        if isinstance(value, dict):
            yield from texts(value, (*path, key))
        else:
            yield (*path, key), value


def expected(schema: dict) -> set[tuple[str, ...]]:
    """The keys of all texts of a node but its options."""
    inputs = {("inputs", name, part) for name, _ in schema["inputs"] for part in ("name", "tooltip")}
    outputs = {("outputs", str(slot), part) for slot in range(len(schema["outputs"])) for part in ("name", "tooltip")}
    return {("display_name",), ("description",), *inputs, *outputs}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_is_there(language):
    assert list(read(language, "nodeDefs.json")) == list(read("en", "nodeDefs.json"))
    assert set(read(language, "nodeDefs.json")) == set(PUBLISHED)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node_id", PUBLISHED)
def test_every_text_of_a_node_is_there_and_no_other(language, node_id):
    keys = {key for key, _ in texts(read(language, "nodeDefs.json")[node_id])}
    assert {key for key in keys if key[2:3] not in {("options",), ("placeholder",)}} == expected(PUBLISHED[node_id])


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node_id", PUBLISHED)
def test_every_option_is_there(language, node_id):
    """The published options are those that do not come from folders; others were added since."""
    inputs = read(language, "nodeDefs.json")[node_id]["inputs"]
    translated = {name: set(one["options"]) for name, one in inputs.items() if "options" in one}
    published = PUBLISHED[node_id]["options"]
    assert set(translated) == set(published)
    assert all(set(options) <= translated[name] for name, options in published.items())


@pytest.mark.parametrize("name", ["nodeDefs.json", "main.json"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_languages_have_the_same_keys_in_the_same_order(language, name):
    assert [key for key, _ in texts(read(language, name))] == [key for key, _ in texts(read("en", name))]


@pytest.mark.parametrize("name", ["nodeDefs.json", "main.json"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_empty(language, name):
    assert not [key for key, text in texts(read(language, name)) if not isinstance(text, str) or not text.strip()]


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_and_descriptions_are_no_message_formats(language):
    """The frontend compiles all but tooltips, where braces, at signs and bars would be taken for its own syntax."""
    found = [key for key, text in texts(read(language, "nodeDefs.json")) if set(text) & set("{}@|")]
    assert {key[-1] for key in found} <= {"tooltip"}


def test_chinese_is_chinese():
    found = [text for _, text in texts(read("zh", "nodeDefs.json")) if not CHINESE.search(text)]
    assert set(found) <= NAMES


def test_chinese_punctuation_is_chinese():
    """Half-width marks stand between letters and figures only, as in 2.0 and a file's extension."""
    wrong = re.compile(r"[\u4e00-\u9fff][,.;:?!()]|[,;:?!()][\u4e00-\u9fff]|\s[，。；：、（）]|[，。；：、（）]\s")
    assert not [(key, text) for key, text in texts(read("zh", "nodeDefs.json")) if wrong.search(text)]


def test_chinese_stands_apart_from_letters_and_figures():
    """By a space; names of ComfyUI's own nodes are as it writes them."""
    joined = re.compile(r"[\u4e00-\u9fff][A-Za-z0-9]|[A-Za-z0-9][\u4e00-\u9fff]")
    found = [
        text for _, text in texts(read("zh", "nodeDefs.json")) if joined.search(re.sub(r"VAE(?=[编解]码)", "", text))
    ]
    assert not found


def test_chinese_has_the_placeholders_and_figures_of_the_english():
    english = dict(texts(read("en", "nodeDefs.json")))
    for key, text in texts(read("zh", "nodeDefs.json")):
        for kind in (r"\{\w+\}|%\w+%", r"\d+"):
            assert set(re.findall(kind, text)) == set(re.findall(kind, english[key])), key


def test_the_first_three_are_found_by_the_name_of_the_model():
    names = {node_id: node["display_name"] for node_id, node in read("zh", "nodeDefs.json").items()}
    first = ("LuminaMGPT2_LoadModel", "LuminaMGPT2_TaskPrompt", "LuminaMGPT2_SJDSampler")
    assert all(names[node_id].startswith("Lumina ") for node_id in first)
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_category_and_the_folder_of_the_templates_have_names(language):
    """The frontend reads the dot of a category as the way to a nested key."""
    main = read(language, "main.json")
    for category in {schema["category"] for schema in PUBLISHED.values()}:
        entry = main["nodeCategories"]
        for part in category.split("."):
            entry = entry[part]
        assert isinstance(entry, str)
    assert set(main["templateWorkflows"]["category"]) == set(FOLDERS)


def english_of(schema: dict, fixed: dict[str, list[str]]) -> dict:
    """What en/nodeDefs.json has for a node, but for the placeholders; `fixed`: the options not from folders."""
    inputs: dict[str, dict] = {}
    for name, _ in schema["inputs"]:
        inputs[name] = {"name": name, "tooltip": schema["tooltips"][name].strip()}
        if name in fixed:
            inputs[name]["options"] = {option: option for option in fixed[name]}
    pairs = zip(schema["outputs"], schema["output_tooltips"], strict=True)
    outputs = {str(slot): {"name": name, "tooltip": tooltip} for slot, ((name, _), tooltip) in enumerate(pairs)}
    node = {"display_name": schema["display_name"], "description": schema["description"]}
    return {**node, "inputs": inputs, "outputs": outputs}


@pytest.mark.parametrize("node_id", PUBLISHED)
def test_english_is_that_of_the_schemas(schemas, node_id):
    english = read("en", "nodeDefs.json")[node_id]
    for one in english["inputs"].values():
        one.pop("placeholder", None)
    fixed = dict(schemas[node_id]["options"])
    for name in set(test_schemas.FROM_FOLDERS + ("kept",)) & set(fixed):
        fixed[name] = PUBLISHED[node_id]["options"][name]
    assert english == english_of(schemas[node_id], fixed)
