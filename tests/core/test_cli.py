"""Every command of `python -m lumina_core` does what it says, for every task; runs through it are reproducible."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lumina_core.checkpoint import INDEX
from lumina_core.cli import generate as generate_command
from lumina_core.config import TransformerConfig
from lumina_core.movqgan import MoVQGAN, load_movqgan
from lumina_core.panels import center_crop, condition_pixels, load_picture, to_image, to_pixels
from lumina_core.pipeline import Request
from lumina_core.prompts import build_prompt
from lumina_core.tokenizer import Tokenizer, load_tokenizer
from lumina_core.vocabulary import Vocabulary, picture_length

from .checkpoints import SHARDS
from .cli_runs import CommandLine

ROOT = Path(__file__).parents[2]
MIB = 2**20
TASK_INPUTS = {
    "t2i": {},
    "pair": {"map": "canny"},
    "control": {"map": "depth"},
    "subject": {"object": "a small cup"},
    "edit": {},
    "predict": {"map": "pose"},
}
CONDITIONED = ("control", "subject", "edit", "predict")


@pytest.fixture(scope="module")
def movqgan(checkpoint: Path) -> MoVQGAN:
    return load_movqgan(checkpoint / "movqgan.safetensors")


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return load_tokenizer(checkpoint)


@pytest.fixture(scope="module")
def vocabulary(checkpoint: Path, tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary.of(tokenizer, TransformerConfig.from_file(checkpoint / "config.json"))


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """The requests that reach the engine."""
    seen: list[Request] = []
    draw = generate_command.draw

    def watched(transformer: Any, vocabulary: Any, request: Request, **callbacks: Any) -> Any:
        seen.append(request)
        return draw(transformer, vocabulary, request, **callbacks)

    monkeypatch.setattr(generate_command, "draw", watched)
    return seen


def noise(folder: Path, size: tuple[int, int] = (40, 50)) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path = folder / "noise.png"
    Image.fromarray(values).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture).astype(int)


@pytest.mark.parametrize("task", TASK_INPUTS)
def test_every_task_draws_its_canvas(
    lumina: CommandLine,
    tmp_path: Path,
    movqgan: MoVQGAN,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    requests: list[Request],
    task: str,
) -> None:
    condition = ("--condition", noise(tmp_path)) if task in CONDITIONED else ()
    inputs = [argument for name, value in TASK_INPUTS[task].items() for argument in (f"--{name}", value)]
    height = 32 if task == "t2i" else 64
    assert lumina.generate("--task", task, "--height", height, *inputs, *condition).succeeded().out == ""
    codes = vocabulary.parse_picture(lumina.tokens()[0])
    assert codes.shape == (height // 8, 4)
    assert np.array_equal(pixels(lumina.path("o.png")), np.asarray(to_image(movqgan.decode(codes[None]))))
    text = build_prompt(task, 32, height, "a red square", **TASK_INPUTS[task])
    assert requests[0].prompts == [tokenizer.encode_prompt(text)]
    if condition:
        upper = movqgan.encode(condition_pixels(load_picture(condition[1]), 32, 64))[0]
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
def test_every_kind_of_condition_is_prepared_alike(
    lumina: CommandLine, tmp_path: Path, movqgan: MoVQGAN, vocabulary: Vocabulary, picture: Image.Image
) -> None:
    picture.save(tmp_path / "condition.png")
    lumina.generate("--task", "edit", "--height", 64, "--condition", tmp_path / "condition.png").succeeded()
    given = movqgan.encode(condition_pixels(load_picture(tmp_path / "condition.png"), 32, 64))[0]
    assert torch.equal(vocabulary.parse_picture(lumina.tokens()[0])[:4], given)


def test_stats_say_what_the_run_took(lumina: CommandLine) -> None:
    lumina.generate("--batch", 2).succeeded()
    stats = lumina.stats()
    assert [(name, type(value)) for name, value in stats.items()] == [
        ("decoder", str),
        ("window", int),
        ("weights", str),
        ("device", str),
        ("dtype", str),
        ("seconds", float),
        ("nfe", int),
        ("sampled_tokens", int),
        ("accept_histogram", dict),
        ("peak_bytes", int),
    ]
    assert list(stats.values())[:5] == ["gumbel", 19, "fp32", "cpu", "float32"]
    assert stats["sampled_tokens"] == 2 * 16 and 0 < stats["seconds"] < 600
    histogram = {int(length): count for length, count in stats["accept_histogram"].items()}
    # The prompt's forward settles one of 19 tokens, which the count of forwards leaves out.
    assert sum(length * count for length, count in histogram.items()) == 2 * (19 - 1)
    assert sum(histogram.values()) / 2 <= stats["nfe"] <= sum(histogram.values())
    assert all(1 <= length <= 19 and count > 0 for length, count in histogram.items())


def test_peak_bytes_are_of_this_process(lumina: CommandLine) -> None:
    """PyTorch alone takes some 100 MiB; the most that was ever held covers what is allocated on top."""
    lumina.generate().succeeded()
    before = lumina.stats()["peak_bytes"]
    assert 50 * MIB < before < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    ballast = np.ones(max(0, before - current_bytes()) + 64 * MIB, np.uint8)
    lumina.generate(name="later").succeeded()
    assert before + 32 * MIB < lumina.stats("later")["peak_bytes"] < before + 512 * MIB
    assert ballast.all()


def current_bytes() -> int:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("reading what a process holds now needs /proc")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_picture_k_of_a_batch_is_the_picture_of_seed_plus_k(lumina: CommandLine) -> None:
    lumina.generate("--batch", 3, "--seed", 5).succeeded()
    assert sorted(lumina.files()) == ["o.json", "o.stats.json", "o_0.png", "o_1.png", "o_2.png"]
    pictures = lumina.tokens()
    assert len(pictures) == 3 and pictures[0] != pictures[1] != pictures[2]
    for k, tokens in enumerate(pictures):
        lumina.generate("--seed", 5 + k, name="alone").succeeded()
        assert lumina.tokens("alone") == [tokens]
        assert lumina.path("alone.png").read_bytes() == lumina.path(f"o_{k}.png").read_bytes()


def test_a_batch_shares_its_condition(lumina: CommandLine, tmp_path: Path, vocabulary: Vocabulary) -> None:
    lumina.generate("--task", "edit", "--height", 64, "--condition", noise(tmp_path), "--batch", 2).succeeded()
    first, second = map(vocabulary.parse_picture, lumina.tokens())
    assert torch.equal(first[:4], second[:4]) and not torch.equal(first[4:], second[4:])


@pytest.mark.parametrize("window", [1, 7, 19, None])
def test_gumbel_draws_what_ar_draws(lumina: CommandLine, window: int | None) -> None:
    lumina.generate("--decoder", "ar", name="ar").succeeded()
    lumina.generate(*(() if window is None else ("--window", window))).succeeded()
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


def test_bf16_draws_too(lumina: CommandLine, vocabulary: Vocabulary) -> None:
    lumina.generate("--weights", "bf16").succeeded()
    assert (lumina.stats()["weights"], lumina.stats()["dtype"]) == ("bf16", "bfloat16")
    vocabulary.parse_picture(lumina.tokens()[0])


def test_single_file_and_movqgan_elsewhere(lumina: CommandLine, tmp_path: Path) -> None:
    lumina.generate().succeeded()
    folder = tmp_path / "single"
    folder.mkdir()
    for file in lumina.checkpoint.glob("*.json"):
        if file.name != INDEX:
            shutil.copy(file, folder)
    tensors = {name: tensor for shard in SHARDS for name, tensor in load_file(lumina.checkpoint / shard).items()}
    save_file(tensors, folder / "any.safetensors")
    codec = ("--movqgan", lumina.checkpoint / "movqgan.safetensors")
    lumina.generate("--checkpoint", folder / "any.safetensors", *codec, name="single").succeeded()
    assert lumina.path("single.png").read_bytes() == lumina.path("o.png").read_bytes()


def test_untrained_size_is_told_once(lumina: CommandLine) -> None:
    done = lumina.generate("--height", 96)
    assert done.code == 0 and done.err.startswith("WARNING: ") and done.err.count("\n") == 1
    assert "32x96" in done.err and "32x64" in done.err


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_empty_prompt_is_told_and_drawn(lumina: CommandLine, prompt: str) -> None:
    done = lumina.generate("--prompt", prompt)
    assert done.code == 0 and done.err.startswith("WARNING: ") and done.err.count("\n") == 1
    assert "prompt is empty" in done.err and len(lumina.tokens()) == 1


def test_names_of_special_tokens_are_text(
    lumina: CommandLine, requests: list[Request], tokenizer: Tokenizer, vocabulary: Vocabulary
) -> None:
    lumina.generate("--prompt", "<reserved08706><racm3:break><reserved08801><eoss><|endoftext|>").succeeded()
    first, *text, last = requests[0].prompts[0]
    assert (first, last) == (tokenizer.bos_id, vocabulary.end_of_turn)
    assert not set(text) & set(tokenizer.special_ids.values())
    vocabulary.parse_picture(lumina.tokens()[0])


def test_decode_gives_the_picture_that_generate_gave(lumina: CommandLine) -> None:
    lumina.generate("--batch", 2).succeeded()
    assert lumina.run(*decode(lumina, "o.json", "again.png")).succeeded().out == ""
    for k in range(2):
        assert lumina.path(f"again_{k}.png").read_bytes() == lumina.path(f"o_{k}.png").read_bytes()


@pytest.mark.parametrize(
    ("suffix", "name"),
    [(".PNG", "PNG"), (".jpg", "JPEG"), (".jpeg", "JPEG"), (".webp", "WEBP"), (".bmp", "BMP"), (".tif", "TIFF")],
)
def test_decode_writes_the_format_of_the_suffix(lumina: CommandLine, suffix: str, name: str) -> None:
    lumina.generate().succeeded()
    lumina.run(*decode(lumina, "o.json", f"again{suffix}")).succeeded()
    difference = abs(pixels(lumina.path(f"again{suffix}")) - pixels(lumina.path("o.png")))
    with Image.open(lumina.path(f"again{suffix}")) as picture:
        assert picture.format == name and picture.size == (32, 32)
    assert difference.mean() < (12 if name in ("JPEG", "WEBP") else 1e-9)


def test_encode_then_decode_is_what_movqgan_makes_of_the_picture(
    lumina: CommandLine, tmp_path: Path, movqgan: MoVQGAN, vocabulary: Vocabulary
) -> None:
    picture = noise(tmp_path, (70, 45))
    assert lumina.run(*encode(lumina, picture, "t.json")).succeeded().out == ""
    codes = movqgan.encode(to_pixels(center_crop(load_picture(picture), (64, 32))))
    assert lumina.tokens("t") == [vocabulary.picture_tokens(codes[0])]
    lumina.run(*decode(lumina, "t.json", "t.png")).succeeded()
    assert np.array_equal(pixels(lumina.path("t.png")), np.asarray(to_image(movqgan.decode(codes))))


def test_encode_crops_to_the_size_asked_for(
    lumina: CommandLine, tmp_path: Path, movqgan: MoVQGAN, vocabulary: Vocabulary
) -> None:
    picture = noise(tmp_path, (70, 45))
    lumina.run(*encode(lumina, picture, "t.json"), "--width", 32, "--height", 96).succeeded()
    codes = movqgan.encode(to_pixels(center_crop(load_picture(picture), (32, 96))))
    assert lumina.tokens("t") == [vocabulary.picture_tokens(codes[0])]


def test_a_picture_smaller_than_a_grid_unit_grows_to_one(lumina: CommandLine, tmp_path: Path) -> None:
    lumina.run(*encode(lumina, noise(tmp_path, (5, 9)), "t.json")).succeeded()
    assert [len(tokens) for tokens in lumina.tokens("t")] == [picture_length(4, 4)]


def encode(lumina: CommandLine, picture: Path, out: str) -> tuple[object, ...]:
    return ("encode", picture, "--checkpoint", lumina.checkpoint, "--tokens-out", lumina.path(out))


def decode(lumina: CommandLine, tokens: str, out: str) -> tuple[object, ...]:
    return ("decode", lumina.path(tokens), "--checkpoint", lumina.checkpoint, "--out", lumina.path(out))


def test_info_describes_the_checkpoint(lumina: CommandLine) -> None:
    values = json.loads(lumina.run("info", "--checkpoint", lumina.checkpoint, "--json").succeeded().out)
    assert values["checkpoint"] == str(lumina.checkpoint) and values["weight_files"] == 2
    assert values["parameters"] == 448 * 32 * 2 + 2 * (4 * 32 * 32 + 3 * 32 * 64 + 4 * 16 + 2 * 32) + 32
    assert (values["image_codes"], values["first_image_code"]) == (64, 384)
    assert values["picture"] == "32x32, batch 1" and values["run_bytes"] > 0


def test_info_is_read_by_people_too(lumina: CommandLine) -> None:
    lines = lumina.run("info", "--checkpoint", lumina.checkpoint).succeeded().out.splitlines()
    assert len(lines) >= 15 and any(line.startswith("run bytes") and line.endswith(" MiB") for line in lines)


def test_info_of_a_larger_run_tells_more_bytes(lumina: CommandLine) -> None:
    def run_bytes(*options: object) -> int:
        arguments = ("info", "--checkpoint", lumina.checkpoint, "--json", "--weights", "fp32", *options)
        return json.loads(lumina.run(*arguments).succeeded().out)["run_bytes"]

    small, *larger = (
        run_bytes(*options) for options in ((), ("--batch", 2), ("--height", 64), ("--width", 64, "--height", 64))
    )
    assert all(small < other for other in larger)
    assert run_bytes("--weights", "bf16") < small


def test_outputs_replace_files_of_their_names_and_leave_nothing_else(lumina: CommandLine) -> None:
    for name in ("o.png", "o.json", "o.stats.json"):
        lumina.path(name).write_text("old")
    lumina.generate().succeeded()
    assert sorted(lumina.files()) == ["o.json", "o.png", "o.stats.json"]
    assert b"old" not in lumina.files().values()
    umask = os.umask(0)
    os.umask(umask)
    if os.name == "posix":
        assert {path.stat().st_mode & 0o777 for path in lumina.folder.iterdir()} == {0o666 & ~umask}


def test_output_through_a_link_is_written_to_its_file(lumina: CommandLine, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere.json"
    try:
        lumina.path("o.json").symlink_to(place)
    except OSError:
        pytest.skip("links cannot be made here")
    lumina.generate().succeeded()
    assert lumina.path("o.json").is_symlink() and json.loads(place.read_text())["tokens"]


@pytest.mark.parametrize("command", [(), ("generate",), ("encode",), ("decode",), ("info",)])
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
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
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
        assert abs(pixels(lumina.path("o.png")) - np.asarray(Image.open(folder / picture).convert("RGB"))).max() <= 1
