"""The matmul of a linear layer."""

import logging
import platform
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ..device import is_out_of_memory

logger = logging.getLogger(__name__)

# With fewer, calling oneDNN takes longer than it saves.
MIN_ELEMENTS = 2**16


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [...,in] times the transpose of weight [out,in], in the dtype of both.

    float32 on an x86 CPU goes to oneDNN, which torch has but does not use there: its MKL is half as fast on an AMD
    processor, and rounds a row differently in a batch of fewer than four. Not with gradients, nor in compiled code.
    The weight alone decides between the two, so that all matmuls with it round alike.
    """
    elsewhere = x.device.type != "cpu" or torch.compiler.is_compiling()
    plain = elsewhere or x.dtype != torch.float32 or torch.is_grad_enabled()
    matmul = None if plain or not _is_for_onednn(weight) else _onednn()
    return F.linear(x, weight) if matmul is None else matmul(x.contiguous(), weight)


def linear_kernel(weight: Tensor) -> str:
    """The library in which `linear` multiplies by a weight, for reports."""
    if weight.is_cuda:
        return "torch (hipBLAS)" if torch.version.hip else "torch (cuBLAS)"
    return "oneDNN" if _is_for_onednn(weight) and _onednn() is not None else "torch"


def _is_for_onednn(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= MIN_ELEMENTS


@cache
def _onednn() -> Callable[[Tensor, Tensor], Tensor] | None:
    """oneDNN's matmul as torch's compiler calls it, or None where this torch lacks it."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return None
    try:
        pointwise = torch.ops.mkldnn._linear_pointwise
        pointwise(torch.zeros(2, 4), torch.zeros(4, 4), None, "none", [], "")
    except (AttributeError, RuntimeError, TypeError) as error:
        if is_out_of_memory(error):  # says nothing of oneDNN, and the answer is kept
            raise
        logger.info("linear layers on the CPU use torch's own matmul: %s", error)
        return None
    return lambda x, weight: pointwise(x, weight, None, "none", [], "")
