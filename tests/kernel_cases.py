"""What every kernel is compared with its twin on, interpreted or on a GPU. As a program: how far off each is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lumina_core.kernels import eager
from lumina_core.kernels.chooser import load
from lumina_core.kernels.samples import attention_sample, int4_sample, int8_sample, logits_sample

BF16, FP32 = torch.bfloat16, torch.float32
# Of the largest number of the result: float32 sums in another order; the same rounded to bfloat16 on the way.
TOLERANCE = {FP32: 1e-5, BF16: 0.02}


@dataclass(frozen=True)
class Case:
    """A kernel, its inputs, and how far off it may be; 0 is the same bit for bit."""

    kernel: str
    sample: Callable[..., tuple[Any, ...]]
    tolerance: float
    sizes: Mapping[str, Any] = field(default_factory=dict)

    def difference(self, device: str) -> float:
        """The largest difference over the largest number of the twin's result; inf where one is no number."""
        arguments = self.sample(device, **self.sizes)
        found = load(self.kernel)(*arguments)
        expected = getattr(eager, self.kernel)(*clean(arguments))
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype), (found.shape, found.dtype)
        return largest_difference(found.double(), expected.double())


def clean(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments with a finite cache: torch's attention multiplies what is masked by 0."""
    return tuple(
        replace(part, numbers=part.numbers.nan_to_num(posinf=0)) if isinstance(part, eager.Stored) else part
        for part in arguments
    )


def largest_difference(found: Tensor, expected: Tensor) -> float:
    off = torch.where(found == expected, 0.0, (found - expected).abs())
    finite = expected[expected.isfinite()].abs()
    return float((off / finite.max().clamp_min(1e-30)).nan_to_num(nan=torch.inf).max())


def case(kernel: str, sample: Callable[..., tuple[Any, ...]], dtype: torch.dtype, **sizes: Any) -> Case:
    return Case(kernel, sample, TOLERANCE[dtype], {"dtype": dtype, **sizes})


def attention(dtype: torch.dtype, kv_cache: str, **sizes: Any) -> Case:
    return case("window_attention", attention_sample, dtype, kv_cache=kv_cache, **sizes)


def topk(count: int, top_k: int) -> Case:
    return Case("topk_cut", logits_sample, 0.0, {"count": count, "top_k": top_k})


SMALL: Mapping[str, Case] = {
    "attention, int8, bf16": attention(BF16, "int8"),
    "attention, int8, fp32": attention(FP32, "int8", head_dim=16),
    "attention, plain, bf16": attention(BF16, "auto"),
    "attention, plain, fp32": attention(FP32, "auto", head_dim=32),
    "attention, int4, bf16": attention(BF16, "int4", head_dim=128),
    "attention, int4, fp32": attention(FP32, "int4", heads=(4, 2), filled=(70, 9), head_dim=64),
    "attention, int4, one group a half": attention(FP32, "int4", width=3, head_dim=16),
    "attention, one query": attention(FP32, "int8", width=1, filled=(1, 33), head_dim=16),
    "attention, grouped heads": attention(FP32, "int8", heads=(6, 2), width=7, head_dim=16),
    "attention, many queries": attention(FP32, "auto", heads=(4, 1), width=20, filled=(21, 90), head_dim=16),
    "attention, chunks": attention(
        FP32, "int8", filled=(2054, 1025, 1024, 40), heads=(1, 1), width=3, head_dim=16, length=2064
    ),
    "int4, bf16": case("int4_matmul", int4_sample, BF16),
    "int4, fp32": case("int4_matmul", int4_sample, FP32, rows=2, out_features=64),
    "int4, odd sizes": case("int4_matmul", int4_sample, FP32, rows=33, in_features=300, out_features=70),
    "int4, less than a group": case("int4_matmul", int4_sample, FP32, rows=17, in_features=96, out_features=10),
    "int8, bf16": case("int8_matmul", int8_sample, BF16),
    "int8, odd sizes": case("int8_matmul", int8_sample, FP32, rows=18, in_features=301, out_features=70),
    **{
        f"top-k, {k} of {count}": topk(count, k)
        for count, k in ((1000, 1), (1000, 50), (1000, 1000), (16_384, 4096), (3, 2))
    },
}
# The published model's, too large for the interpreter.
LARGE: Mapping[str, Case] = {
    f"attention, W {width}, {kv_cache}": attention(
        BF16, kv_cache, filled=(9312, 9200), heads=(32, 32), width=width, head_dim=128, length=9344
    )
    for width in (1, 32, 64)
    for kv_cache in ("auto", "int8", "int4")
} | {
    f"int{bits}, {rows} rows, {outs} × {ins}": case(
        f"int{bits}_matmul", sample, BF16, rows=rows, in_features=ins, out_features=outs
    )
    for bits, sample in ((4, int4_sample), (8, int8_sample))
    for rows in (2, 64, 128)
    for outs, ins in ((12_288, 4096), (4096, 11_008))
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: each.difference(sys.argv[1]) for name, each in SMALL.items()}))
