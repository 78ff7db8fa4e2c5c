"""The tiles of the kernels, and the number of splits of a matmul's inputs. Needs no Triton."""

from dataclasses import dataclass

import torch

from .reference import GROUP_SIZE

# Rows of x in a program, at most; 16 at least.
MAX_ROWS, MIN_ROWS = {torch.bfloat16: 128, torch.float32: 32}, 16
# Outputs of a program: of 64 and 128, those with the fewest instructions a weight in the compiled code at any number of
# rows, and half the bytes of x to read for a weight.
OUTPUTS = 128
# Bytes of x and of a weight that a program may read ahead three times: two programs then fit on an SM with 100 KB.
STAGE_BYTES = 25 * 1024
# SMs of the GPUs that a grid is cut for (RTX 4090, H100), programs that each should have at least, and what it costs
# to write and add partial sums, in groups of inputs.
SMS, PROGRAMS_EACH, SUM_COST = (128, 132), 2, 2
# Attention: chunks of a row at most, and slots of one at least; queries of a tile at most (half as many but on an H100,
# where so many are one product of a warp group), and slots at a time.
MAX_CHUNKS, CHUNK = 16, 128
MIN_DOT, MAX_QUERIES, WARP_GROUPS = 16, 64, 90
SLOTS_FOR_ONE_QUERY, SLOTS = 32, {torch.float32: 32, torch.bfloat16: 64}
# Compute capabilities with 160 KB of shared memory an SM and more, where two programs have room for so many slots.
LARGE_SHARED, MANY_SLOTS = (80, 90, 100, 103), 128


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
    """A program's part of the attention: `queries` over a chunk of the cache, `slots` at a time.

    A chunk has at least `chunk` slots, a multiple of `slots`. A single query has its own kernel, which takes `slots`,
    `warps` and `chunk`.
    """

    queries: int
    slots: int
    warps: int
    stages: int = 2
    chunk: int = CHUNK


def matmul_tile(rows: int, in_features: int, out_features: int, dtype: torch.dtype, weight_bits: int = 4) -> MatmulTile:
    """The tile for x [rows,in] in `dtype` and a weight [out,in]."""
    block = max(MIN_ROWS, min(MAX_ROWS[dtype], power_of_2(rows)))
    stage_bytes = GROUP_SIZE * (block * dtype.itemsize + OUTPUTS * weight_bits // 8)
    warps, stages = 8 if block > 64 else 4, 3 if stage_bytes <= STAGE_BYTES else 2
    return MatmulTile(block, OUTPUTS, warps, stages, split_count(in_features, out_features))


def split_count(in_features: int, out_features: int) -> int:
    """Splits of a weight's inputs. The weight's shape alone decides, so that every row is rounded alike."""
    programs, groups = -(-out_features // OUTPUTS), -(-in_features // GROUP_SIZE)
    fewest = min(groups, -(-PROGRAMS_EACH * min(SMS) // programs))

    def cost(wanted: int) -> int:
        """Groups that the busiest SM computes."""
        splits, groups_each = split_groups(in_features, wanted)
        return max(-(-programs * splits // sms) for sms in SMS) * (groups_each + SUM_COST)

    return split_groups(in_features, min(range(fewest, min(groups, 2 * fewest) + 1), key=cost))[0]


def split_groups(in_features: int, wanted: int) -> tuple[int, int]:
    """Splits, at most `wanted`, and the groups of inputs in each of them but the last."""
    groups = -(-in_features // GROUP_SIZE)
    groups_each = -(-groups // min(groups, wanted))
    return -(-groups // groups_each), groups_each


def attention_tile(queries: int, dtype: torch.dtype, capability: int = 0, is_int4: bool = False) -> AttentionTile:
    """The tile for `queries` per key head in `dtype` on a device of a compute capability (90 for 9.0; 0: any).

    `is_int4` is of the cache, whose values take the most registers.
    """
    if queries == 1:
        return AttentionTile(1, SLOTS_FOR_ONE_QUERY, warps=4)
    wanted, slots = max(MIN_DOT, power_of_2(queries)), SLOTS[dtype]
    if capability == WARP_GROUPS and wanted >= MAX_QUERIES:
        return AttentionTile(MAX_QUERIES, slots, warps=4)
    many = dtype == torch.bfloat16 and capability in LARGE_SHARED and not is_int4
    return AttentionTile(min(MAX_QUERIES // 2, wanted), MANY_SLOTS if many else slots, warps=4)


def chunk_count(length: int, chunk: int = CHUNK) -> int:
    """Chunks of a row whose cache is filled up to `length` slots at most."""
    return min(MAX_CHUNKS, -(-length // chunk))


def padded_chunks(length: int, chunk: int = CHUNK) -> int:
    """Chunks of a cache, rounded up to the power of two for which the kernel that combines them is compiled."""
    return power_of_2(chunk_count(length, chunk))


def power_of_2(count: int) -> int:
    """The least power of two that is not less."""
    return 1 << (count - 1).bit_length()
