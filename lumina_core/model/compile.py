"""The user's choice of `compile`."""

import logging

import torch

from ..errors import InputError
from .transformer import Transformer

logger = logging.getLogger(__name__)

AUTO, ON, OFF = "auto", "on", "off"
COMPILE = (AUTO, ON, OFF)


def set_compile(transformer: Transformer, choice: str) -> Transformer:
    """The transformer with this choice of COMPILE. Raises InputError for another.

    on was torch.compile, which is slower than the kernels that auto uses; it is the same as auto now.
    """
    check_compile(choice)
    if choice == ON:
        logger.info("compile on is the same as auto: CUDA graphs, without torch.compile")
    transformer.compile_choice = choice
    return transformer


def check_compile(choice: str) -> None:
    """Raises InputError for what is none of COMPILE."""
    if not isinstance(choice, str) or choice not in COMPILE:
        raise InputError(f"compile is {choice!r}; expected one of {', '.join(COMPILE)}")


def captures(choice: str, device: torch.device) -> bool:
    """Whether steps on a device are captured, by a choice of COMPILE."""
    return choice != OFF and device.type == "cuda"
