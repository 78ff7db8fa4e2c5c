"""The published program of a clone, made to run on a CPU with a small checkpoint.

What is patched and why that is fair is said in `benchmarks.published`, the command.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lumina_core.errors import InputError
from lumina_core.pictures.sizes import CODE_PIXELS, UNIT_PIXELS

CFG, TOP_K, TEMPERATURE = 4.0, 4096, 1.0
DRAFTED = 16
NEEDED = "pip install transformers==4.46.2"


Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True)
class Picture:
    """What to draw: the prompt, the ids of the whole prompt, the size in pixels."""

    prompt: str
    ids: tuple[int, ...]
    size: Size
    seed: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes."""
        return self.size[1] // CODE_PIXELS, self.size[0] // CODE_PIXELS


@dataclass(frozen=True)
class Drawing:
    """What drawing a picture took: seconds, forwards, codes drawn, and whether the picture is complete."""

    seconds: float
    forwards: int
    codes: int
    complete: bool


Program = Callable[[Picture], Drawing]


class OnCpu(TorchFunctionMode):
    """Makes on the CPU what is asked for on "cuda"."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


class ForcedHeader:
    """A logits processor that forces the first tokens after the prompt."""

    def __init__(self, header: Sequence[int], prompt_length: int) -> None:
        self.header, self.prompt_length = header, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Leaves one token possible while the header is not drawn."""
        place = input_ids.shape[1] - self.prompt_length
        if place >= len(self.header):
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[..., self.header[place]] = 0.0
        return forced


@dataclass(frozen=True)
class Clone:
    """The modules of the published program: its solver, its speculative sampler, its processing of items, its model."""

    solver: ModuleType
    jacobi: ModuleType
    items: ModuleType
    model: ModuleType

    @property
    def users_of_items(self) -> tuple[ModuleType, ...]:
        """The modules whose logits processors make an item processor of their own."""
        return self.solver, sys.modules["logit_processor_3dim_static"]


def import_clone(clone: Path) -> Clone:
    """Imports the published program. Raises InputError when the folder is no clone or a package is missing."""
    place = clone / "lumina_mgpt"
    for file in (place / "inference_solver.py", place / "generate_examples" / "jacobi_utils_static.py"):
        if not file.is_file():
            raise InputError(f"{file} does not exist; expected --clone to name a clone of Alpha-VLLM/Lumina-mGPT-2.0")
    sys.path[:0] = [str(folder.resolve()) for folder in (place / "generate_examples", place, clone)]
    try:
        warnings.filterwarnings("ignore", message="Use of .* on expanded tensors")
        logs = importlib.import_module("transformers").logging
        logs.set_verbosity_error()
        logs.disable_progress_bar()
        _stub("sentencepiece", SentencePieceProcessor=None)
        _stub("torchvision", transforms=None)
        _stub("absl", logging=logging)
        _stub("movqgan", get_movqgan_model=lambda *_, **__: None)
        names = ("inference_solver", "jacobi_utils_static", "data.item_processor", "model.chameleon")
        return Clone(*map(importlib.import_module, names))
    except ImportError as error:
        raise InputError(
            f"the published program cannot be imported ({error}); expected a Python with it: {NEEDED}"
        ) from error


def _stub(name: str, **attributes: Any) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(attributes)
    sys.modules[name] = module


