"""Training of LoRAs: gradients, the loss, runs that are stopped and resumed, the file, and bad input."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.cli.signals import Signals
from lumina_core.lora.file import read_lora
from lumina_core.model.load import load_transformer
from lumina_core.pictures.sizes import HEADER_LENGTH
from lumina_core.pipeline import Lumina
from lumina_core.quant import linear as quantised
from lumina_core.quant.linear import PLAIN, QuantizedLinear
from lumina_core.quant.schemes import SCHEMES
from lumina_core.quant.select import choose_backend
from lumina_core.quant.weights import plan_weights
from lumina_core.timing.synthetic import SYNTHETIC
from training.lora import run as training_run
from training.lora.__main__ import main, make_parser
from training.lora.budget import block_values, dry_run, lora_parameters
from training.lora.data import TrainingData
from training.lora.files import lora_metadata, read_state, state_path, write_lora, write_state
from training.lora.layers import TARGETS, FrozenMatmul, attach
from training.lora.train import Settings, Trainer, place, rate_share

from .checkpoints import CONFIG

SIDE, GRID = 32, 4
SETTINGS = Settings(steps=6, rate=1e-2, batch=2)
EXIT_OF_CTRL_C = 130


def make_trainer(
    checkpoint: Path,
    settings: Settings = SETTINGS,
    kept: bool = False,
    weights: str = "fp32",
    targets: Sequence[str] = TARGETS,
) -> Trainer:
    """A trainer on five pictures of random codes."""
    opened = open_checkpoint(checkpoint)
    transformer = load_transformer(opened, dtype=torch.float32, weights=weights)
    lora = attach(transformer, 4, 8.0, targets, seed=0)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(CONFIG["image_codebook_size"], (5, GRID, GRID), generator=generator)
    prompts = [opened.tokenizer.encode_prompt(f"picture {number}" * (number + 1)) for number in range(5)]
    data = TrainingData(prompts, codes)
    return Trainer(transformer, opened.vocabulary, lora, data, settings, data if kept else None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three captioned pictures, none of them of the canvas's size."""
    made = tmp_path / "pictures"
    made.mkdir()
    for number, name in enumerate(("a.png", "b.jpg", "c.webp")):
        Image.effect_noise((50 + number, 40), 90).convert("RGB").save(made / name)
        (made / name).with_suffix(".txt").write_text(f"the picture {number}\n", encoding="utf-8")
    return made


def command(checkpoint: Path, folder: Path, out: Path, *more: str) -> list[str]:
    named = ["--checkpoint", str(checkpoint), "--device", "cpu", "--data", str(folder), "--out", str(out)]
    sizes = ["--width", str(SIDE), "--height", str(SIDE)]
    return [*named, *sizes, "--steps", "6", "--batch", "2", "--lr", "1e-2", "--rank", "2", *more]


