"""Looks at the values of tensors: what a broken download or training leaves draws a wrong picture, without an error."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import CheckpointError
from .published import EMBEDDING, HEAD

# Trained weights are far smaller; larger ones come from flipped bits.
LARGEST = 1e6
# A matrix whose largest value is smaller computes zeros.
SMALLEST = 1e-20
# Equal values in a row that no trained matrix has, in bytes: downloads in parts leave such holes, of zeros as a rule.
# In int8 a row whose largest weight stands out has long runs of code 0.
HOLE_BYTES, INT8_HOLE_BYTES = 2**10, 2**14
# Bytes between the values that are looked at to find a hole.
STRIDE_BYTES = 2**8
# Zeros in a row that no norm and no scale has.
SHORT_HOLE = 16
# Rows of the embedding and the head that may be zero in a row: a vocabulary may have more ids than a model uses.
UNUSED_ROWS = 16
_ORDERED = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int8)


def check_values(name: str, parts: Iterable[Tensor], source: str) -> None:
    """Raises CheckpointError, naming the tensor, for NaN, infinity, impossible sizes, only zeros, or a hole.

    `parts` are the tensor, or all its rows in order. Biases may be zero. Of the embedding and the head only the end is
    searched for holes; `check_code_rows` looks at the rows that matter. Reads the values once, and a few twice.
    """
    low, high, last, has_hole = 0.0, 0.0, torch.empty(0), False
    for last in parts:
        lowest, highest = _range(last)
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise _fault(source, name, "holds NaN or infinite values")
        if max(-lowest, highest) > LARGEST:
            raise _fault(source, name, f"holds values that are too large, beyond {LARGEST:g}")
        low, high = min(low, lowest), max(high, highest)
        has_hole = has_hole or (name not in (EMBEDDING, HEAD) and _has_hole(last))
    if name.endswith(".bias") or not last.numel():
        return
    if low == high == 0:
        raise _fault(source, name, "holds only zeros")
    if last.ndim > 1 and max(-low, high) < SMALLEST:
        raise _fault(source, name, "holds nothing but values that are too small to count")
    if has_hole or _ends_in_zeros(last, name):
        raise _fault(source, name, "has a hole of zeros, or of one other value, as where a download broke off")
    if _has_bad_scale(last, name):
        raise _fault(source, name, "holds scales that are not positive")


def check_code_rows(name: str, rows: Tensor, source: str) -> None:
    """Raises CheckpointError for a hole in the rows [codes, hidden] of the embedding or the head for image codes."""
    empty = rows.abs().amax(1) == 0
    if len(empty) >= UNUSED_ROWS and bool(_runs(empty, UNUSED_ROWS).any()):
        raise _fault(source, name, "has a hole of zeros in the rows of image codes")


def _range(part: Tensor) -> tuple[float, float]:
    """The lowest and the highest value; NaN where there is one."""
    if not part.numel():
        return 0.0, 0.0
    if part.dtype == torch.float8_e4m3fn:  # whose bits without the sign are in the order of the magnitudes, NaN last
        highest = float((part.view(torch.uint8) & 0x7F).amax().view(part.dtype))
        return -highest, highest
    values = part if part.dtype in _ORDERED else part.float()
    low, high = values.aminmax()
    return float(low), float(high)


def _has_hole(part: Tensor) -> bool:
    """Whether a stretch of a matrix is one value, or of a norm zero.

    Looks at one value of a matrix in STRIDE_BYTES, and at all where those are equal.
    """
    flat = part.reshape(-1)
    if part.ndim < 2 or part.shape[-1] == part.numel():
        return len(flat) >= 2 * SHORT_HOLE and bool(_runs(flat == 0, SHORT_HOLE).any())
    stride = max(1, STRIDE_BYTES // part.element_size())
    count = (INT8_HOLE_BYTES if part.dtype == torch.int8 else HOLE_BYTES) // STRIDE_BYTES
    sampled = flat[::stride]
    if len(sampled) < 2 * count:
        return False
    starts = _runs(sampled[1:] == sampled[:-1], count - 1).nonzero().flatten().tolist()
    stretches = (flat[start * stride : (start + count - 1) * stride + 1] for start in starts)
    return any(bool((stretch == stretch[0]).all()) for stretch in stretches)


def _runs(flags: Tensor, count: int) -> Tensor:
    """Where `count` flags in a row are set: a flag for each start."""
    runs, length = flags, 1
    while length < count:
        step = min(length, count - length)
        runs, length = runs[:-step] & runs[step:], length + step
    return runs


def _ends_in_zeros(part: Tensor, name: str) -> bool:
    """Whether the last rows of the embedding or the head are zero; other tensors are searched for holes."""
    most = UNUSED_ROWS * part.shape[-1]
    is_table = name in (EMBEDDING, HEAD) and part.numel() >= 2 * most
    return is_table and not bool(part.reshape(-1)[-most:].any())


def _has_bad_scale(part: Tensor, name: str) -> bool:
    if name.endswith(".scale_zero"):
        return bool((part[..., 0] <= 0).any())
    return name.endswith(".scale") and bool((part <= 0).any())


def _fault(source: str, name: str, what: str) -> CheckpointError:
    return CheckpointError(f"{source}: `{name}` {what}; the file is damaged: download or convert it again")
