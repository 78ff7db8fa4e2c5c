"""MoVQGAN's decoding of 768×768: float32, bfloat16, and channels last."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lumina_core.device import free_memory
from lumina_core.movqgan.config import STRIP_ROWS
from lumina_core.timing.steps import timed
from lumina_core.timing.synthetic import SYNTHETIC, make_movqgan

from .context import Context, emit

SIDE, DRY_SIDE, REPEATS = 96, 8, 3
# dtype, channels last or not, rows of a strip (None: whole).
WAYS = (
    (torch.float32, False, None),
    (torch.float32, False, STRIP_ROWS),
    (torch.float32, True, None),
    (torch.bfloat16, False, None),
    (torch.bfloat16, False, STRIP_ROWS),
    (torch.bfloat16, True, None),
)


@torch.inference_mode()
def run(context: Context) -> None:
    device, side = context.device, DRY_SIDE if context.dry_run else SIDE
    config = SYNTHETIC[context.model].movqgan
    generator = torch.Generator(device).manual_seed(0)
    codes = torch.randint(config.codebook_size, (1, side, side), generator=generator, device=device)
    model, expected = make_movqgan(config, device), None
    for dtype, channels_last, strip_rows in WAYS:
        model.to(dtype=dtype, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        repeats = 1 if context.dry_run else REPEATS
        decode = partial(model.decode, codes, strip_rows)
        pixels = _measure(decode, dtype, channels_last, strip_rows, expected, repeats)
        expected = pixels if expected is None else expected
        del pixels
        free_memory()


def _measure(
    decode: Callable[[], Tensor],
    dtype: torch.dtype,
    channels_last: bool,
    strip_rows: int | None,
    expected: Tensor | None,
    repeats: int,
) -> Tensor:
    """Emits time and memory of a decode and how far its pixels are from `expected`; returns the pixels."""
    pixels = decode().float()
    before = _held(pixels.device)
    seconds = min(timed(decode, pixels.device) for _ in range(repeats))
    off = 0.0 if expected is None else float((pixels - expected).norm() / expected.norm())
    emit(
        picture=f"{pixels.shape[3]}x{pixels.shape[2]}",
        dtype=str(dtype).removeprefix("torch."),
        channels_last=channels_last,
        strip_rows=strip_rows,
        ms=1000 * seconds,
        beside_weights_bytes=_peak(pixels.device) - before,
        off=off,
    )
    return pixels


def _held(device: torch.device) -> int:
    """Bytes held on a GPU now; resets the peak."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
