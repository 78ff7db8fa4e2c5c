"""From a checkpoint and a prompt to pictures: load, request, sample, decode."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .checkpoint.config import TransformerConfig
from .checkpoint.find import Checkpoint, find_converted, nearby_files, open_checkpoint
from .decoding.build_request import build_request, check_candidates, check_request
from .decoding.kept_runs import KeptRuns
from .decoding.loop import OnStep, decode
from .decoding.memory_plan import MOVQGAN_ITEM_BYTES, Demand
from .decoding.request import Request
from .decoding.settings import DecodeResult, DecodeSettings
from .device import choose_device, dtype_or_choice, explain_out_of_memory, free_bytes, total_bytes
from .errors import InputError
from .files.stamps import FileStamps
from .lora.applied import AppliedLora, LoraSource, read_applied
from .memory import choose_weights, out_of_memory_message, weights_of
from .model.compile import check_compile, set_compile
from .model.load import OnProgress, load_transformer
from .model.transformer import Transformer
from .movqgan.autoencoder import MoVQGAN
from .movqgan.codec import decode_picture, encode_picture
from .movqgan.identity import check_codec
from .movqgan.load import load_movqgan
from .pictures.conditions import Picture, condition_pictures
from .pictures.images import to_image, to_pixels
from .pictures.masks import canvas_masks, keep_outside
from .pictures.panels import condition_pixels
from .pictures.sizes import CODE_PIXELS, whole_number
from .quant.weights import WeightsPlan, check_device_holds
from .tokens.prompts import build_negative, build_prompt
from .tokens.task_inputs import check_condition, is_whole, warn_of_ignored
from .tokens.tokenizer import Tokenizer
from .tokens.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lumina:
    """A loaded model.

    `tokenizer` is None for a synthetic model, `movqgan` where the codec is loaded apart, as in ComfyUI. `checkpoint` is
    the folder or file that the model came from. `runs` keeps captured steps from one run to the next, with the cache
    that they read; `runs.free()` frees it. `files` are those that are read from while the model is used. `loras` are
    worn in every run (see `with_loras`).
    """

    transformer: Transformer
    vocabulary: Vocabulary
    tokenizer: Tokenizer | None = None
    movqgan: MoVQGAN | None = None
    checkpoint: Path | None = None
    runs: KeptRuns = field(default_factory=KeptRuns, repr=False, compare=False)
    files: FileStamps | None = field(default=None, repr=False, compare=False)
    loras: tuple[AppliedLora, ...] = ()

    @classmethod
    def load(
        cls,
        source: str | Path | Checkpoint,
        *,
        movqgan: str | Path | MoVQGAN | None = None,
        weights: str = "auto",
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = "auto",
        compile: str = "auto",
        on_progress: OnProgress | None = None,
    ) -> Lumina:
        """Loads a checkpoint (a path, "demo", or an opened one) and its MoVQGAN, or `movqgan` (a file or a loaded one).

        `weights` is one of CHOICES, `dtype` PyTorch's, bf16, fp32, fp16 or None (`choose_dtype`), `compile` auto, on or
        off; for `on_progress` see `load_transformer`. Raises CheckpointError, InputError and OutOfMemory.
        """
        where = choose_device(device)
        check_compile(compile)
        kind = dtype_or_choice(dtype, where)
        _check_path("checkpoint", source, Checkpoint)
        _check_path("movqgan", movqgan, MoVQGAN, type(None))
        checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
        vocabulary = checkpoint.vocabulary
        plan = choose_weights(weights, checkpoint.scheme, kind, checkpoint.config, total_bytes(where))
        check_device_holds(plan, where)
        codec = movqgan if isinstance(movqgan, MoVQGAN) else load_codec(checkpoint, movqgan, where)
        advise_conversion(checkpoint, plan, nearby_files(checkpoint), _convert_command(checkpoint, plan))
        transformer = load_transformer(
            checkpoint, dtype=plan.dtype, device=where, weights=plan.choice, on_progress=on_progress
        )
        set_compile(transformer, compile)
        checkpoint.stamps.check()
        return cls(transformer, vocabulary, checkpoint.tokenizer, codec, checkpoint.path, files=checkpoint.stamps)

    @property
    def config(self) -> TransformerConfig:
        return self.transformer.config

    def with_loras(self, *loras: LoraSource) -> Lumina:
        """The same model with LoRAs on top of those that it has; nothing is loaded again, and this one stays as it is.

        Each is a file (or PEFT's folder), or a pair of one and its strength. Raises CheckpointError and InputError.
        """
        read = tuple(read_applied(one, self.config) for one in loras)
        return replace(self, loras=self.loras + read)

    def draw(
        self,
        prompt: str,
        width: int,
        height: int,
        *,
        task: str = "t2i",
        map: str | None = None,
        object: str | None = None,
        condition: Picture | Sequence[Picture] | None = None,
        given_height: int | None = None,
        mask: Picture | Sequence[Picture] | None = None,
        candidates: int = 1,
        batch: int = 1,
        on_step: OnStep | None = None,
        negative: str | None = None,
        **settings: Any,
    ) -> Drawing:
        """Draws `batch` pictures of `width` by `height` pixels, both panels of a task included.

        `task`, `map` and `object` are those of `build_prompt`; `condition` is the picture in the upper panel (or its
        path), or, with `given_height`, the one whose top of that height is continued. With a `mask` it is the whole
        canvas (for the task edit each panel), of which only what is white in the mask is drawn; of so many `candidates`
        the one is kept after which the other codes are likeliest. `negative` is what to keep away from: guidance leads
        from it, in the wording of the task, to the prompt. `settings`: see DecodeSettings. `on_step` reports progress;
        an exception that it raises ends the run. Raises InputError and OutOfMemory.
        """
        check_condition(task, condition is not None, given_height is not None, mask is not None)
        batch = check_candidates(candidates, batch, mask is not None)
        text = build_prompt(task, width, height, prompt, map, object)
        away = build_negative(task, width, height, negative, map, object)
        request = build_request(self, text, width, height, batch, settings=DecodeSettings(**settings), negative=away)
        warn_of_ignored(task, map, object)
        own = None
        if condition is not None:
            rows = None if given_height is None else whole_number("the given height", given_height, "pixels")
            whole, pictures = is_whole(task, mask is not None), condition_pictures(condition)
            if mask is not None:
                codes = canvas_masks(condition_pictures(mask), pictures, width, height, whole)
                request = replace(request, given_codes=torch.zeros_like(codes, dtype=torch.int64), mask=codes)
            own = condition_pixels(pictures, width, height, rows, whole)
            request = replace(request.with_given(self.encode(own)), score_given=candidates > 1)
        drawing = Drawing(self, self.sample(request, on_step), request.mask, own)
        return drawing.best if candidates > 1 else drawing

    def sample(
        self,
        request: Request,
        on_step: OnStep | None = None,
        before_forward: Callable[[], object] | None = None,
    ) -> DecodeResult:
        """Draws the codes of a request, with the callbacks of `decode`.

        Raises InputError before any work, and OutOfMemory, which names smaller settings, after freeing what it held.
        """
        check_request(request, self.config, self.vocabulary)
        if self.files is not None:
            self.files.check()
        run = self.vocabulary, request, on_step, before_forward, self.runs
        return explain_out_of_memory(
            lambda: decode(self.runs.wear(self.transformer, self.loras), *run),
            lambda: out_of_memory_message(self._demand(request)),
        )

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """Codes [N,h,w] on the CPU of pixels [N,3,H,W] in [-1,1]; makes room as `decode` does."""
        codec = self._codec_with_room(*(side // CODE_PIXELS for side in pixels.shape[-2:]))
        return explain_out_of_memory(
            lambda: torch.cat([encode_picture(codec, one.to(codec.weight_device)).cpu() for one in pixels.split(1)]),
            lambda: "out of memory while encoding; use fewer or smaller pictures",
        )

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> list[Image.Image]:
        """Pictures of codes [N,h,w], decoded one at a time; what a run left on a full device is freed for it."""
        codec = self._codec_with_room(*codes.shape[-2:])
        return explain_out_of_memory(
            lambda: [to_image(decode_picture(codec, one.to(codec.weight_device))) for one in codes.split(1)],
            lambda: "out of memory while decoding; use fewer or smaller pictures",
        )

    def _demand(self, request: Request) -> Demand:
        transformer = self.transformer
        how = transformer.device, transformer.compile_choice
        return Demand.on(*how, self.config, weights_of(transformer), request, loras=self.loras)

    def _codec_with_room(self, grid_h: int, grid_w: int) -> MoVQGAN:
        """The codec; frees what a run left where a picture of this grid would not fit beside it."""
        codec = self._codec()
        free = free_bytes(codec.weight_device)
        if free is not None and free < codec.config.picture_bytes(grid_h, grid_w, MOVQGAN_ITEM_BYTES):
            self.runs.free()
        return codec

    def _codec(self) -> MoVQGAN:
        if self.movqgan is None:
            raise InputError("the model was loaded without a MoVQGAN; expected one, to encode and decode pictures")
        return self.movqgan


@dataclass(frozen=True)
class Drawing:
    """Drawn pictures; they are decoded when `images` is first read, so that the codes survive a failure to do so.

    With a `mask` of codes [1 or N,h,w], their pixels outside of it are the `own` ones [1 or N,3,H,W] in [-1,1]. `index`
    is the chosen picture's of the run's batch, where one is chosen.
    """

    lumina: Lumina
    result: DecodeResult
    mask: Tensor | None = None
    own: Tensor | None = None
    index: int | None = None

    @property
    def codes(self) -> Tensor:
        """[N,h,w]."""
        return self._chosen(self.result.codes)

    @property
    def best(self) -> Drawing:
        """The picture after which the given codes are likeliest; the first, with a warning, where none follow."""
        nats = self.result.given_log_likelihood
        if nats is None:
            logger.warning("Nothing is given after what is drawn, which could rank the candidates: the first is kept.")
            return replace(self, index=0)
        return replace(self, index=max(range(len(nats)), key=nats.__getitem__))

    @cached_property
    def images(self) -> list[Image.Image]:
        """Raises OutOfMemory."""
        images = self.lumina.decode(self.codes)
        if self.mask is None or self.own is None:
            return images
        drawn = torch.cat([to_pixels(image) for image in images])
        given = (part if len(part) == 1 else self._chosen(part) for part in (self.own, self.mask))
        return [
            to_image(one) for one in keep_outside(drawn, *(part.expand(len(drawn), *part.shape[1:]) for part in given))
        ]

    def _chosen(self, values: Tensor) -> Tensor:
        """Those of the chosen picture of the batch, or of all."""
        return values if self.index is None else values[self.index : self.index + 1]


def load_codec(checkpoint: Checkpoint, movqgan: str | Path | None, device: torch.device) -> MoVQGAN:
    """The named MoVQGAN, or the checkpoint's own, in float32. Raises InputError for that of another model."""
    path = movqgan or checkpoint.movqgan
    if path is None:
        raise InputError(f"{checkpoint.path} holds no MoVQGAN file; name one with --movqgan (movqgan_270M.ckpt)")
    codec = explain_out_of_memory(
        lambda: load_movqgan(path, device=device, checkpoint=checkpoint),
        lambda: f"out of memory while loading {path}; close other programs that use the memory",
    )
    check_codec(checkpoint.config, codec.config, dict(codec.named_parameters()), str(path))
    return codec


def advise_conversion(checkpoint: Checkpoint, weights: WeightsPlan, files: Iterable[Path], way: str) -> None:
    """Logs what would load faster than quantising a plain checkpoint: one of the files, or what a `way` makes of it."""
    if weights.scheme is None or checkpoint.scheme is not None:
        return
    found = find_converted(checkpoint, weights.scheme.name, files)
    faster = f"{way} makes a file that loads faster" if found is None else f"{found} is the same and loads faster"
    logger.info("%s is quantised to %s while it is read; %s", checkpoint.path, weights.name, faster)


def _convert_command(checkpoint: Checkpoint, weights: WeightsPlan) -> str:
    path, name = checkpoint.path, weights.name
    return f"`python -m lumina_core convert --checkpoint {path} --weights {name} --out lumina-{name}.safetensors`"


def _check_path(name: str, value: object, *others: type) -> None:
    if not isinstance(value, (str, Path, *others)):
        raise InputError(f"{name} is {value!r:.100}; expected the path of a file or folder")
