"""The prompt of a task at the size of the model, and what the sampler advises on it."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

DEMO_SIZES = ((96, 96), (96, 192))


def prompt_of(nodes: Any, task: str = "t2i", width: int = 0, height: int = 0) -> Any:
    return nodes("nodes.types").TaskPromptData(task, "a red circle", width, height, "depth", "a cup")


def canvas_of(nodes: Any, panels: int) -> Any:
    codes = torch.zeros(1, 12, 12, dtype=torch.int64)
    return nodes("nodes.types").CanvasData(96, 192, codes, torch.zeros(1, 96, 96, 3), panels=panels)


@pytest.mark.parametrize(
    ("task", "trained", "expected"),
    [
        ("t2i", None, (768, 768)),
        ("pair", None, (512, 1024)),
        ("t2i", DEMO_SIZES, (96, 96)),
        ("pair", DEMO_SIZES, (96, 192)),
    ],
)
def test_sides_that_are_0_are_those_of_the_model(nodes: Any, task: str, trained: Any, expected: tuple) -> None:
    prompt = prompt_of(nodes, task).sized(trained)
    assert (prompt.width, prompt.height) == expected
    assert f" of {expected[0]}x{expected[1]} " in prompt.text


def test_the_text_has_placeholders_until_the_size_is_known(nodes: Any) -> None:
    assert prompt_of(nodes).text.startswith("Generate an image of {width}x{height} according")
    assert prompt_of(nodes, width=96).text.startswith("Generate an image of 96x{height} according")
    assert prompt_of(nodes, width=96, height=64).sized(None).text.startswith("Generate an image of 96x64 according")


def test_a_canvas_sets_the_size(nodes: Any) -> None:
    prompt = prompt_of(nodes, width=512, height=512).on_canvas(canvas_of(nodes, panels=2))
    assert (prompt.width, prompt.height, prompt.has_canvas) == (96, 192, True)


@pytest.mark.parametrize(("width", "height", "name"), [(65, 64, "width"), (64, -32, "height"), (0, 8192, "height")])
def test_a_side_that_no_model_draws_is_named(nodes: Any, width: int, height: int, name: str) -> None:
    with pytest.raises(nodes("lumina_core.errors").InputError, match=f"^{name} is "):
        nodes("nodes.sizes").check_sides(width, height)


def advice(nodes: Any, prompt: Any, canvas: Any = None) -> list[str]:
    model = SimpleNamespace(lumina=SimpleNamespace(config=SimpleNamespace(trained_sizes=DEMO_SIZES)))
    return nodes("nodes.request").advice_on(model, prompt, canvas)


def test_what_will_not_draw_what_is_wanted_is_told(nodes: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert not advice(nodes, prompt_of(nodes))
    assert not advice(nodes, prompt_of(nodes, "edit"), canvas_of(nodes, panels=2))
    assert not advice(nodes, prompt_of(nodes), canvas_of(nodes, panels=1)), "a picture that is continued"
    assert not caplog.records
    (untrained,) = advice(nodes, prompt_of(nodes, width=64, height=96))
    assert "64x96" in untrained
    (ignored,) = advice(nodes, prompt_of(nodes), canvas_of(nodes, panels=2))
    assert "upper panel" in ignored and "text to image" in ignored
    (missing,) = advice(nodes, prompt_of(nodes).on_canvas(canvas_of(nodes, panels=1)))
    assert "connect it to both" in missing
    assert [record.getMessage() for record in caplog.records] == [ignored, missing]


def test_the_negative_prompt_has_the_wording_and_the_size_of_the_prompt(nodes: Any) -> None:
    prompt = nodes("nodes.types").TaskPromptData("subject", "a", 0, 0, object="a cup", negative="a red dog")
    sized = prompt.sized(DEMO_SIZES)
    expected = nodes("lumina_core.tokens.prompts").build_prompt("subject", 96, 192, "a red dog", None, "a cup")
    assert sized.negative_text == expected and sized.negative_text.typed == expected.typed
    assert prompt_of(nodes).negative_text is None


def test_errors_reach_comfyui_as_builtin_exceptions(nodes: Any) -> None:
    errors, base = nodes("lumina_core.errors"), nodes("nodes.node").LuminaNode

    class Failing(base):
        @classmethod
        def execute(cls, error: Exception) -> None:
            raise error

    for error, kind in (
        (errors.InputError("a"), ValueError),
        (errors.CheckpointError("b"), ValueError),
        (errors.OutOfMemory("c"), MemoryError),
        (KeyError("d"), KeyError),
    ):
        with pytest.raises(kind) as caught:
            Failing.execute(error)
        assert type(caught.value) is kind and caught.value.args == error.args
        assert caught.value is error or caught.value.__cause__ is error


def test_every_node_is_a_lumina_node(nodes: Any) -> None:
    extension, base = nodes("nodes.extension"), nodes("nodes.node").LuminaNode
    found = [value for value in vars(extension).values() if isinstance(value, type) and hasattr(value, "define_schema")]
    own = [one for one in found if one.__module__.startswith(base.__module__.split(".")[0]) and "execute" in vars(one)]
    assert len(own) == 15 and all(issubclass(one, base) for one in own)
