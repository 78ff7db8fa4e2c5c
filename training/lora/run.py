"""One training run: input checked, pictures encoded, the model loaded, steps with samples on the way, files written."""

from __future__ import annotations

import argparse
import gc
import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lumina_core.checkpoint.find import Checkpoint, open_checkpoint
from lumina_core.checkpoint.inputs import input_files
from lumina_core.cli.common import loading_bar
from lumina_core.cli.signals import Cancelled, Signals
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.device import choose_device, choose_dtype, explain_out_of_memory, total_bytes
from lumina_core.errors import InputError
from lumina_core.files.output_files import OutputFiles, check_not_inputs, check_outputs
from lumina_core.memory import choose_weights
from lumina_core.model.compile import OFF, set_compile
from lumina_core.model.load import load_transformer
from lumina_core.pictures.sizes import fill_size, size_text
from lumina_core.pipeline import Lumina, load_codec
from lumina_core.quant.weights import WeightsPlan
from lumina_core.timing.amounts import Count
from lumina_core.timing.log_bar import LogBar
from lumina_core.timing.progress import Progress
from lumina_core.tokens.prompts import find_template

from .data import Captioned, Task, TrainingData, encode, read_folder, read_prompts
from .files import (
    KEPT_CODES,
    SUFFIX,
    State,
    check_settings,
    lora_metadata,
    read_state,
    state_path,
    write_lora,
    write_state,
)
from .layers import attach
from .train import Losses, Settings, Trainer

logger = logging.getLogger(__name__)

# Pictures of --keep that are drawn together.
KEPT_AT_ONCE = 16
# Lines of losses in a run.
LINES = 20
# Options that a resumed run may change: they decide no number of it, or others say what they name.
CHANGEABLE = (
    *(
        "checkpoint",
        "data",
        "keep",
        "out",
        "resume",
        "save_every",
        "sample_prompt",
        "sample_every",
        "device",
        "movqgan",
    ),
    "checkpointing",
)


