"""The tiles of the kernels, and the number of splits of a matmul's inputs. Needs no Triton."""

from dataclasses import dataclass

import torch

from .reference import GROUP_SIZE

# Rows of x in a program, at most.
MAX_ROWS = {torch.bfloat16: 128, torch.float32: 32}
# Outputs and warps of a program by its rows of x: those with the fewest instructions a weight in the compiled code.
OUTPUTS_AND_WARPS = {16: (32, 2), 32: (64, 4), 64: (64, 4), 128: (128, 8)}
# A weight's inputs are split so that its outputs, 64 at a time, give at least so many programs: they fill a large GPU.
PROGRAMS, OUTPUTS_TO_SPLIT_BY = 384, 64
# Attention: slots of the cache in a program, queries of a tile at most, and slots at a time.
CHUNK = 1024
MIN_DOT, MAX_QUERIES = 16, 64
SLOTS_FOR_ONE_QUERY, SLOTS = 32, {torch.float32: 32, torch.bfloat16: 64}


@dataclass(frozen=True)
class MatmulTile:
    """A program's part of a quantised matmul: `rows` of x, `outputs` of the weight, one of `splits` of its inputs.

    `warps` and `stages` (of the software pipeline) are options of the compiler.
    """

    rows: int
    outputs: int
    warps: int
    stages: int
    splits: int


@dataclass(frozen=True)
class AttentionTile:
    """A program's part of the attention: `queries` over a `chunk` of the cache, `slots` at a time.

    A single query has its own kernel, which takes `slots`, `warps` and `chunk`.
    """

    queries: int
    slots: int
    warps: int
    stages: int = 2
    chunk: int = CHUNK


def matmul_tile(rows: int, in_features: int, out_features: int, dtype: torch.dtype) -> MatmulTile:
    """The tile for x [rows,in] in `dtype` and a weight [out,in]."""
    block = max(min(OUTPUTS_AND_WARPS), min(MAX_ROWS[dtype], power_of_2(rows)))
    outputs, warps = OUTPUTS_AND_WARPS[block]
    stages = 3 if block * dtype.itemsize <= 128 else 2
    return MatmulTile(block, outputs, warps, stages, split_count(in_features, out_features))


def split_count(in_features: int, out_features: int) -> int:
    """Splits of a weight's inputs. The weight's shape alone decides, so that every row is rounded alike."""
    return split_groups(in_features, max(1, PROGRAMS // -(-out_features // OUTPUTS_TO_SPLIT_BY)))[0]


def split_groups(in_features: int, wanted: int) -> tuple[int, int]:
    """Splits, at most `wanted`, and the groups of inputs in each of them but the last."""
    groups = -(-in_features // GROUP_SIZE)
    groups_each = -(-groups // min(groups, wanted))
    return -(-groups // groups_each), groups_each


def attention_tile(queries: int, dtype: torch.dtype) -> AttentionTile:
    """The tile for `queries` per key head in `dtype`."""
    if queries == 1:
        return AttentionTile(1, SLOTS_FOR_ONE_QUERY, warps=4)
    block = max(MIN_DOT, min(MAX_QUERIES, power_of_2(queries)))
    return AttentionTile(block, SLOTS[dtype], warps=8 if block == MAX_QUERIES else 4)


def padded_chunks(length: int, chunk: int = CHUNK) -> int:
    """Chunks of a cache, rounded up to the power of two for which the kernel that combines them is compiled."""
    return power_of_2(-(-length // chunk))


def power_of_2(count: int) -> int:
    """The least power of two that is not less."""
    return 1 << (count - 1).bit_length()
