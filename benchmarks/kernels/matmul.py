"""Quantised matmuls at the shapes of a model's layers: ours at any tile, and torch's own for comparison."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina_core.kernels import reference
from lumina_core.kernels.select import load
from lumina_core.kernels.tiles import MatmulTile, matmul_tile, split_groups
from lumina_core.quant import tinygemm

from . import Figure
from .arguments import BF16, Arguments, fill, matmul_arguments, nbytes
from .clock import Call, Clock, first_line, measured

# (outputs, warps) and stages of a program, and splits that are tried by default.
OUTPUTS_AND_WARPS = ((32, 2), (64, 4), (128, 4), (128, 8), (256, 8))
STAGES, SPLITS = (2, 3), (1, 2, 4, 8)
FP8, WEIGHT_BITS = torch.float8_e4m3fn, {"int4": 4, "int8": 8}


@dataclass(frozen=True)
class Problem:
    """x [rows,in] times a layer's weight; `shape` is (inputs, outputs)."""

    layer: str
    shape: tuple[int, int]
    rows: int

    @property
    def figures(self) -> Figure:
        return {"layer": self.layer, "in": self.shape[0], "out": self.shape[1], "rows": self.rows}

    def tile_in_use(self, scheme: str, dtype: torch.dtype = BF16) -> MatmulTile:
        return matmul_tile(self.rows, *self.shape, dtype, WEIGHT_BITS[scheme])


def problems(shapes: dict[str, tuple[int, int]], rows: Sequence[int]) -> list[Problem]:
    """Every layer at every number of rows, ordered by rows."""
    return [Problem(layer, shape, count) for count in rows for layer, shape in shapes.items()]


def tiles_of(
    scheme: str,
    problem: Problem,
    outputs_and_warps: Iterable[tuple[int, int]] = OUTPUTS_AND_WARPS,
    stages: Iterable[int] = STAGES,
    splits: Iterable[int] = SPLITS,
    dtype: torch.dtype = BF16,
) -> list[MatmulTile]:
    """The tile in use, then others; splits with equal results appear once."""
    used = problem.tile_in_use(scheme, dtype)
    tried = [
        replace(used, outputs=outputs, warps=warps, stages=stage, splits=split_groups(problem.shape[0], split)[0])
        for (outputs, warps), stage, split in itertools.product(outputs_and_warps, stages, splits)
    ]
    return list(dict.fromkeys([used, *tried]))


def sweep(
    scheme: str, problem: Problem, tiles: Sequence[MatmulTile], clock: Clock, dtype: torch.dtype = BF16
) -> Iterator[Figure]:
    """A figure for each tile; `off` is the relative error against the reference."""
    kernel, plain = load(f"{scheme}_matmul"), getattr(reference, f"{scheme}_matmul")
    figure = {"kernel": f"{scheme}_matmul", **problem.figures}
    try:
        inputs = [fill(matmul_arguments(scheme, problem.shape, problem.rows, clock.device, dtype))]
        inputs += [_refilled(inputs[0]) for _ in range(1, clock.copies(nbytes(inputs[0])))]
        expected = plain(*inputs[0]).float()
    except RuntimeError as error:  # no memory
        yield {**figure, "error": first_line(error)}
        return

    def measure(tile: MatmulTile) -> Figure:
        off = float((kernel(*inputs[0], tile=tile).float() - expected).norm() / expected.norm())
        # The next kernel reads and adds partial sums, so the timed call leaves them.
        calls = [partial(kernel, *each, sum_splits=False, tile=tile) for each in inputs]
        return {**_timed(clock, calls, nbytes(inputs[0])), "sums_bytes": calls[0]().nbytes, "off": off}

    for tile in tiles:
        in_use = tile == problem.tile_in_use(scheme, dtype)
        yield measured({**figure, "tile": asdict(tile), "in_use": in_use}, partial(measure, tile))


def others(problem: Problem, clock: Clock) -> Iterator[Figure]:
    """torch's own matmuls of the same shape: bfloat16, int4 (tinygemm) and fp8; one that a device lacks is an error."""

    def measure(make: Callable[[Problem, torch.device], tuple[Call, int]]) -> Figure:
        call, moved = make(problem, clock.device)
        more = [make(problem, clock.device)[0] for _ in range(1, clock.copies(moved))]
        return _timed(clock, [call, *more], moved)

    for name, make in (("torch bf16", _plain), ("torch int4", _tinygemm), ("torch fp8", _fp8)):
        yield measured({"kernel": name, **problem.figures}, partial(measure, make))


def _timed(clock: Clock, calls: Sequence[Call], moved: int) -> Figure:
    seconds = clock.seconds(calls)
    return {"us": 1e6 * seconds, "bytes": moved, "copies": len(calls), "share": clock.share(moved, seconds)}


def _refilled(arguments: Arguments) -> Arguments:
    """The same x with other weights."""
    return arguments[0], *fill(tuple(torch.empty_like(tensor) for tensor in arguments[1:]))


def _plain(problem: Problem, device: torch.device) -> tuple[Call, int]:
    x, weight = _x_and_weight(problem, device)
    return partial(F.linear, x, weight), nbytes((x, weight))


def _tinygemm(problem: Problem, device: torch.device) -> tuple[Call, int]:
    x, packed, scale_zero = fill(matmul_arguments("int4", problem.shape, problem.rows, device, tiled=False))
    repacked = tinygemm.repack({"packed": packed, "scale_zero": scale_zero}, device)
    groups, outputs = scale_zero.shape[1], scale_zero.shape[0]
    scales = repacked["scale_zero"].view(groups, outputs, 2)
    return partial(tinygemm.matmul, x, repacked["packed"], scales), nbytes((x, packed, scale_zero))


def _fp8(problem: Problem, device: torch.device) -> tuple[Call, int]:
    """Without the rounding of x, which another kernel would do."""
    x, weight = (part.to(FP8) for part in _x_and_weight(problem, device))
    scales = torch.ones(problem.rows, 1, device=device), torch.ones(1, problem.shape[1], device=device)
    call = partial(torch._scaled_mm, x, weight.T, scale_a=scales[0], scale_b=scales[1], out_dtype=BF16)
    return call, nbytes((x, weight))


def _x_and_weight(problem: Problem, device: torch.device) -> tuple[Tensor, Tensor]:
    inputs, outputs = problem.shape
    x, weight = torch.empty(problem.rows, inputs, device=device), torch.empty(outputs, inputs, device=device)
    return x.normal_().to(BF16), weight.normal_(0, 0.02).to(BF16)
