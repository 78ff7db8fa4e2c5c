"""The user's choice of `compile`, and the compilation of the blocks."""

import logging
import time
from typing import Any

import torch

from ..errors import InputError
from .rope import rope_table
from .transformer import Transformer

logger = logging.getLogger(__name__)

AUTO, ON, OFF = "auto", "on", "off"
COMPILE = (AUTO, ON, OFF)
PARTS = ("qkv", "finish")
# Rounds between operations as the blocks do uncompiled, so that a token seldom differs.
OPTIONS: dict[str, Any] = {"emulate_precision_casts": True}


def set_compile(transformer: Transformer, choice: str) -> Transformer:
    """The transformer with this choice of COMPILE. Raises InputError for another."""
    if choice not in COMPILE:
        raise InputError(f"compile is {choice!r}; expected one of {', '.join(COMPILE)}")
    transformer.compile_choice = choice
    return transformer


def captures(choice: str, device: torch.device) -> bool:
    """Whether steps on a device are captured, by a choice of COMPILE."""
    return choice != OFF and device.type == "cuda"


def compile_blocks(transformer: Transformer) -> float:
    """Compiles the parts of every block around its attention, once; returns the seconds that it took.

    All blocks share the code of the first. A small input runs here, so that what is missing (a C++ compiler on a CPU,
    Triton on a GPU) shows before any work. Raises InputError where torch.compile does not work.
    """
    if transformer.compiled:
        return 0.0
    start = time.perf_counter()
    for block in transformer.blocks:
        for part in PARTS:
            setattr(block, part, torch.compile(getattr(block, part), options=OPTIONS))
    transformer.compiled = True
    try:
        _try_block(transformer)
    except Exception as error:  # whatever the compiler raises
        _undo(transformer)
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        message = f"compile is on, and torch.compile does not work here: {reason}; choose auto or off"
        raise InputError(message) from error
    seconds = time.perf_counter() - start
    logger.info("the blocks are compiled for %s in %.1f s", transformer.device, seconds)
    return seconds


def _try_block(transformer: Transformer) -> None:
    config, block = transformer.config, transformer.blocks[0]
    x = torch.zeros(2, 8, config.hidden_size, dtype=transformer.dtype, device=transformer.device)
    table = rope_table(8, config.head_dim, config.rope_theta, dtype=x.dtype, device=x.device)
    query, _, _ = block.qkv(x, *(part[None, :, None] for part in table))
    block.finish(x, query.flatten(2))


def _undo(transformer: Transformer) -> None:
    for block in transformer.blocks:
        for part in PARTS:
            delattr(block, part)
    transformer.compiled = False
