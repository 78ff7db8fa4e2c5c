"""The GPU instructions that unpack weights, executed here one by one: they give the weights of the scheme.

Triton's interpreter takes another path, so this is what stands between a typing slip and a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lumina_core.kernels.reference import pack_codes
from lumina_core.kernels.weight_tiles import to_tiles
from lumina_core.quant.schemes import SCHEMES

quant_matmul = pytest.importorskip("lumina_core.kernels.quant_matmul", reason="triton is not installed")


def halves(word: int) -> list[float]:
    """The bfloat16 values in a word, the low half first."""
    both = torch.tensor([word & 0xFFFF, word >> 16], dtype=torch.int32)
    return torch.where(both < 2**15, both, both - 2**16).to(torch.int16).view(torch.bfloat16).tolist()


def word_of(values: list[float]) -> int:
    """A word of two values, each rounded to bfloat16 once."""
    low, high = (int(each) & 0xFFFF for each in torch.tensor(values).double().bfloat16().view(torch.int16))
    return low | high << 16


def lop3(a: int, b: int, c: int, table: int) -> int:
    bits = 0
    for bit in range(32):
        index = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | c >> bit & 1
        bits |= (table >> index & 1) << bit
    return bits


def fma(a: int, b: int, c: int) -> int:
    return word_of([x * y + z for x, y, z in zip(*map(halves, (a, b, c)), strict=True)])


INSTRUCTIONS: dict[str, Callable[..., int]] = {"mov.b32": lambda a: a, "lop3.b32": lop3, "fma.rn.bf16x2": fma}


def run(program: str, *operands: int) -> int:
    """The result $0 of inline assembly with operands $1, $2, …"""
    registers = {f"${index + 1}": operand for index, operand in enumerate(operands)}
    for line in program.strip("{} ").split(";"):
        if not line.strip() or ".reg" in line:
            continue
        name, target, *sources = re.findall(r"[^\s,]+", line)
        registers[target] = INSTRUCTIONS[name](
            *(registers[one] if one in registers else int(one, 0) for one in sources)
        )
    return registers["$0"]


def test_int8_codes_are_unpacked_exactly() -> None:
    codes = torch.arange(-128, 128, dtype=torch.int8).view(2, 128).repeat(16, 1)
    words = to_tiles(codes, 1)[0, 0].view(torch.int32).view(32, 2, 16).tolist()
    for row in (0, 1):
        found = [
            value
            for part in words[row]
            for half in range(2)
            for word in part
            for value in halves(run(quant_matmul.INT8_PAIR.value, (word >> 8 * half) & 0xFFFFFFFF))
        ]
        assert found == codes[row].float().tolist()


def test_int4_weights_are_those_of_the_scheme() -> None:
    """Up to the one rounding to bfloat16, with scale and zero of both signs."""
    codes = (torch.arange(128) * 7 % 16).view(1, 1, 128)
    packed = pack_codes(codes)
    words = packed.view(torch.int32)[0].tolist()
    for scale, zero in ((0.01, -0.003), (2.5, 1.25), (1e-3, 0.0)):
        scale_zero = torch.tensor([[[scale, zero]]]).bfloat16()
        found = unpacked(words, scale_zero[0, 0])
        expected = SCHEMES["int4"].dequantize({"packed": packed, "scale_zero": scale_zero}, 128)
        assert found == expected[0].bfloat16().float().tolist()


def unpacked(words: list[int], scale_zero: Tensor) -> list[float]:
    scales, zeros = (word_of([each, each]) for each in scale_zero.tolist())
    return [
        value
        for quarter in range(4)
        for word in words
        for value in halves(run(quant_matmul.INT4_PAIR.value, (word >> 4 * quarter) & 0xFFFFFFFF, scales, zeros))
    ]
