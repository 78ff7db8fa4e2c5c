"""Options shared by several commands, and their checks."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from ..checkpoint.config import TransformerConfig
from ..checkpoint.find import Checkpoint
from ..checkpoint.inputs import input_files
from ..decoding.memory_plan import Demand
from ..decoding.request import Request
from ..decoding.settings import DecodeSettings
from ..device import DEVICES, EXPECTED, available_bytes, is_device_name
from ..errors import InputError
from ..files.output_files import check_not_inputs
from ..kernels.draft_tree import MAX_TREE
from ..kernels.kv_tensor import KV_CACHES
from ..lora.applied import AppliedLora, parse_argument
from ..lora.file import files_read
from ..memory import Budget, check_fits, fit_cache
from ..model.compile import COMPILE
from ..model.load import OnProgress
from ..movqgan.config import MoVQGANConfig
from ..quant.weights import AUTO, CHOICES, WeightsPlan
from ..timing.amounts import Amounts, Count, loading
from ..timing.log_bar import LogBar, is_terminal
from ..timing.progress import Progress
from ..timing.synthetic import SYNTHETIC

MAX_BATCH = 1024
OTHERS_CLOSED = "close other programs that use the memory"
# What takes less memory, for each command.
SMALLER: Mapping[str, str] = MappingProxyType(
    {
        "generate": "use a smaller picture or --batch, --weights int4 or --kv int8",
        "encode": "use a smaller picture (--width, --height)",
        "decode": "decode fewer or smaller pictures at a time",
        "bench": "use smaller --context or --windows, --weights int4 or --kv int8",
        "convert": OTHERS_CLOSED,
        "info": OTHERS_CLOSED,
    }
)


def add_model_arguments(
    parser: argparse.ArgumentParser, checkpoint: str | None = None, synthetic: bool = False
) -> None:
    """Adds --checkpoint (required where `checkpoint` is None) or --synthetic, --movqgan and --device."""
    source = parser.add_mutually_exclusive_group() if synthetic else parser
    source.add_argument(
        "--checkpoint",
        default=checkpoint,
        required=checkpoint is None,
        help="checkpoint folder, a file written by convert, a file of weights or a shard next to its config.json, a "
        'repository in the local cache of Hugging Face, or "demo"',
    )
    if synthetic:
        source.add_argument(
            "--synthetic",
            choices=tuple(SYNTHETIC),
            help="use the sizes of a published model and no weights, instead of --checkpoint",
        )
    parser.add_argument("--movqgan", type=Path, help="MoVQGAN file (default: the one in the checkpoint or its folder)")
    parser.add_argument(
        "--device",
        type=device_argument,
        default="auto",
        metavar="{" + ",".join(DEVICES) + "}",
        help="auto: the first that is there of cuda (ROCm too), xpu, mps and cpu; cuda:1 is the second of several",
    )


def device_argument(name: str) -> str:
    """A name of --device, for a device that need not be there. Raises ArgumentTypeError."""
    if not is_device_name(name):
        raise argparse.ArgumentTypeError(f"invalid choice: {name!r:.100}; {EXPECTED}")
    return name


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=1, help="number of pictures drawn together")
    parser.add_argument(
        "--window",
        type=int,
        default=DecodeSettings().window_size,
        help="tokens per forward; at most the number of tokens left to draw is used",
    )
    add_tree_argument(parser)
    parser.add_argument(
        "--kv",
        choices=KV_CACHES,
        default=DecodeSettings().kv_cache,
        help="dtype of the key/value cache; auto: that of the computation, or int8 where only that fits, int8: half "
        "the size of bf16, int4: a third",
    )


def add_tree_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tree",
        type=tree_argument,
        metavar="auto|N",
        help=f"tokens that a forward of gumbel has more, 0 to {MAX_TREE}, for other codes than the first drafts: fewer "
        "forwards, each of more tokens; auto: as suits the device, none on a CPU",
    )


def tree_argument(text: str) -> int | None:
    """A value of --tree; None is auto. Raises ArgumentTypeError."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) > MAX_TREE:
        raise argparse.ArgumentTypeError(f"{text!r:.100} is neither auto nor a whole number from 0 to {MAX_TREE}")
    return int(text)