class Published:
    """A sampler of the published program with a checkpoint, for pictures of one size."""

    def __init__(self, clone: Clone, folder: Path, size: Size, speculative: bool, cached: bool) -> None:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        first = config.get("image_token_offset", 155000)
        self.codes = range(first, first + config.get("image_codebook_size", 16384))
        self.items = clone.items.FlexARItemProcessor(tokenizer=str(folder), device="cpu")
        if cached:
            names = {number: name for name, number in self.items.tokenizer.tokenizer.vocab.items()}
            self.items.id2token = lambda number: names[number.item()]
        solver = _make_solver(clone, config, folder, self.items)
        self.model, self.forwards = solver.model, 0
        self.model.register_forward_pre_hook(self._count)
        if speculative:
            _make_speculative(clone, solver, size, self.codes)
        self.processors = self._processors(clone, solver)

    def _count(self, *_: Any) -> None:
        self.forwards += 1

    def _processors(self, clone: Clone, solver: Any) -> Any:
        """The logits processors, which serve one picture after another; their mask of the codes is
        made here, since theirs takes half a minute with the full vocabulary.
        """
        vocabulary_size = self.model.config.vocab_size
        with contextlib.ExitStack() as patches:
            for module in clone.users_of_items:
                patches.enter_context(patch.object(module, "FlexARItemProcessor", lambda *_, **__: self.items))
            patches.enter_context(patch.object(self.model.config, "vocab_size", 1))
            patches.enter_context(OnCpu())
            processors = solver.create_logits_processor(cfg=CFG, image_top_k=TOP_K)
        numbers = torch.arange(vocabulary_size)
        for processor in processors:
            if hasattr(processor, "suppress_token_mask"):
                processor.suppress_token_mask = (numbers < self.codes.start) | (numbers >= self.codes.stop)
        return processors

    @torch.no_grad()
    def __call__(self, picture: Picture) -> Drawing:
        """Draws a picture as the published program does between its prompt ids and its codes."""
        frame = self._frame(*picture.grid)
        config = sys.modules["transformers"].GenerationConfig(
            max_new_tokens=len(frame), temperature=TEMPERATURE, top_k=None, do_sample=True, eos_token_id=[frame[-1]]
        )
        processors = copy.copy(self.processors)
        processors.append(ForcedHeader(frame[:3], len(picture.ids)))
        prompt = torch.tensor([picture.ids])
        torch.manual_seed(picture.seed)
        self.forwards = 0
        with contextlib.redirect_stdout(io.StringIO()):
            started = time.perf_counter()
            drawn = self.model.generate(prompt, config, logits_processor=processors)
            seconds = time.perf_counter() - started
        tokens = drawn[0][len(picture.ids) :].tolist()
        found = [None if token in self.codes else token for token in tokens]
        return Drawing(seconds, self.forwards, found.count(None), found == frame)

    def _frame(self, grid_h: int, grid_w: int) -> list[int | None]:
        """The tokens of a complete picture, None where a code is."""
        token, items = self.items.token2id, self.items
        sides = (token(items.get_n_grids_token(side * CODE_PIXELS // UNIT_PIXELS)) for side in (grid_h, grid_w))
        rows = ([None] * grid_w + [token(items.new_line_token)]) * grid_h
        return [token(items.image_start_token), *sides, *rows, token(items.image_end_token)]


def _make_solver(clone: Clone, values: Mapping[str, Any], folder: Path, items: Any) -> Any:
    """The published solver without its loading for a GPU. The model's own encoder of pictures, which is not used, is
    small where the config names none.
    """
    smallest = {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "num_embeddings": 16}
    unused = {"vocabulary_map": {}, "mask_image_logits": False, "vq_config": {**smallest, "resolution": 32}}
    solver = object.__new__(clone.solver.FlexARInferenceSolver)
    values = {name: value for name, value in values.items() if not name.startswith("_attn")}
    config = clone.model.ChameleonConfig(**{**unused, **values})
    build = clone.model.ChameleonForConditionalGeneration
    solver.model = build.from_pretrained(folder, config=config, torch_dtype=torch.float32).eval()
    solver.item_processor, solver.target_size = items, 512
    return solver


def _make_speculative(clone: Clone, solver: Any, size: Size, codes: range) -> None:
    """Changes a solver to the speculative sampler, set as the published script sets it."""
    columns, rows = (side // CODE_PIXELS for side in size)
    clone.jacobi.renew_pipeline_sampler(
        solver,
        jacobi_loop_interval_l=3,
        jacobi_loop_interval_r=rows * columns + rows - 10,
        max_num_new_tokens=DRAFTED,
        guidance_scale=CFG,
        seed=None,
        multi_token_init_scheme="random",
        do_cfg=True,
        image_top_k=TOP_K,
        text_top_k=10,
        prefix_token_sampler_scheme="speculative_jacobi",
    )
    solver.model.img_vocab = torch.tensor(codes)
