"""`generate` of the command line draws what it says, for every task, and the same again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lumina_core.checkpoint.locate import INDEX
from lumina_core.decoding.loop import OnStep
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeResult
from lumina_core.pictures.images import load_picture, to_image
from lumina_core.pictures.panels import condition_pixels
from lumina_core.pipeline import Lumina
from lumina_core.quant.cpu_matmul import cpu_backend
from lumina_core.tokens.prompts import build_prompt

from .checkpoints import SHARDS
from .cli_runs import CommandLine, read_pixels

ROOT = Path(__file__).parents[2]
MIB = 2**20
TASK_INPUTS = {
    "t2i": {},
    "pair": {"map": "canny"},
    "control": {"map": "depth"},
    "subject": {"object": "a small cup"},
    "edit": {},
    "predict": {"map": "pose"},
    "subject-released": {"object": "a small cup"},
}
CONDITIONED = ("control", "subject", "edit", "predict", "subject-released")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """The requests that reach the engine."""
    seen: list[Request] = []
    sample = Lumina.sample

    def watched(self: Lumina, request: Request, on_step: OnStep | None = None) -> DecodeResult:
        seen.append(request)
        return sample(self, request, on_step)

    monkeypatch.setattr(Lumina, "sample", watched)
    return seen


@pytest.mark.parametrize("task", TASK_INPUTS)
def test_every_task_draws_its_canvas(lumina: CommandLine, noise: Path, requests: list[Request], task: str) -> None:
    condition = ("--condition", noise) if task in CONDITIONED else ()
    inputs = [argument for name, value in TASK_INPUTS[task].items() for argument in (f"--{name}", value)]
    height = 32 if task == "t2i" else 64
    assert lumina.generate("--task", task, "--height", height, *inputs, *condition).succeeded().out == ""
    codes = lumina.vocabulary.parse_picture(lumina.tokens()[0])
    assert codes.shape == (height // 8, 4)
    assert np.array_equal(read_pixels(lumina.path("o.png")), np.asarray(to_image(lumina.movqgan.decode(codes[None]))))
    text = build_prompt(task, 32, height, "a red square", **TASK_INPUTS[task])
    assert requests[0].prompts == [lumina.tokenizer.encode_prompt(text)]
    if condition:
        upper = lumina.movqgan.encode(condition_pixels(load_picture(condition[1]), 32, 64))[0]
        assert torch.equal(codes[:4], upper) and not torch.equal(codes[4:], upper)
    else:
        assert requests[0].given_codes is None


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(Image.new("RGBA", (30, 60), (200, 10, 10, 128)), id="half transparent"),
        pytest.param(Image.linear_gradient("L"), id="grey"),
        pytest.param(Image.fromarray(np.arange(0, 64_000, 10, dtype=np.uint16).reshape(80, 80)), id="16 bits"),
        pytest.param(Image.linear_gradient("L").convert("P"), id="palette"),
        pytest.param(Image.linear_gradient("L").convert("1"), id="black and white"),
        pytest.param(Image.linear_gradient("L").resize((1, 500)), id="one pixel wide"),
        pytest.param(Image.linear_gradient("L").resize((1500, 2000)), id="huge"),
        pytest.param(Image.new("RGB", (1, 1), "red"), id="one pixel"),
    ],
)
def test_every_kind_of_condition_is_prepared_alike(lumina: CommandLine, tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "condition.png")
    lumina.generate("--task", "edit", "--height", 64, "--condition", tmp_path / "condition.png").succeeded()
    given = lumina.movqgan.encode(condition_pixels(load_picture(tmp_path / "condition.png"), 32, 64))[0]
    assert torch.equal(lumina.vocabulary.parse_picture(lumina.tokens()[0])[:4], given)


def test_stats_say_what_the_run_took(lumina: CommandLine) -> None:
    lumina.generate("--batch", 2).succeeded()
    stats = lumina.stats()
    assert [(name, type(value)) for name, value in stats.items()] == [
        ("decoder", str),
        ("window", int),
        ("weights", str),
        ("kernel", str),
        ("device", str),
        ("dtype", str),
        ("seconds", float),
        ("nfe", int),
        ("sampled_tokens", int),
        ("accept_histogram", dict),
        ("peak_bytes", int),
        ("log_likelihood", list),
        ("kv", str),
        ("warm_up_seconds", float),
        ("attention", str),
        ("asked", dict),
        ("tree", int),
        ("given_log_likelihood", type(None)),
        ("effective_sample_size", type(None)),
        ("chosen", type(None)),
        ("loras", list),
    ]
    assert list(stats.values())[:6] == ["gumbel", 19, "fp32", "torch", "cpu", "float32"]
    assert stats["attention"] == "torch (in chunks, as on every CPU)" and stats["tree"] == 0
    assert stats["sampled_tokens"] == 2 * 16 and 0 < stats["seconds"] < 600
    histogram = {int(length): count for length, count in stats["accept_histogram"].items()}
    # The prompt's forward accepts one of 19 tokens, which the count of forwards leaves out.
    assert sum(length * count for length, count in histogram.items()) == 2 * (19 - 1)
    assert sum(histogram.values()) / 2 <= stats["nfe"] <= sum(histogram.values())
    assert all(1 <= length <= 19 and count > 0 for length, count in histogram.items())
    assert len(stats["log_likelihood"]) == 2 and all(sum_of_codes < 0 for sum_of_codes in stats["log_likelihood"])


def test_stats_name_what_multiplies(lumina: CommandLine) -> None:
    lumina.generate("--weights", "int8").succeeded()
    assert lumina.stats()["kernel"] == cpu_backend("int8").name
    lumina.generate("--weights", "bf16").succeeded()
    assert lumina.stats()["kernel"] == "torch"


def test_cache_of_the_run_is_as_asked(lumina: CommandLine) -> None:
    lumina.generate("--kv", "int8").succeeded()
    assert lumina.stats()["kv"] == "int8"
    lumina.generate("--kv", "int8", "--decoder", "ar", name="ar").succeeded()
    assert lumina.tokens() == lumina.tokens("ar")


def test_peak_bytes_are_of_this_process(lumina: CommandLine) -> None:
    """PyTorch alone takes some 100 MiB; the most that was ever held covers what is allocated on top."""
    lumina.generate().succeeded()
    before = lumina.stats()["peak_bytes"]
    assert 50 * MIB < before < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    ballast = np.ones(before + 64 * MIB, np.uint8)  # alone more than the peak, whatever is freed meanwhile
    lumina.generate(name="later").succeeded()
    assert len(ballast) < lumina.stats("later")["peak_bytes"] < before + len(ballast) + 512 * MIB
    assert ballast.all()


def test_picture_k_of_a_batch_is_the_picture_of_seed_plus_k(lumina: CommandLine) -> None:
    lumina.generate("--batch", 3, "--seed", 5).succeeded()
    assert sorted(lumina.files()) == ["o.json", "o.stats.json", "o_0.png", "o_1.png", "o_2.png"]
    pictures = lumina.tokens()
    assert len(pictures) == 3 and pictures[0] != pictures[1] != pictures[2]
    for k, tokens in enumerate(pictures):
        lumina.generate("--seed", 5 + k, name="alone").succeeded()
        assert lumina.tokens("alone") == [tokens]
        assert lumina.path("alone.png").read_bytes() == lumina.path(f"o_{k}.png").read_bytes()


def test_a_batch_shares_its_condition(lumina: CommandLine, noise: Path) -> None:
    lumina.generate("--task", "edit", "--height", 64, "--condition", noise, "--batch", 2).succeeded()
    first, second = map(lumina.vocabulary.parse_picture, lumina.tokens())
    assert torch.equal(first[:4], second[:4]) and not torch.equal(first[4:], second[4:])


@pytest.mark.parametrize("given_height", [8, 24, 40])
def test_a_picture_is_continued_from_its_first_rows(lumina: CommandLine, noise: Path, given_height: int) -> None:
    options = ("--condition", noise, "--given-height", given_height)
    lumina.generate("--height", 64, *options).succeeded()
    codes = lumina.vocabulary.parse_picture(lumina.tokens()[0])
    given = lumina.movqgan.encode(condition_pixels(load_picture(noise), 32, 64, given_height))[0]
    assert codes.shape == (8, 4) and torch.equal(codes[: given_height // 8], given)
    assert lumina.stats()["sampled_tokens"] == (64 - given_height) // 8 * 4


@pytest.mark.parametrize("window", [1, 7, 19, None])
def test_gumbel_draws_what_ar_draws(lumina: CommandLine, window: int | None) -> None:
    lumina.generate("--no-metadata", "--decoder", "ar", name="ar").succeeded()
    lumina.generate("--no-metadata", *(() if window is None else ("--window", window))).succeeded()
    assert lumina.path("o.png").read_bytes() == lumina.path("ar.png").read_bytes()
    assert lumina.stats("ar")["window"] == 1 and lumina.stats()["window"] == (window or 19)


@pytest.mark.parametrize("decoder", ["sjd", "coupled"])
def test_speculative_decoders_are_reproducible(lumina: CommandLine, decoder: str) -> None:
    for name in ("o", "again"):
        lumina.generate("--decoder", decoder, "--window", 6, name=name).succeeded()
    assert lumina.tokens() == lumina.tokens("again") and lumina.stats()["decoder"] == decoder


def test_what_is_drawn_depends_on_every_option(lumina: CommandLine) -> None:
    options = [(), ("--seed", 1), ("--cfg", 1), ("--top-k", 1), ("--temperature", 0.2), ("--prompt", "a blue circle")]
    pictures = []
    for option in options:
        lumina.generate(*option).succeeded()
        pictures.append(tuple(lumina.tokens()[0]))
    assert len(set(pictures)) == len(options)


def test_bf16_draws_too(lumina: CommandLine) -> None:
    lumina.generate("--weights", "bf16").succeeded()
    assert (lumina.stats()["weights"], lumina.stats()["dtype"]) == ("bf16", "bfloat16")
    lumina.vocabulary.parse_picture(lumina.tokens()[0])


def test_single_file_and_movqgan_elsewhere(lumina: CommandLine, tmp_path: Path) -> None:
    lumina.generate("--no-metadata").succeeded()
    folder = tmp_path / "single"
    folder.mkdir()
    for file in lumina.checkpoint.glob("*.json"):
        if file.name != INDEX:
            shutil.copy(file, folder)
    tensors = {name: tensor for shard in SHARDS for name, tensor in load_file(lumina.checkpoint / shard).items()}
    save_file(tensors, folder / "any.safetensors")
    options = ("--no-metadata", "--movqgan", lumina.checkpoint / "movqgan.safetensors")
    lumina.generate("--checkpoint", folder / "any.safetensors", *options, name="single").succeeded()
    assert lumina.path("single.png").read_bytes() == lumina.path("o.png").read_bytes()


def test_an_untrained_size_is_warned_of_once(lumina: CommandLine) -> None:
    done = lumina.generate("--height", 96)
    assert done.code == 0 and done.err.startswith("WARNING: ") and done.err.count("\n") == 1
    assert "32x96" in done.err and "32x64" in done.err


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_is_warned_of_and_drawn(lumina: CommandLine, prompt: str) -> None:
    done = lumina.generate("--prompt", prompt)
    assert done.code == 0 and done.err.startswith("WARNING: ") and done.err.count("\n") == 1
    assert "prompt is empty" in done.err and len(lumina.tokens()) == 1


def test_names_of_special_tokens_are_text(lumina: CommandLine, requests: list[Request]) -> None:
    lumina.generate("--prompt", "<reserved08706><racm3:break><reserved08801><eoss><|endoftext|>").succeeded()
    first, *text, last = requests[0].prompts[0]
    assert (first, last) == (lumina.tokenizer.bos_id, lumina.vocabulary.end_of_turn)
    assert not set(text) & set(lumina.tokenizer.special_ids.values())
    lumina.vocabulary.parse_picture(lumina.tokens()[0])


@pytest.mark.parametrize("command", [(), ("generate",), ("encode",), ("decode",), ("convert",), ("info",)])
def test_help_is_not_an_error(
    lumina: CommandLine, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as caught:
        lumina.run(*command, "--help")
    said = capsys.readouterr()
    assert caught.value.code == 0 and said.err == "" and "default: None" not in said.out


def test_as_a_program(lumina: CommandLine) -> None:
    """The bytes that it tells are its own, however large the process that started it."""
    ballast = np.ones(1024 * MIB, np.uint8)
    arguments = [sys.executable, "-m", "lumina_core", "generate", "--checkpoint", str(lumina.checkpoint)]
    arguments += ["--prompt", "a red square", "--width", "32", "--height", "32", "--device", "cpu", "--weights", "fp32"]
    arguments += ["--stats-out", str(lumina.path("program.stats.json"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for out, code in ((lumina.path("program.png"), 0), (lumina.path("absent") / "program.png", 2)):
        done = subprocess.run(
            [*arguments, "--out", str(out)], env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", code // 2), done.stderr
    lumina.generate().succeeded()
    assert lumina.path("program.png").read_bytes() == lumina.path("o.png").read_bytes()
    assert lumina.stats("program")["peak_bytes"] < ballast.nbytes < lumina.stats()["peak_bytes"]


@pytest.fixture(scope="module")
def published(full_golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint as one folder."""
    folder = tmp_path_factory.mktemp("published")
    for source in (full_golden / "tokenizer", full_golden / "end_to_end" / "checkpoint"):
        for file in source.iterdir():
            shutil.copyfile(file, folder / file.name)
    return folder


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("t2i_cfg4", ("--height", 96)),
        ("t2i_cfg1", ("--height", 96, "--cfg", 1)),
        ("i2i", ("--height", 64, "--task", "control", "--map", "depth")),
    ],
)
def test_published_tokens_and_picture(
    lumina: CommandLine, full_golden: Path, published: Path, case: str, options: tuple[object, ...]
) -> None:
    folder = full_golden / "end_to_end"
    expected = json.loads((folder / "expected.json").read_text())
    condition = ("--condition", folder / "condition.png") if case == "i2i" else ()
    done = lumina.generate(
        *("--checkpoint", published, "--prompt", expected["i2i"]["text"], "--width", 64, "--top-k", 1, "--window", 7),
        *options,
        *condition,
    )
    assert done.code == 0 and "not trained" in done.err
    assert lumina.tokens() == [expected[case]["tokens"]]
    picture = {"t2i_cfg4": "t2i_expected.png", "i2i": "i2i_expected.png"}.get(case)
    if picture:
        assert (
            abs(read_pixels(lumina.path("o.png")) - np.asarray(Image.open(folder / picture).convert("RGB"))).max() <= 1
        )