@dataclass(frozen=True)
class Job:
    """A checked run: what it reads and trains on, before anything heavy."""

    options: argparse.Namespace
    checkpoint: Checkpoint
    device: torch.device
    weights: WeightsPlan
    task: Task
    pictures: list[Captioned]
    prompts: list[list[int]]
    keep: list[list[int]]
    sample: list[int] | None
    state: State | None

    @classmethod
    def of(cls, options: argparse.Namespace) -> Job:
        """Checks the options and everything that they name. Raises InputError and CheckpointError."""
        check_options(options)
        pictures = read_folder(options.data)
        keep = [] if options.keep is None else read_prompts(options.keep)
        device, checkpoint = choose_device(options.device), open_checkpoint(options.checkpoint)
        check_not_inputs([options.out, state_path(options.out)], input_files(checkpoint, options.movqgan))
        task = Task(options.task, *_size(options, checkpoint), options.map, options.object)
        prompts = task.prompt_ids(checkpoint, [one.caption for one in pictures])
        kept = task.prompt_ids(checkpoint, keep) if keep else []
        sample = task.prompt_ids(checkpoint, [options.sample_prompt])[0] if options.sample_prompt else None
        state = read_state(state_path(options.out)) if options.resume else None
        weights = _weights(options, checkpoint, device)
        job = cls(options, checkpoint, device, weights, task, pictures, prompts, kept, sample, state)
        if state is not None:
            check_settings(state_path(options.out), state.settings, job.settings)
        return job

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decides the numbers of a run, but for the pictures."""
        chosen = {key: value for key, value in vars(self.options).items() if key not in CHANGEABLE}
        named = {f"--{key.replace('_', '-')}": value for key, value in chosen.items()}
        named |= {"--width": self.task.width, "--height": self.task.height, "--weights": self.weights.name}
        return named | {"prompts of --keep": self.keep}

    @property
    def training(self) -> Settings:
        """The settings of the loop."""
        options = self.options
        return Settings(
            options.steps,
            options.lr,
            options.batch,
            options.accumulate,
            options.seed,
            options.without_text,
            options.keep_weight,
            options.guidance_weight,
            find_template(self.task.name).needs_condition,
            options.checkpointing == "on",
        )


def check_options(options: argparse.Namespace) -> None:
    """Raises InputError for numbers out of range, and for files that cannot be written."""
    least = {"rank": 1, "steps": 1, "batch": 1, "accumulate": 1, "save_every": 1, "sample_every": 1, "seed": 0}
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            raise InputError(f"--{name.replace('_', '-')} is {value}; expected a whole number of at least {smallest}")
    for name in ("lr", "alpha", "keep_weight"):
        if not 0 < getattr(options, name) < float("inf"):
            raise InputError(f"--{name.replace('_', '-')} is {getattr(options, name)}; expected a number above 0")
    if not 0 <= options.guidance_weight < float("inf"):
        raise InputError(f"--guidance-weight is {options.guidance_weight}; expected a number of at least 0")
    if not 0 <= options.without_text < 1:
        raise InputError(f"--without-text is {options.without_text}; expected a share from 0 to below 1")
    if (options.sample_prompt is None) != (options.sample_every is None):
        raise InputError("--sample-prompt and --sample-every go together; expected both or none")
    if options.keep is not None and find_template(options.task).needs_condition:
        raise InputError(f"--keep is for tasks without a given picture, not {options.task}; leave it out")
    if options.out.suffix.lower() != SUFFIX:
        raise InputError(f"cannot write {options.out}: the suffix is {options.out.suffix!r}; expected {SUFFIX}")
    check_outputs([options.out, state_path(options.out)])


def _size(options: argparse.Namespace, checkpoint: Checkpoint) -> tuple[int, int]:
    """The canvas in pixels: sides that are not named are those of the largest size that fits the task."""
    panels = find_template(options.task).panels
    width, height = (options.width or 0), (options.height or 0)
    if options.width == 0 or options.height == 0:
        raise InputError(f"the size is {size_text((width, height))}; expected positive multiples of 32")
    return fill_size(width, height, checkpoint.config.trained_sizes, panels)


def _weights(options: argparse.Namespace, checkpoint: Checkpoint, device: torch.device) -> WeightsPlan:
    """The plan of the weights, whose computation is never in float16: its gradients would vanish."""
    dtype = choose_dtype(device)
    dtype = torch.float32 if dtype == torch.float16 else dtype
    plan = choose_weights(options.weights, checkpoint.scheme, dtype, checkpoint.config, total_bytes(device))
    if plan.dtype == torch.float16:
        raise InputError("--weights is fp16, whose gradients vanish; expected bf16, fp32, int8 or int4")
    return plan


def run(options: argparse.Namespace, signals: Signals) -> None:
    """Trains a LoRA as the options say, and writes it."""
    job = Job.of(options)
    lumina, data = _load(job)
    lora = attach(lumina.transformer, options.rank, options.alpha, options.targets, options.seed)
    kept = _kept(job, lumina)
    trainer = Trainer(lumina.transformer, lumina.vocabulary, lora, data, job.training, kept)
    settings = job.settings | {"pictures or captions": data.digest}
    if job.state is not None:
        check_settings(state_path(options.out), job.state.settings, settings)
        trainer.restore(job.state)
    explain_out_of_memory(
        lambda: _train(job, trainer, lumina, settings, signals),
        lambda: (
            "out of memory while training; use --checkpointing on, a smaller --batch (with --accumulate), "
            "--weights int4 or smaller pictures"
        ),
    )
    write_lora(options.out, lora, lora_metadata(lumina.config, options.rank, options.alpha, tuple(options.targets)))
    state_path(options.out).unlink(missing_ok=True)


def _load(job: Job) -> tuple[Lumina, TrainingData]:
    """The model, and the codes of the pictures, which are encoded before the weights are read."""
    options, checkpoint = job.options, job.checkpoint
    codec = load_codec(checkpoint, options.movqgan, job.device)
    codes = encode([one.picture for one in job.pictures], codec, job.task.width, job.task.height)
    with loading_bar(checkpoint, job.weights) as on_progress:
        transformer = load_transformer(
            checkpoint,
            dtype=job.weights.dtype,
            device=job.device,
            weights=job.weights.choice,
            on_progress=on_progress,
        )
    movqgan = None if job.sample is None else codec
    lumina = Lumina(
        set_compile(transformer, OFF), checkpoint.vocabulary, checkpoint.tokenizer, movqgan, files=checkpoint.stamps
    )
    return lumina, TrainingData(job.prompts, codes)


def _kept(job: Job, lumina: Lumina) -> TrainingData | None:
    """The pictures that the frozen model draws of the prompts of --keep."""
    if not job.keep:
        return None
    if job.state is not None and KEPT_CODES in job.state.tensors:
        return TrainingData(job.keep, job.state.tensors[KEPT_CODES].long())
    codes, grid = [], (job.task.height // 8, job.task.width // 8)
    with _progress(len(job.keep), "pictures", "drawing the pictures of --keep") as progress:
        for first in range(0, len(job.keep), KEPT_AT_ONCE):
            some = job.keep[first : first + KEPT_AT_ONCE]
            settings = DecodeSettings(seed=job.options.seed + first)
            codes.append(lumina.sample(Request(some, *grid, settings=settings)).codes.cpu())
            progress.update(first + len(some))
    lumina.runs.free()
    return TrainingData(job.keep, torch.cat(codes))


def _train(job: Job, trainer: Trainer, lumina: Lumina, settings: dict[str, Any], signals: Signals) -> None:
    """All steps. A signal ends them after the step that it comes in, when the state is saved."""
    options, path = job.options, state_path(job.options.out)
    line_every = max(1, options.steps // LINES)
    with signals.held(), _progress(options.steps, "steps", "training") as progress:
        while trainer.done < options.steps:
            losses = trainer.step()
            progress.update(trainer.done)
            if trainer.done % line_every == 0:
                _say(trainer.done, losses)
            if options.sample_every is not None and trainer.done % options.sample_every == 0:
                _draw_sample(job, trainer, lumina)
            ended = signals.received is not None and trainer.done < options.steps
            if ended or trainer.done % options.save_every == 0:
                write_state(path, trainer.state(settings))
            if ended:
                raise Cancelled(
                    f"stopped after step {trainer.done} of {options.steps}; {path} holds the state, and the same "
                    "command with --resume goes on from there"
                )


def _draw_sample(job: Job, trainer: Trainer, lumina: Lumina) -> None:
    """Draws --sample-prompt, below the first picture's upper panel where the task gives one."""
    assert job.sample is not None, "no prompt to draw"
    grid, out = (job.task.height // 8, job.task.width // 8), job.options.out
    given: Tensor | None = trainer.data.codes[0, : grid[0] // 2] if trainer.settings.lower_only else None
    request = Request([job.sample], *grid, given, DecodeSettings(seed=job.options.seed))
    picture = lumina.decode(lumina.sample(request).codes)[0]
    lumina.runs.free()
    gc.collect()
    with OutputFiles() as files:
        files.write_picture(picture, out.with_name(f"{out.stem}_step{trainer.done:06d}.png"))


def _progress(total: int, unit: str, title: str) -> Progress:
    """A bar on a terminal, a line now and then elsewhere."""
    bar = LogBar(total)
    return Progress(Count(total, unit), title, bar=bar, say=bar.say)


def _say(step: int, losses: Losses) -> None:
    kept = "" if losses.kept is None else f", kept {losses.kept:.4f}"
    logger.info("step %d: %.4f nats a code%s", step, losses.pictures, kept)