@pytest.mark.parametrize("scheme", ["int4", "int8", "fp8"])
@pytest.mark.parametrize("repacked", [False, True])
def test_gradient_through_quantised_weights_is_that_of_the_dequantised(
    scheme: str, repacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantised, "PLAIN_ELEMENTS", 256 * 40)  # so that several parts are dequantised
    weight = torch.randn(128, 256, generator=torch.Generator().manual_seed(0))
    packed = SCHEMES[scheme].quantize(weight)
    backend = choose_backend(SCHEMES[scheme], torch.float32, "cpu", [(256, 128)]) if repacked else PLAIN
    layer = QuantizedLinear(SCHEMES[scheme], backend, 256, 128)
    layer.load_state_dict(packed)
    layer.repack()
    x = torch.randn(3, 5, 256, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    grad = torch.randn(3, 5, 128, generator=torch.Generator().manual_seed(2))
    FrozenMatmul.apply(x, layer).backward(grad)
    expected = grad @ SCHEMES[scheme].dequantize(packed, 256)
    torch.testing.assert_close(x.grad, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("weights", ["fp32", "int8", "int4"])
def test_nothing_changes_before_the_first_step(checkpoint: Path, weights: str) -> None:
    plain = load_transformer(checkpoint, dtype=torch.float32, weights=weights)
    ids = torch.arange(12)[None] + 384
    with torch.no_grad():
        before = plain(ids)
        attach(plain, 4, 8.0, TARGETS, seed=0)
        assert torch.equal(plain(ids), before)


@pytest.mark.parametrize("weights", ["fp32", "int8", "int4"])
def test_loss_falls_and_frozen_weights_stay(checkpoint: Path, weights: str) -> None:
    trainer = make_trainer(checkpoint, replace(SETTINGS, steps=12, batch=5), weights=weights)
    frozen = {name: value.clone() for name, value in trainer.transformer.named_parameters() if ".base." in name}
    losses = [trainer.step().pictures for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(value, trainer.transformer.get_parameter(name)) for name, value in frozen.items())


def test_recomputed_activations_give_the_same_gradients(checkpoint: Path) -> None:
    def after_a_step(checkpointing: bool) -> list[torch.Tensor]:
        trainer = make_trainer(checkpoint, replace(SETTINGS, checkpointing=checkpointing))
        trainer.step()
        return list(trainer.parameters.values())

    assert all(map(torch.equal, after_a_step(True), after_a_step(False)))


def test_accumulated_batches_train_like_one_large_batch(checkpoint: Path) -> None:
    def after_a_step(**changes: int) -> list[torch.Tensor]:
        trainer = make_trainer(checkpoint, replace(SETTINGS, without_text=0.0, **changes))
        trainer.step()
        return [value for key, value in trainer.parameters.items() if "lora_B" in key]

    whole, parts = after_a_step(batch=4), after_a_step(batch=2, accumulate=2)
    # Adam's first step is the rate times the sign of the gradient.
    assert all(torch.allclose(one, other, atol=1e-3) for one, other in zip(whole, parts, strict=True))


def test_some_pictures_are_trained_without_their_prompt_from_the_image_start_on(checkpoint: Path) -> None:
    trainer = make_trainer(checkpoint, replace(SETTINGS, without_text=0.3))
    start, without = trainer.vocabulary.image_start, 0
    for first in range(0, 1000, 5):
        batch = trainer.batch(trainer.data, range(5), trainer._without_text(range(5), first, 0))
        for ids, positions, text in zip(batch.input_ids, batch.positions, trainer.data.prompts, strict=True):
            begin = int(positions[0]) - (HEADER_LENGTH - 1)
            assert ids[begin] == start
            assert begin in (0, len(text))
            without += begin == 0
    assert abs(without / 1000 - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 1000)


def test_loss_of_a_task_with_a_given_picture_is_over_the_lower_panel(checkpoint: Path) -> None:
    trainer = make_trainer(checkpoint, replace(SETTINGS, lower_only=True, without_text=0.0))
    batch = trainer.batch(trainer.data, [3], [False])
    assert torch.equal(batch.codes[0], trainer.data.codes[3, GRID // 2 :].flatten())
    predicted = batch.input_ids[0, batch.positions[0] + 1] - trainer.vocabulary.image_token_offset
    assert torch.equal(predicted, batch.codes[0])


def test_pictures_to_keep_do_not_diverge_at_first_and_hold_the_model(checkpoint: Path) -> None:
    losses = [make_trainer(checkpoint, replace(SETTINGS, steps=12, keep_weight=weight), True) for weight in (1e-6, 100)]
    ends = []
    for trainer in losses:
        first, *_, last = [trainer.step() for _ in range(12)]
        assert first.kept == pytest.approx(0, abs=1e-6)
        ends.append(last.kept)
    assert ends[1] < 0.1 * ends[0]


def test_every_picture_comes_once_in_a_pass() -> None:
    passes = [[place(7, 0, 5, number) for number in range(5 * k, 5 * k + 5)] for k in range(4)]
    assert all(sorted(one) == list(range(5)) for one in passes)
    assert len(set(map(tuple, passes))) > 1


def test_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    shares = [rate_share(step, 200) for step in range(200)]
    assert max(shares) == shares[10] == 1
    assert shares[0] == 0.1
    assert shares[-1] < 1e-3


def test_command_writes_a_lora_that_the_reader_takes(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "word.safetensors"
    assert main(command(checkpoint, folder, out, "--sample-prompt", "the picture 1", "--sample-every", "3")) == 0
    samples = [f"word_step{step:06d}.png" for step in (3, 6)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["pictures", "word.safetensors", *samples])
    with safe_open(out, "pt") as file:
        metadata, shapes = file.metadata(), {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    assert (metadata["r"], metadata["lora_alpha"], metadata["format"]) == ("2", "16", "pt")
    assert json.loads(metadata["target_modules"]) == list(TARGETS)
    assert json.loads(metadata["base"])["hidden_size"] == 32
    assert shapes["base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight"] == [32, 2]
    assert shapes["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"] == [2, 32]
    config = open_checkpoint(checkpoint).config
    assert len(shapes) == 2 * 7 * config.num_hidden_layers
    assert len(read_lora(out, config).matrices) == 7 * config.num_hidden_layers


@pytest.mark.parametrize("targets", [TARGETS, ("k_proj", "up_proj", "down_proj")])
def test_trained_layers_compute_what_their_file_says(
    checkpoint: Path, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    trainer, out = make_trainer(checkpoint, targets=targets), tmp_path / "some.safetensors"
    for _ in range(3):
        trainer.step()
    config = trainer.transformer.config
    write_lora(out, trainer.lora, lora_metadata(config, 4, 8.0, targets))
    trainer.lora.read({key: value.half().float() for key, value in trainer.parameters.items()})
    ids = torch.arange(20)[None] + 384
    lumina = Lumina.load(checkpoint, device="cpu", dtype=torch.float32).with_loras(out)
    worn = lumina.runs.wear(lumina.transformer, lumina.loras)
    torch.testing.assert_close(worn(ids), trainer.transformer(ids), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(worn(ids), lumina.transformer(ids), atol=1e-2)


def stop_after(steps: int, signals: Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets Ctrl-C come in a step."""
    step = Trainer.step

    def stopped(trainer: Trainer) -> object:
        losses = step(trainer)
        if trainer.done == steps:
            signals._on_signal(2, None)
        return losses

    monkeypatch.setattr(Trainer, "step", stopped)


def test_resumed_run_equals_one_that_was_not_stopped(
    checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "keep.txt"
    prompts.write_text("a red square\n", encoding="utf-8")
    whole, out, keep = tmp_path / "whole.safetensors", tmp_path / "out.safetensors", ["--keep", str(prompts)]
    assert main(command(checkpoint, folder, whole, *keep)) == 0
    signals = Signals()
    with monkeypatch.context() as patch:
        stop_after(3, signals, patch)
        assert main(command(checkpoint, folder, out, *keep), signals) == EXIT_OF_CTRL_C
    assert "stopped after step 3 of 6" in capsys.readouterr().err
    assert not out.exists()
    assert state_path(out).exists()
    assert main(command(checkpoint, folder, out, *keep, "--resume")) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert not state_path(out).exists()


def test_files_that_cannot_be_finished_leave_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(checkpoint)
    trainer.step()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Exception, match="No space left"):
        write_state(tmp_path / "state.training", trainer.state({}))
    with pytest.raises(Exception, match="No space left"):
        write_lora(tmp_path / "lora.safetensors", trainer.lora, {})
    assert list(tmp_path.iterdir()) == []


def test_state_holds_everything_that_decides_the_next_steps(checkpoint: Path, tmp_path: Path) -> None:
    first, second = make_trainer(checkpoint), make_trainer(checkpoint)
    for _ in range(2):
        first.step()
    write_state(tmp_path / "a.training", first.state({"--rank": 4}))
    state = read_state(tmp_path / "a.training")
    assert (state.step, state.settings) == (2, {"--rank": 4})
    second.restore(state)
    assert first.step() == second.step()
    assert all(map(torch.equal, first.parameters.values(), second.parameters.values()))


def change_caption(folder: Path, text: str | None) -> None:
    (folder / "a.txt").unlink() if text is None else (folder / "a.txt").write_text(text, encoding="utf-8")


BAD: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "no folder": (shutil.rmtree, [], "is no folder"),
    "empty folder": (lambda folder: [path.unlink() for path in folder.iterdir()], [], "holds no picture"),
    "no caption": (lambda folder: change_caption(folder, None), [], "1 of 3 pictures in .* no caption: a.png; .*a.txt"),
    "empty caption": (lambda folder: change_caption(folder, " \n"), [], "1 captions in .* are empty: a.txt"),
    "caption not UTF-8": (
        lambda folder: (folder / "b.txt").write_bytes(b"\xff\xfe\x00"),
        [],
        "b.txt is no text in UTF-8",
    ),
    "damaged picture": (lambda folder: (folder / "c.webp").write_bytes(b"RIFF"), [], "c.webp"),
    "foreign checkpoint": (lambda folder: None, ["--checkpoint", __file__], "test_lora_training.py"),
    "size": (lambda folder: None, ["--width", "40"], "40x32; expected positive multiples of 32"),
    "size 0": (lambda folder: None, ["--height", "0"], "expected positive multiples of 32"),
    "suffix": (lambda folder: None, ["--out", "lora.bin"], "the suffix is '.bin'; expected .safetensors"),
    "no place": (lambda folder: None, ["--out", "nowhere/lora.safetensors"], "does not exist"),
    "rank": (lambda folder: None, ["--rank", "0"], "--rank is 0; expected"),
    "rate": (lambda folder: None, ["--lr", "nan"], "--lr is nan; expected a number above 0"),
    "share": (lambda folder: None, ["--without-text", "1"], "--without-text is 1.0; expected a share"),
    "half": (lambda folder: None, ["--weights", "fp16"], "--weights is fp16"),
    "task": (lambda folder: None, ["--task", "control"], "map is missing"),
    "sample": (lambda folder: None, ["--sample-prompt", "x"], "go together"),
    "keep": (lambda folder: None, ["--keep", "nothing.txt"], "cannot read nothing.txt"),
    "no state": (lambda folder: None, ["--resume"], "out.training does not exist"),
    "option": (lambda folder: None, ["--targets", "lm_head"], "invalid choice: 'lm_head'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_before_the_weights_are_read(
    case: str,
    checkpoint: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(training_run, "load_transformer", lambda *_, **__: pytest.fail("the weights are read"))
    damage, more, expected = BAD[case]
    damage(folder)
    code = main(command(checkpoint, folder, tmp_path / "out.safetensors", *more))
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert re.search(expected, line)
    assert [path.name for path in tmp_path.iterdir() if path.name != "pictures"] == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--rank", "3"], r"another --rank \(2\) than now \(3\)"),
        (["--targets", "q_proj"], "--targets"),
        ([], "pictures or captions"),
    ],
)
def test_run_is_not_resumed_with_other_settings(
    change: list[str],
    named: str,
    checkpoint: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, signals = tmp_path / "out.safetensors", Signals()
    with monkeypatch.context() as patch:
        stop_after(1, signals, patch)
        main(command(checkpoint, folder, out), signals)
    kept = state_path(out).read_bytes()
    if not change:
        change_caption(folder, "another picture")
    capsys.readouterr()
    assert main(command(checkpoint, folder, out, "--resume", *change)) == 2
    assert re.search(named, capsys.readouterr().err)
    assert state_path(out).read_bytes() == kept


def test_captions_without_a_picture_are_warned_of(
    checkpoint: Path, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "z.txt").write_text("nothing", encoding="utf-8")
    assert main(command(checkpoint, folder, tmp_path / "out.safetensors", "--steps", "1")) == 0
    assert "1 captions in" in caplog.text
    assert "z.txt" in caplog.text


def test_parameters_are_counted_as_they_are_made(checkpoint: Path) -> None:
    trainer = make_trainer(checkpoint)
    made = sum(parameter.numel() for parameter in trainer.parameters.values())
    assert lora_parameters(trainer.transformer.config, 4) == made


def test_docs_name_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "lora.md").read_text(encoding="utf-8")
    (reference,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    with pytest.raises(SystemExit, match="0"):
        make_parser().parse_args(["--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help", "--synthetic"}
    assert set(re.findall(r"--[a-z-]+", reference)) == options


def test_arithmetic_of_a_block_is_what_autograd_holds() -> None:
    model = SYNTHETIC["2b"].config
    small = replace(model, num_hidden_layers=1, hidden_size=256, intermediate_size=1024, num_attention_heads=4)
    config = replace(small, num_key_value_heads=4, head_dim=64, codebook_size=256)
    taken = dry_run(config, plan_weights("int4", None, torch.bfloat16), 8, (16, 16), torch.device("cpu"))
    assert taken.block_bytes == pytest.approx(2 * block_values(config), rel=0.3)
