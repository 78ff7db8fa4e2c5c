"""Looks at the values of tensors: what a broken download or training leaves draws a wrong picture, without an error."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import CheckpointError
from .published import EMBEDDING, HEAD

# Larger values come from flipped bits; in float64 they would become infinite.
LARGEST = 1e36
# Values at the end of a tensor that are not all zero, but where so much of it is zero that the file broke off.
TAIL = 128
# Tensors of one axis are norms and scales, of which no few values in a row are zero.
SHORT_TAIL = 16
# Rows at the end of the embedding and the head that may be zero: a vocabulary may have more ids than a model uses.
UNUSED_ROWS = 16


def check_values(name: str, parts: Iterable[Tensor], source: str) -> None:
    """Raises CheckpointError, naming the tensor, for NaN, infinity, only zeros, or an end of zeros.

    `parts` are the tensor, or all its rows in order. Biases may be zero. Reads the values once.
    """
    low, high, last = 0.0, 0.0, torch.empty(0)
    for last in parts:
        lowest, highest = _range(last)
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise _fault(source, name, "holds NaN or infinite values")
        if max(-lowest, highest) > LARGEST:
            raise _fault(source, name, f"holds values that are too large, beyond {LARGEST:g}")
        low, high = min(low, lowest), max(high, highest)
    if name.endswith(".bias") or not last.numel():
        return
    if low == high == 0:
        raise _fault(source, name, "holds only zeros")
    if _ends_in_zeros(last, name):
        raise _fault(source, name, "ends in zeros, as where a download broke off")
    if name.endswith(".scale") and float(last.amin()) <= 0:
        raise _fault(source, name, "holds scales that are not positive")


def _range(part: Tensor) -> tuple[float, float]:
    """The lowest and the highest value; NaN where there is one."""
    if not part.numel():
        return 0.0, 0.0
    values = part if part.dtype in _ORDERED else part.float()
    low, high = values.aminmax()
    return float(low), float(high)


_ORDERED = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int8)


def _ends_in_zeros(part: Tensor, name: str) -> bool:
    most = TAIL if part.ndim > 1 else SHORT_TAIL
    if name in (EMBEDDING, HEAD):
        most = max(most, UNUSED_ROWS * part.shape[-1])
    return part.numel() >= 2 * most and not bool(part.reshape(-1)[-most:].any())


def _fault(source: str, name: str, what: str) -> CheckpointError:
    return CheckpointError(f"{source}: `{name}` {what}; the file is damaged: download or convert it again")
