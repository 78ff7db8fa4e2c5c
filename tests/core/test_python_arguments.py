"""`Lumina.load` and `Lumina.draw` take values of the usual kinds, and refuse others in one line before the work."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lumina_core import pipeline
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.device import choose_device, dtype_or_choice
from lumina_core.errors import InputError
from lumina_core.pipeline import Lumina

CPU = torch.device("cpu")
WITHOUT_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
OTHER_VALUES = (5, 1.5, [], {}, b"x", np.array([1, 2]), len)


def refuses(run: Any, expected: str, *values: Any, **options: Any) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        run(*values, **options)
    assert "\n" not in str(caught.value)


# Loading


@WITHOUT_CUDA
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7", torch.device("cuda"), torch.device("cuda", 1)])
def test_cuda_where_there_is_none(checkpoint: Path, name: Any) -> None:
    refuses(Lumina.load, "PyTorch finds no CUDA device; use cpu", checkpoint, device=name)


def test_a_number_beyond_the_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    assert choose_device("cuda:1") == torch.device("cuda", 1) and choose_device("auto") == torch.device("cuda")
    refuses(choose_device, "the device is cuda:2 and PyTorch finds 2; expected a number below 2", "cuda:2")


@pytest.mark.parametrize("name", ["meta", "vulkan", "privateuseone", torch.device("meta")])
def test_devices_that_hold_no_values_here(name: Any) -> None:
    refuses(choose_device, "cannot use it here; expected auto, cpu, cuda, xpu or mps", name)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is such a device here")
def test_mps_where_there_is_none(checkpoint: Path) -> None:
    refuses(Lumina.load, "the device is mps", checkpoint, device="mps")


@pytest.mark.parametrize("name", ["", "abacus", "CPU", "cuda:-1", "cpu\0", "\udcff", True, *OTHER_VALUES])
def test_names_of_no_device(name: Any) -> None:
    refuses(choose_device, "the device is .*; expected auto, cpu, cuda", name)


def test_no_device_is_auto() -> None:
    assert choose_device(None) == choose_device("auto")
    assert choose_device("cpu:3") == choose_device(CPU) == CPU


@pytest.mark.parametrize(
    ("names", "dtype"),
    [
        (("bf16", "bfloat16", torch.bfloat16), torch.bfloat16),
        (("fp16", "float16", torch.float16), torch.float16),
        (("fp32", "float32", torch.float32, "auto", None), torch.float32),
        (("fp64", "float64", torch.float64), torch.float64),
    ],
    ids=str,
)
def test_a_dtype_has_names(names: tuple[Any, ...], dtype: torch.dtype) -> None:
    assert {dtype_or_choice(name, CPU) for name in names} == {dtype}


def test_a_dtype_is_loaded_by_its_name(checkpoint: Path) -> None:
    assert Lumina.load(checkpoint, device="cpu", dtype="bf16").transformer.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        *(({"dtype": value}, "dtype is ") for value in ("bf8", torch.int8, torch.complex64, np.float32, *OTHER_VALUES)),
        *(({"movqgan": value}, "movqgan is .*; expected the path") for value in OTHER_VALUES),
        *(({"weights": value}, "weights is .*; expected one of auto") for value in (None, "x", *OTHER_VALUES)),
        *(({"compile": value}, "compile is .*; expected one of auto") for value in (None, "x", *OTHER_VALUES)),
        *(({"source": value}, "checkpoint is .*; expected the path") for value in (None, *OTHER_VALUES)),
    ],
    ids=str,
)
def test_bad_values_are_refused_before_the_weights_are_read(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: str
) -> None:
    monkeypatch.setattr(pipeline, "load_transformer", lambda *_, **__: pytest.fail("the weights were read"))
    refuses(Lumina.load, expected, **{"source": checkpoint, "device": "cpu", **options})


# Drawing


def test_numbers_of_numpy_draw_what_those_of_python_draw(small: Lumina) -> None:
    plain = {"seed": 3, "batch": 2, "top_k": 7, "cfg_scale": 2.0, "temperature": 1.5, "window_size": 4}
    kinds = {"cfg_scale": np.float32, "temperature": np.float64, "seed": np.uint64}
    same = {name: kinds.get(name, np.int32)(value) for name, value in plain.items()}
    expected = small.draw("a red square", 32, 64, **plain)
    drawing = small.draw("a red square", np.int64(32), np.uint16(64), **same)
    assert torch.equal(drawing.codes, expected.codes)
    assert [type(value) for value in vars(drawing.result.settings).values()] == [
        type(value) for value in vars(expected.result.settings).values()
    ]


@pytest.mark.parametrize("value", [True, np.bool_(True), 2.0, np.float32(2), "2", None, *OTHER_VALUES[2:]], ids=str)
@pytest.mark.parametrize("name", ["width", "height", "batch", "seed", "top_k", "window_size"])
def test_other_numbers_are_refused(small: Lumina, name: str, value: Any) -> None:
    values = {"prompt": "a red square", "width": 32, "height": 32, name: value}
    refuses(small.draw, f"{name.partition('_size')[0]} is .*; expected a whole number", **values)


@pytest.mark.parametrize("value", [True, np.bool_(True), float("nan"), 1j, "2", None, *OTHER_VALUES[2:]], ids=str)
def test_other_temperatures_are_refused(value: Any) -> None:
    refuses(DecodeSettings, "temperature is .*; expected a number", temperature=value)
    refuses(DecodeSettings, "cfg is .*; expected a number", cfg_scale=value)


@pytest.mark.parametrize("value", [8.0, "8", True, *OTHER_VALUES[2:]], ids=str)
def test_a_given_height_is_a_whole_number(small: Lumina, value: Any) -> None:
    picture = Image.new("RGB", (32, 64))
    refuses(small.draw, "the given height is", "a red square", 32, 64, condition=picture, given_height=value)


def test_a_condition_may_be_a_path_or_several(small: Lumina, noise: Path) -> None:
    with Image.open(noise) as picture:
        picture.load()
    draw = {"prompt": "green", "width": 32, "height": 64, "task": "edit"}
    expected = small.draw(**draw, condition=picture).codes
    for condition in (noise, str(noise), [noise], (one for one in [picture])):
        assert torch.equal(small.draw(**draw, condition=condition).codes, expected)
    both = small.draw(**draw, condition=[picture, noise], batch=2)
    assert torch.equal(both.codes[:1], expected)
    continued = {"prompt": "green", "width": 32, "height": 32, "given_height": np.int64(8)}
    assert torch.equal(small.draw(**continued, condition=noise).codes, small.draw(**continued, condition=picture).codes)


@pytest.mark.parametrize("condition", ["", "absent.png", [], [5], *OTHER_VALUES], ids=str)
def test_conditions_that_are_no_picture(small: Lumina, condition: Any) -> None:
    values = {"prompt": "green", "width": 32, "height": 64, "task": "edit", "condition": condition}
    refuses(small.draw, "condition|cannot read the picture", **values)


@pytest.mark.parametrize("value", OTHER_VALUES, ids=str)
@pytest.mark.parametrize("name", ["map", "object", "prompt", "task", "decoder", "kv_cache", "new_drafts"])
def test_words_are_texts(small: Lumina, name: str, value: Any) -> None:
    task = {"map": "pair", "object": "subject"}.get(name, "t2i")
    values = {"prompt": "green", "width": 32, "height": 64, "task": task, name: value}
    picture = {"condition": Image.new("RGB", (32, 32))} if name == "object" else {}
    refuses(small.draw, name, **values, **picture)


@pytest.mark.parametrize(("name", "value"), [("map", "depth"), ("map", 5), ("object", "a cup")])
def test_an_input_that_the_task_does_not_use_is_said(
    small: Lumina, caplog: pytest.LogCaptureFixture, name: str, value: Any
) -> None:
    with caplog.at_level(logging.WARNING):
        small.draw("a red square", 32, 32, **{name: value})
    assert f"The task t2i takes no {name}: {value!r} is ignored." in caplog.messages


def test_an_input_that_the_task_uses_is_not_said(small: Lumina, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        small.draw("a red square", 32, 64, task="pair", map="depth")
    assert "ignored" not in caplog.text