def add_weights_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        choices=CHOICES,
        default=AUTO,
        help="dtype of the weights; auto: that of a converted checkpoint, else bf16 (fp16 on a GPU without bf16, "
        "fp32 on a CPU) if a picture of the largest trained size then fits the device's memory, else int4",
    )


def add_lora_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lora",
        type=lora_argument,
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="LoRA to wear, a .safetensors file or the folder that PEFT writes, and its strength (1); several add up",
    )


def lora_argument(text: str) -> tuple[Path, float]:
    """A value of --lora. Raises ArgumentTypeError."""
    try:
        return parse_argument(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_compile_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compile",
        choices=COMPILE,
        default="auto",
        help="auto: captures steps as CUDA graphs on a GPU where that works, off: does not, on: the same as auto",
    )


def out_of_memory_message(command: str | None) -> str:
    """For a command whose allocation failed where nothing else says what took the memory."""
    return f"out of memory; {OTHERS_CLOSED if command is None else SMALLER[command]}"


def progress_bar(total: float, unit: str = "", title: str = "") -> Progress:
    """A bar on stderr. It shows nothing where stderr is no terminal, closed, or None as under pythonw."""
    return _progress(Count(total, unit), title)


@contextlib.contextmanager
def loading_bar(checkpoint: Checkpoint, weights: WeightsPlan) -> Iterator[OnProgress]:
    """A callback for `Lumina.load` that moves a bar on a terminal."""
    title, amounts = loading(checkpoint, weights)
    with _progress(amounts, title, stays=False) as progress:
        yield lambda done, total: progress.update(amounts.total * done / total)


def _progress(amounts: Amounts, title: str = "", stays: bool = True) -> Progress:
    bar = LogBar(amounts.total, stays) if is_terminal(sys.stderr) else None
    return Progress(amounts, title, bar=bar, say=None if bar is None else bar.say)


def keep_inputs(options: argparse.Namespace, outputs: Sequence[Path], checkpoint: Checkpoint | None = None) -> None:
    """Raises InputError when an output of a command is one of the files that it reads."""
    named = [getattr(options, name, None) for name in ("movqgan", "condition", "mask", "image", "tokens")]
    named += [file for path, _ in getattr(options, "lora", ()) for file in files_read(path)]
    check_not_inputs(outputs, named if checkpoint is None else input_files(checkpoint, options.movqgan))


def check_synthetic(options: argparse.Namespace) -> None:
    """Raises InputError for a MoVQGAN that a synthetic model would ignore."""
    if options.synthetic and options.movqgan is not None:
        raise InputError("argument --synthetic: not allowed with argument --movqgan; a synthetic model has its own")


def check_batch(batch: int) -> None:
    """Raises InputError when the number of pictures is out of range."""
    if not 1 <= batch <= MAX_BATCH:
        raise InputError(f"batch is {batch}; expected 1 to {MAX_BATCH} pictures")


def demand_of(
    options: argparse.Namespace,
    config: TransformerConfig,
    weights: WeightsPlan,
    request: Request,
    movqgan: MoVQGANConfig,
    device: torch.device,
    loras: Sequence[AppliedLora] = (),
) -> Demand:
    """What a run on the device takes; `options` have `compile`."""
    return Demand.on(device, options.compile, config, weights, request, movqgan, loras)


def device_budget(device: torch.device) -> Budget | None:
    """What a run may take, before any model is loaded; None where it is not known."""
    capacity = available_bytes(device)
    return None if capacity is None else Budget(capacity)


def fit_request(demand: Demand, budget: Budget | None) -> Request:
    """The request, with the int8 cache where the cache is auto and only that fits.

    Raises OutOfMemory, which suggests smaller settings, when the run does not fit.
    """
    if budget is None:
        return demand.request
    fitted = fit_cache(demand, budget)
    check_fits(fitted, budget)
    return fitted.request
