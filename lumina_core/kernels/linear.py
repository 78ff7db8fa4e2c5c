"""The matmul of a linear layer.

Where the computation is in float16, whose largest value is 65,504, only matmuls and attention are: the states between
them are in float32, and `multiply` scales what goes into a matmul.
"""

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
TINY = torch.finfo(torch.float32).tiny
# The square root of the largest power of two in float16, 2^15, in powers of two.
HALF_NORM = 256.0


def multiply(layer: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype) -> Tensor:
    """The matmul [...,out] of rows x [...,in] by a layer with weights in `dtype`, in `state_dtype`.

    For float16 every row is scaled to a Euclidean norm of HALF_NORM and the result scaled back. So neither the row nor
    its products overflow, by the Cauchy-Schwarz inequality, where a weight's rows have a norm below HALF_NORM. A row's
    result depends on that row alone.
    """
    if dtype != torch.float16:
        return layer(x)
    x = x.float()
    scale = (x.norm(dim=-1, keepdim=True) / HALF_NORM).clamp_min(TINY)
    return layer((x / scale).half()).float() * scale


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the states between matmuls where the computation is in `dtype`."""
    return torch.float32 if dtype == torch.float16 else dtype


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

    def matmul(x: Tensor, weight: Tensor) -> Tensor:
        return pointwise(x, weight, None, "none", [], "")

    if not _rounds_alike(matmul):
        logger.info("linear layers on the CPU use torch's own matmul: oneDNN's rounds a row by the number of rows")
        return None
    return matmul


def _rounds_alike(matmul: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether a row's result is the same whatever the number of rows. Of PyTorch 2.5's oneDNN it is not."""
    x, weight = (torch.arange(rows * 256.0).sin().view(rows, 256) for rows in (64, 256))
    whole = matmul(x, weight)
    return all(torch.equal(matmul(x[:rows], weight), whole[:rows]) for rows in (8, 9, 16))
