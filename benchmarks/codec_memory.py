"""Memory of decoding whole and in strips: python -m benchmarks.codec_memory [SIDE [DTYPE ...]]

Decodes one square picture of SIDE pixels (default 384) in each DTYPE (default float32 bfloat16), with a MoVQGAN of the
published 270M sizes and random weights. Each decode runs in its own process, on the CPU and one thread, after that of a
small picture, so that PyTorch and the weights are loaded. The table shows the bytes by which the process grew, the
estimate, and how far each picture is from the first.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumina_core.device import peak_bytes
from lumina_core.movqgan.autoencoder import MoVQGAN
from lumina_core.movqgan.config import STRIP_ROWS
from lumina_core.pictures.sizes import CODE_PIXELS
from lumina_core.timing.synthetic import SYNTHETIC

from .own_process import in_own_process, measure_named_case


@dataclass(frozen=True)
class Case:
    """A way to decode a picture of `side` pixels into the file `out`."""

    side: int
    dtype: str
    strip_rows: int | None
    out: str


@dataclass(frozen=True)
class Measured:
    """Bytes by which a process grew, and the estimate; seconds of the decode."""

    grown: int
    estimated: int
    seconds: float


def measure(case: Case) -> Measured:
    return Measured(**in_own_process("benchmarks.codec_memory", case))


def run_here(case: Case) -> Measured:
    """Runs a case in this process, which must be new."""
    torch.set_num_threads(1)
    device, grid = torch.device("cpu"), case.side // CODE_PIXELS
    torch.manual_seed(0)
    movqgan = MoVQGAN(SYNTHETIC["7b"].movqgan).to(getattr(torch, case.dtype)).requires_grad_(False)
    _decode(movqgan, 2, case.strip_rows)
    _reset_peak()
    before, started = peak_bytes(device), time.perf_counter()
    pixels = _decode(movqgan, grid, case.strip_rows)
    seconds, after = time.perf_counter() - started, peak_bytes(device)
    assert before is not None and after is not None, "this system does not report the memory of a process"
    save_file({"pixels": pixels.float()}, case.out)
    estimated = movqgan.config.picture_bytes(grid, grid, movqgan.dtype.itemsize, case.strip_rows)
    return Measured(after - before, estimated, seconds)


def _reset_peak() -> None:
    """Resets the peak memory of this process to what it holds now (Linux 4.0): creating the weights took more."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


@torch.inference_mode()
def _decode(movqgan: MoVQGAN, grid: int, strip_rows: int | None) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(movqgan.config.codebook_size, (1, grid, grid), generator=generator)
    return movqgan.decode(codes, strip_rows)


def difference(pixels: Tensor, expected: Tensor) -> str:
    """Columns of the table: largest error, largest error and share of different values in 8 bits, PSNR.

    Random weights do not draw in [-1,1], so both are divided by the largest magnitude of `expected`.
    """
    pixels, expected = (one / expected.abs().max() for one in (pixels, expected))
    eight, eight_expected = (((one + 1) * 127.5).round().clamp(0, 255) for one in (pixels, expected))
    error = (eight - eight_expected).abs()
    psnr = 10 * torch.log10(255**2 / error.square().mean()) if error.any() else float("inf")
    largest = (pixels - expected).abs().max()
    return f"{largest:.1e} | {error.max():.0f} | {(error > 0).float().mean():.3%} | {psnr:.1f} dB"


def main() -> int:
    """Prints a table in Markdown; with a case as JSON, its measurement."""
    if measure_named_case(Case, run_here):
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", metavar="SIDE", type=int, nargs="?", default=384, help="of the picture, in pixels")
    parser.add_argument("dtypes", metavar="DTYPE", nargs="*", default=["float32", "bfloat16"])
    options = parser.parse_args()
    print("| dtype | way | estimated | measured | seconds | largest error | in 8 bits | differing | PSNR |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        first = str(Path(folder) / "first.safetensors")
        for number, (dtype, rows) in enumerate(itertools.product(options.dtypes, (None, STRIP_ROWS))):
            out = first if number == 0 else str(Path(folder) / "other.safetensors")
            found = measure(Case(options.side, dtype, rows, out))
            errors = difference(load_file(out)["pixels"], load_file(first)["pixels"])
            way = "whole" if rows is None else f"strips of {rows} rows"
            print(
                f"| {dtype} | {way} | {found.estimated / 1e6:.0f} MB | {found.grown / 1e6:.0f} MB "
                f"| {found.seconds:.0f} | {errors} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
