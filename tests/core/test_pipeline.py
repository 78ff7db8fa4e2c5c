"""`Lumina`: what is loaded, drawn and refused, and that requests are checked before any work."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lumina_core.checkpoint import tensor_files
from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.decoding.build_request import build_request, check_request
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeResult, DecodeSettings, StepReport
from lumina_core.errors import InputError, OutOfMemory
from lumina_core.movqgan.autoencoder import MoVQGAN
from lumina_core.pictures.images import load_picture, to_image
from lumina_core.pictures.panels import condition_pixels
from lumina_core.pipeline import Lumina
from lumina_core.tokens.prompts import build_prompt
from lumina_core.tokens.tokenizer import Tokenizer
from lumina_core.tokens.vocabulary import Vocabulary

from .cli_runs import CommandLine, save_noise

PROMPT = tuple(range(40))
SETTINGS = DecodeSettings(window_size=8, seed=3)
REQUEST = Request([PROMPT], 4, 4, settings=SETTINGS)
TASKS: dict[str, dict[str, str]] = {
    "t2i": {},
    "pair": {"map": "canny"},
    "control": {"map": "depth"},
    "subject": {"object": "a small cup"},
    "edit": {},
    "predict": {"map": "pose"},
}
CONDITIONED = ("control", "subject", "edit", "predict")


@pytest.fixture
def picture(tmp_path: Path) -> Image.Image:
    """A picture of random colours."""
    return load_picture(save_noise(tmp_path / "condition.png"))


def same(first: DecodeResult, second: DecodeResult) -> bool:
    return torch.equal(first.codes, second.codes)


# Loading


def test_a_path_a_string_and_an_opened_checkpoint_load_the_same(checkpoint: Path, small: Lumina) -> None:
    expected = small.sample(REQUEST)
    for source in (checkpoint, str(checkpoint), open_checkpoint(checkpoint)):
        lumina = Lumina.load(source, device="cpu")
        assert lumina.checkpoint == checkpoint and same(lumina.sample(REQUEST), expected)
    assert small.transformer.dtype == torch.float32 and small.config == small.transformer.config


def test_weights_dtype_compile_and_movqgan_may_be_chosen(checkpoint: Path, small: Lumina) -> None:
    codec = checkpoint / "movqgan.safetensors"
    for movqgan in (codec, str(codec), small.movqgan):
        options = {"weights": "int8", "dtype": torch.bfloat16, "compile": "off", "movqgan": movqgan}
        lumina = Lumina.load(checkpoint, device="cpu", **options)
        assert lumina.transformer.dtype == torch.bfloat16 and lumina.transformer.compile_choice == "off"
        assert "int8" in lumina.transformer.matmul_kernel
        assert lumina.draw("a red square", 32, 32).images[0].size == (32, 32)
    with pytest.raises(InputError, match="compile is 'yes'"):
        Lumina.load(checkpoint, device="cpu", compile="yes")
    with pytest.raises(InputError, match="weights is 'int2'"):
        Lumina.load(checkpoint, device="cpu", weights="int2")


@pytest.mark.parametrize("converted", [True, False])
def test_every_file_is_opened_once(
    checkpoint: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, converted: bool
) -> None:
    opened: Counter[str] = Counter()
    safe_open = tensor_files.safe_open

    def counted(path: Path, **options: Any) -> Any:
        opened[Path(path).name] += 1
        return safe_open(path, **options)

    monkeypatch.setattr(tensor_files, "safe_open", counted)
    Lumina.load(whole if converted else checkpoint, device="cpu")
    expected = [whole] if converted else checkpoint.glob("*.safetensors")
    assert opened == {path.name: 1 for path in expected}


def test_without_a_movqgan_codes_are_drawn_but_no_pictures(small: Lumina, picture: Image.Image) -> None:
    bare = replace(small, movqgan=None)
    drawing = bare.draw("a red square", 32, 32, seed=3)
    assert torch.equal(drawing.codes, small.draw("a red square", 32, 32, seed=3).codes)
    for run in (lambda: drawing.images, lambda: bare.draw("green", 32, 64, task="edit", condition=picture)):
        with pytest.raises(InputError, match="loaded without a MoVQGAN"):
            run()


def test_without_a_tokenizer_no_prompt_is_drawn(small: Lumina) -> None:
    with pytest.raises(InputError, match="has no tokenizer"):
        replace(small, tokenizer=None).draw("a red square", 32, 32)


# Drawing from a prompt


@pytest.mark.parametrize("task", TASKS)
def test_every_task_draws_its_picture(small: Lumina, picture: Image.Image, task: str) -> None:
    inputs, condition = TASKS[task], picture if task in CONDITIONED else None
    height = 32 if task == "t2i" else 64
    drawing = small.draw("a red square", 32, height, task=task, condition=condition, seed=2, **inputs)
    prompt = small.tokenizer.encode_prompt(build_prompt(task, 32, height, "a red square", **inputs))
    given = None if condition is None else small.encode(condition_pixels(condition, 32, height))
    expected = small.sample(Request([prompt], height // 8, 4, given, DecodeSettings(seed=2)))
    assert same(drawing.result, expected) and drawing.codes.shape == (1, height // 8, 4)
    assert condition is None or torch.equal(drawing.codes[:, : height // 16], given)
    (image,) = drawing.images
    assert np.array_equal(np.asarray(image), np.asarray(to_image(small.movqgan.decode(drawing.codes))))


@pytest.mark.parametrize("given_height", [8, 40])
def test_a_picture_is_continued(small: Lumina, picture: Image.Image, given_height: int) -> None:
    codes = small.draw("a red square", 32, 64, condition=picture, given_height=given_height).codes
    given = small.encode(condition_pixels(picture, 32, 64, given_height))
    assert torch.equal(codes[:, : given_height // 8], given) and codes.shape == (1, 8, 4)


def test_picture_k_of_a_batch_has_its_own_seed_and_condition(small: Lumina, picture: Image.Image) -> None:
    conditions = [picture, picture.transpose(Image.Transpose.ROTATE_180)]
    both = small.draw("green", 32, 64, task="edit", condition=conditions, batch=2, seed=5)
    for k, condition in enumerate(conditions):
        alone = small.draw("green", 32, 64, task="edit", condition=condition, seed=5 + k)
        assert torch.equal(both.codes[k], alone.codes[0])
        assert np.array_equal(np.asarray(both.images[k]), np.asarray(alone.images[0]))


def test_a_negative_prompt_is_read_in_the_wording_of_the_task(small: Lumina, picture: Image.Image) -> None:
    asked = {"task": "subject", "object": "a cup", "condition": picture, "seed": 3, "batch": 2}
    found = small.draw("a red square", 32, 64, negative="green", **asked)
    text, away = (build_prompt("subject", 32, 64, one, None, "a cup") for one in ("a red square", "green"))
    given = small.encode(condition_pixels(picture, 32, 64))
    request = build_request(small, text, 32, 64, 2, given, DecodeSettings(seed=3), away)
    assert request.negative_prompts == [small.tokenizer.encode_prompt(away)] * 2
    assert torch.equal(found.codes, small.sample(request).codes)
    plain = small.draw("a red square", 32, 64, **asked).codes
    assert not torch.equal(found.codes, plain)
    for blank in (None, "", "  \n"):
        assert torch.equal(small.draw("a red square", 32, 64, negative=blank, **asked).codes, plain)


def test_without_guidance_a_negative_prompt_is_ignored_which_is_said(
    small: Lumina, caplog: pytest.LogCaptureFixture
) -> None:
    found, plain = (small.draw("a", 32, 32, cfg_scale=1.0, negative=one).codes for one in ("green", None))
    assert torch.equal(found, plain)
    assert [text for text in caplog.messages if "negative" in text] == [
        "The negative prompt is ignored: with cfg 1 there is no unconditional branch to read it."
    ]


def test_a_negative_prompt_that_the_context_does_not_hold_is_refused(small: Lumina) -> None:
    with pytest.raises(InputError, match="expected a shorter prompt"):
        small.draw("a", 32, 32, negative="word " * 3000)


def test_settings_are_keywords(small: Lumina) -> None:
    settings = {"seed": 4, "cfg_scale": 2.0, "top_k": 5, "decoder": "sjd", "window_size": 6, "kv_cache": "int8"}
    drawing = small.draw("a red square", 32, 32, **settings)
    assert drawing.result.settings == DecodeSettings(**settings, tree=0)
    request = build_request(
        small, build_prompt("t2i", 32, 32, "a red square"), 32, 32, settings=DecodeSettings(**settings)
    )
    assert same(drawing.result, small.sample(request))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"width": 65},
            "65x32; expected positive multiples of 32; the nearest size that the model was trained on is 64x32",
        ),
        ({"height": 10**30}, "sides of at most 256"),
        ({"width": 32.0}, "width is 32.0; expected a whole number of pixels"),
        ({"prompt": "word " * 3000}, "expected a shorter prompt"),
        ({"prompt": "\ud800"}, "not valid Unicode"),
        ({"batch": 0}, "batch is 0; expected"),
        ({"seed": -1}, "seed is -1"),
        ({"decoder": "magic"}, "decoder is 'magic'"),
        ({"task": "magic"}, "'magic'; expected one of t2i"),
        ({"task": "pair"}, "map is missing, which this task needs"),
        ({"task": "edit"}, "the task edit needs a picture"),
        ({"given_height": 8}, "without a picture"),
        ({"condition": "picture"}, "the task t2i takes no picture"),
        ({"condition": "picture", "task": "edit", "width": 65}, "nearest size that the model was trained on"),
        (
            {"condition": "picture", "task": "edit", "width": 32 * 10**8, "height": 32 * 10**8},
            "nearest size that the model was trained on",
        ),
        ({"condition": "picture", "given_height": 12}, "the given height is 12"),
    ],
    ids=str,
)
def test_bad_input_is_refused_before_any_work(
    small: Lumina, picture: Image.Image, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], expected: str
) -> None:
    monkeypatch.setattr(Lumina, "sample", lambda *_: pytest.fail("the engine ran"))
    values = {"prompt": "a red square", "width": 32, "height": 32, **changes}
    if "condition" in values:
        values["condition"] = picture
    with pytest.raises(InputError, match=expected):
        small.draw(**values)


def test_an_unknown_setting_is_an_error_of_the_caller(small: Lumina) -> None:
    with pytest.raises(TypeError, match="widow"):
        small.draw("a red square", 32, 32, widow=3)


def test_codes_survive_running_out_of_memory_while_decoding(small: Lumina, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr(MoVQGAN, "decode", refuse)
        drawing = small.draw("a red square", 32, 32, batch=2)
        with pytest.raises(OutOfMemory, match="out of memory while decoding a picture of 32x32"):
            _ = drawing.images
        assert drawing.codes.shape == (2, 4, 4)
    assert [image.size for image in drawing.images] == [(32, 32)] * 2
    assert drawing.images[0] is drawing.images[0]


def test_reports_lead_to_the_picture_and_an_exception_ends_the_run(small: Lumina) -> None:
    reports: list[StepReport] = []
    drawing = small.draw("a red square", 32, 32, seed=3, on_step=reports.append)
    accepted = [report.accepted[0] for report in reports]
    assert accepted == sorted(accepted) and accepted[-1] == reports[-1].total == 16
    assert torch.equal(reports[-1].codes, drawing.codes)

    def interrupt(_: StepReport) -> None:
        raise RuntimeError("cancelled by the caller")

    with pytest.raises(RuntimeError, match="cancelled by the caller"):
        small.draw("a red square", 32, 32, seed=3, on_step=interrupt)
    assert same(small.draw("a red square", 32, 32, seed=3).result, drawing.result)


# A window larger than what is left to draw


@pytest.mark.parametrize(("height", "given_height", "left"), [(32, None, 19), (64, 40, 14)])
def test_the_command_line_and_python_reduce_the_window_alike(
    lumina: CommandLine, small: Lumina, noise: Path, height: int, given_height: int | None, left: int
) -> None:
    condition = None if given_height is None else load_picture(noise)
    options = () if given_height is None else ("--condition", noise, "--given-height", given_height)
    for decoder in ("gumbel", "ar"):
        lumina.generate("--height", height, *options, "--decoder", decoder, name=decoder).succeeded()
        drawing = small.draw(
            "a red square", 32, height, condition=condition, given_height=given_height, decoder=decoder
        )
        assert lumina.tokens(decoder) == [small.vocabulary.picture_tokens(drawing.codes[0])]
        assert drawing.result.settings.window_size == left
    assert lumina.tokens("gumbel") == lumina.tokens("ar")
    assert (lumina.stats("gumbel")["window"], lumina.stats("ar")["window"]) == (left, 1)


# Requests


@dataclass(frozen=True)
class Model:
    """What `build_request` needs to know of a model."""

    config: TransformerConfig
    vocabulary: Vocabulary
    tokenizer: Tokenizer


@pytest.fixture(scope="module")
def published(small: Lumina) -> Model:
    """The published sizes, with a small tokenizer."""
    config = TransformerConfig(171_385, 4096, 11_008, 32, 32, 32, 128, 10_240)
    return Model(config, Vocabulary(1, 2, 3, 4, tuple(range(5, 134)), 155_000, 16_384), small.tokenizer)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"prompts": []}, "the request has no prompt"),
        ({"grid_h": 6}, "the size is 32x48; expected positive multiples of 32"),
        ({"grid_w": 0}, "the size is 0x32; expected at least one row and one column"),
        ({"grid_w": -4}, "the size is -32x32; expected at least one row"),
        ({"grid_h": 0}, "the size is 32x0; expected at least one row"),
        ({"grid_h": 36}, "sides of at most 256"),
        ({"grid_h": 32, "grid_w": 32}, "at most 1024 tokens"),
        ({"prompts": [PROMPT, [0] * 1010]}, "expected a shorter prompt"),
        ({"given_codes": torch.zeros(2, 3, dtype=torch.int64)}, r"shape \(2, 3\); expected \[rows,4\]"),
        ({"given_codes": torch.zeros(2, 2, 4, dtype=torch.int64)}, r"or \[1,rows,4\]"),
        ({"given_codes": torch.zeros(4, dtype=torch.int64)}, r"shape \(4,\)"),
        ({"given_codes": torch.zeros(4, 4, dtype=torch.int64)}, "at least one row must be left"),
        ({"given_codes": torch.full((2, 4), 64)}, "codes run from 0 to 64; expected 0 to 63"),
        ({"given_codes": torch.full((2, 4), -1)}, "codes run from -1 to 0"),
        ({"given_codes": torch.zeros(2, 4)}, "expected integers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_requests_are_refused_before_the_first_step(small: Lumina, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        small.sample(replace(REQUEST, **changes), lambda _: pytest.fail("a step ran"))


def test_check_request_refuses_sizes_without_a_loaded_model(small: Lumina) -> None:
    for bad in (replace(REQUEST, grid_h=6), replace(REQUEST, grid_w=64)):
        with pytest.raises(InputError):
            check_request(bad, small.config, small.vocabulary)


def test_a_request_has_a_prompt_a_picture_and_the_given_rows(small: Lumina) -> None:
    given = torch.arange(12).view(3, 4)
    request = build_request(small, "a red square", 32, 32, 2, given, replace(SETTINGS, window_size=4))
    assert request.prompts == [small.tokenizer.encode_prompt("a red square")] * 2
    assert request.codes_to_draw == 2 * 4 and request.given.shape == (2, 3, 4)
    assert torch.equal(small.sample(request).codes[:, :3], given.expand(2, 3, 4))


def test_every_picture_may_have_its_own_prompt_and_rows(small: Lumina) -> None:
    given = torch.stack([torch.zeros(2, 4, dtype=torch.int64), torch.arange(8).view(2, 4)])
    prompts = [PROMPT, PROMPT[:7]]
    both = small.sample(replace(REQUEST, prompts=prompts, given_codes=given))
    for k in range(2):
        alone = Request([prompts[k]], 4, 4, given[k], replace(SETTINGS, seed=SETTINGS.seed + k))
        assert torch.equal(small.sample(alone).codes[0], both.codes[k])


def test_global_random_numbers_are_left_alone(small: Lumina) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = small.sample(REQUEST)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(small.sample(REQUEST), first)


# Sizes the model was trained on


def warnings_of(caplog: pytest.LogCaptureFixture, run: Callable[[], object]) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        run()
    return [record.getMessage() for record in caplog.records]


def test_an_untrained_size_is_warned_of_once(caplog: pytest.LogCaptureFixture, small: Lumina) -> None:
    (line,) = warnings_of(caplog, lambda: small.draw("a red square", 96, 64, batch=3))
    assert "pictures of 96x64; the nearest size is 64x32" in line


def test_a_trained_size_is_not_warned_of(caplog: pytest.LogCaptureFixture, small: Lumina) -> None:
    for width, height in ((32, 32), (32, 64), (64, 32), (64, 64)):
        assert not warnings_of(caplog, lambda w=width, h=height: build_request(small, "a red square", w, h))


@pytest.mark.parametrize("size", [(768, 768), (512, 512), (512, 1024), (384, 608), (1024, 256)])
def test_published_sizes_are_the_default(
    caplog: pytest.LogCaptureFixture, published: Model, size: tuple[int, int]
) -> None:
    assert published.config.trained_sizes is None
    assert not warnings_of(caplog, lambda: build_request(published, "a red square", *size))


def test_sizes_of_the_config_replace_the_published_ones(caplog: pytest.LogCaptureFixture, published: Model) -> None:
    own = replace(published, config=replace(published.config, trained_sizes=((64, 64),)))
    assert not warnings_of(caplog, lambda: build_request(own, "a red square", 64, 64))
    (line,) = warnings_of(caplog, lambda: build_request(own, "a red square", 768, 768))
    assert "nearest size is 64x64" in line
    assert len(warnings_of(caplog, lambda: build_request(published, "a red square", 64, 64))) == 1


@pytest.mark.parametrize("batch", [0, -1, 1.5, "2", True, None])
def test_a_batch_is_a_whole_number(small: Lumina, batch: Any) -> None:
    with pytest.raises(InputError, match="batch is"):
        small.draw("a red square", 32, 32, batch=batch)


def test_a_long_value_is_shortened_in_a_message() -> None:
    message = str(InputError(f"begin {'9' * 10**5} end"))
    assert len(message) < 1100 and message.startswith("begin 9") and message.endswith("9 end")
