"""The inputs on which kernels are compared with their references, interpreted or on a GPU. As a program: the errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.interpreter import prepare_interpreter
from lumina_core.kernels.draft_tree import DraftTree
from lumina_core.kernels.kv_tensor import KV_CACHES, KVTensor
from lumina_core.kernels.samples import (
    add_rms_norm_sample,
    attention_sample,
    int4_sample,
    int8_sample,
    qkv_sample,
    silu_gate_sample,
)
from lumina_core.kernels.select import Choice, load, reference_of
from lumina_core.kernels.self_test import result_tensors
from lumina_core.kernels.window_state import WindowState
from lumina_core.model.run_kernels import BlockKernels, RunKernels
from lumina_core.model.transformer import Transformer
from lumina_core.model.wear import wear
from lumina_core.quant.select import matmul_sample

from . import window_cases
from .core.lora_files import random_lora
from .core.toys import toy_transformer
from .window_cases import WindowCase

BF16, FP32 = torch.bfloat16, torch.float32
# Of the largest value of the result: float32 sums in another order; the same rounded to bfloat16 on the way.
TOLERANCE = {FP32: 1e-5, BF16: 0.02}
# Drawing is in float32 whatever the logits are in. Its log-probabilities are as far off as the larger logits are, and
# less than one token of 16,384 is.
WINDOW_TOLERANCE = 4e-5


@dataclass(frozen=True)
class Case:
    """A kernel, its inputs, and how far off it may be; a token that differs is further off."""

    kernel: str
    sample: Callable[..., tuple[Any, ...]]
    tolerance: float
    sizes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gpu_tolerance(self) -> float:
        """A GPU divides differently: a value between two codes of a cache may become either, and int4 has 16 codes."""
        return 0.15 if self.kernel == "qkv_norm_rope_store" and self.sizes["kv_cache"] != "auto" else self.tolerance

    def difference(self, device: str) -> float:
        """The largest difference over the largest value of the reference's result; inf where one is NaN."""
        # Some write to their arguments, so the reference gets others.
        found, expected = (
            tensors_of(function, arguments)
            for function, arguments in (
                (load(self.kernel), self.sample(device, **self.sizes)),
                (reference_of(self.kernel), clean(self.sample(device, **self.sizes))),
            )
        )
        pairs = list(zip(found, expected, strict=True))
        assert all(found.shape == expected.shape for found, expected in pairs)
        return max(largest_difference(found.double(), expected.double()) for found, expected in pairs if found.numel())


@dataclass(frozen=True)
class Forward:
    """A window's forward by all kernels of a block against operation by operation, in bfloat16."""

    kv_cache: str
    tolerance: float = 0.03
    lora: bool = False

    @property
    def gpu_tolerance(self) -> float:
        return self.tolerance

    def difference(self, device: str) -> float:
        model = forward_model(toy_transformer(64, hidden=64, heads=4), BF16, model_parallel_size=2).to(device)
        if self.lora:
            model = wear(model, [random_lora(model.config)])
        names = "embed_window", "qkv_norm_rope_store", "silu_gate", "add_rms_norm"
        blocks = BlockKernels(*map(load, names))
        kernels = RunKernels(Choice(load("window_attention"), True, "tested here"), blocks)
        found, expected = (window_states(model, self.kv_cache, each) for each in (kernels, RunKernels()))
        # By the norm: a value between two codes of the cache may become either.
        pairs = [(one.double(), other.double()) for one, other in zip(found, expected, strict=True)]
        return max(float((one - other).norm() / other.norm()) for one, other in pairs)


@dataclass(frozen=True)
class NodeBits:
    """The nodes of a draft tree against windows that have their tokens: the kernel gives both the same bits."""

    kv_cache: str
    width: int = 9
    nodes: int = 16
    tolerance: float = 0.0
    gpu_tolerance: float = 0.0

    def difference(self, device: str) -> float:
        tree, attend = DraftTree.of(self.nodes, self.width), load("window_attention")
        sizes = {"kv_cache": self.kv_cache, "width": self.width, "tree": self.nodes, "length": 2100, "heads": (1, 1)}
        # In the first chunk of 128 slots, over its end, and, of one cache, where chunks have 256.
        far = (2049 + self.width,) if self.kv_cache == "int8" else ()
        sizes |= {"filled": (self.width, 134, *far), "head_dim": 16, "corrupt": False}
        query, keys, values, input_pos, *rest = attention_sample(device, BF16, **sizes)
        found = attend(query, keys, values, input_pos, *rest)
        row, widest = torch.arange(len(query), device=device)[:, None], rest[1]
        windows = [(range(self.width), query[:, : self.width], (keys, values))]
        for lane in tree.lanes:
            columns = torch.tensor(lane.nodes, device=device) + self.width
            _, own_keys, own_values, *_ = attention_sample(device, BF16, **sizes)
            stored = (2100 - self.nodes - self.width + columns).expand(len(query), -1)
            for part in (own_keys, own_values):
                part.move(row, stored, input_pos[:, columns])
            windowed = query[:, : self.width].clone()
            windowed[:, lane.depth : lane.depth + lane.length] = query[:, columns]
            windows.append((lane.nodes, windowed, (own_keys, own_values)))
        worst = 0.0
        for number, (nodes, windowed, stored) in enumerate(windows):
            alone = attend(windowed.contiguous(), *stored, input_pos[:, : self.width].contiguous(), rest[0], widest)
            lane = tree.lanes[number - 1]
            expected = alone if not number else alone[:, lane.depth : lane.depth + lane.length]
            start = nodes[0] if not number else self.width + nodes[0]
            same = torch.equal(found[:, start : start + expected.shape[1]], expected)
            worst = max(worst, 0.0 if same else torch.inf)
        return worst


def forward_model(toy: Transformer, dtype: torch.dtype, **changes: Any) -> Transformer:
    """A transformer like a toy, but for changes to its config, whose norms are not the identity."""
    model, generator = Transformer(replace(toy.config, **changes)), torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        weight.data.normal_(1.0 if "norm.weight" in name else 0.0, 0.2, generator=generator)
    model.text_embedding, model.text_head = toy.text_embedding, toy.text_head
    return model.to(dtype).eval().requires_grad_(False)


def window_states(model: Transformer, kv_cache: str, kernels: RunKernels) -> tuple[Tensor, Tensor]:
    """States of a window of five tokens after two prompts of 9 and 20, and the keys that it wrote."""
    rows, length = 2, 40
    cache = model.make_cache(rows, length, kv_cache, kernels)
    ids = torch.randint(0, model.config.vocab_size, (rows, 25), generator=torch.Generator().manual_seed(0))
    for row, prompt in enumerate((9, 20)):
        model.hidden_states(model.embed(ids[row : row + 1, :prompt]), cache.prefill_plan(row, prompt))
    input_pos = torch.tensor([[9], [20]]) + torch.arange(5)
    states = model.hidden_states(model.embed(ids[:, -5:]), cache.plan(input_pos.to(model.device), length))
    return states, cache.layers[1].keys.read(length, model.dtype)


def tensors_of(function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Tensor]:
    """What a call returns, and what it may have changed of a window."""
    result = function(*arguments)
    return result_tensors(result, *(each for each in arguments if isinstance(each, WindowState)))


def clean(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments with a finite cache: torch's attention multiplies what is masked by 0."""
    return tuple(
        replace(part, values=part.values.nan_to_num(posinf=0)) if isinstance(part, KVTensor) else part
        for part in arguments
    )


def largest_difference(found: Tensor, expected: Tensor) -> float:
    off = torch.where(found == expected, 0.0, (found - expected).abs())
    finite = expected[expected.isfinite()].abs()
    return float((off / finite.max().clamp_min(1e-30)).nan_to_num(nan=torch.inf).max())


def case(kernel: str, sample: Callable[..., tuple[Any, ...]], dtype: torch.dtype, **sizes: Any) -> Case:
    return Case(kernel, sample, TOLERANCE[dtype], {"dtype": dtype, **sizes})


def tiles(scheme: str, dtype: torch.dtype, **sizes: Any) -> Case:
    """A matmul whose weight is in tiles."""
    return case(f"{scheme}_matmul", matmul_sample, dtype, scheme=scheme, **sizes)


def attention(dtype: torch.dtype, kv_cache: str, **sizes: Any) -> Case:
    return case("window_attention", attention_sample, dtype, kv_cache=kv_cache, **sizes)


def qkv(dtype: torch.dtype, kv_cache: str, **sizes: Any) -> Case:
    return case("qkv_norm_rope_store", qkv_sample, dtype, kv_cache=kv_cache, **sizes)


def of_windows(cases: Mapping[str, WindowCase]) -> dict[str, Case]:
    return {
        name: Case(kernel, make, TOLERANCE[sizes["dtype"]] if kernel == "embed_window" else WINDOW_TOLERANCE, sizes)
        for name, (kernel, make, sizes) in cases.items()
    }


SMALL: Mapping[str, Case | Forward | NodeBits] = {
    "attention, int8, bf16": attention(BF16, "int8"),
    "attention, int8, fp32": attention(FP32, "int8", head_dim=16),
    "attention, plain, bf16": attention(BF16, "auto"),
    "attention, plain, fp32": attention(FP32, "auto", head_dim=32),
    "attention, int4, bf16": attention(BF16, "int4", head_dim=128),
    "attention, int4, fp32": attention(FP32, "int4", heads=(4, 2), filled=(70, 9), head_dim=64),
    "attention, int4, one group a half": attention(FP32, "int4", width=3, head_dim=16),
    "attention, one query": attention(FP32, "int8", width=1, filled=(1, 33), head_dim=16),
    "attention, one query, chunks": attention(FP32, "auto", width=1, filled=(2054, 1024, 40), head_dim=16, length=2064),
    "attention, one query, int4": attention(FP32, "int4", width=1, filled=(50, 7), head_dim=64),
    "attention, one query, bf16": attention(BF16, "int8", width=1, heads=(3, 3)),
    "attention, grouped heads": attention(FP32, "int8", heads=(6, 2), width=7, head_dim=16),
    "attention, many queries": attention(FP32, "auto", heads=(4, 1), width=20, filled=(21, 90), head_dim=16),
    **{
        f"attention, tree, {kv_cache}": attention(
            dtype, kv_cache, filled=(12, 140, 135), width=12, heads=(2, 2), head_dim=16 * size, length=256, tree=16
        )
        for kv_cache, dtype, size in (("auto", FP32, 1), ("int8", BF16, 2), ("int4", FP32, 4))
    },
    "attention, tree, grouped heads": attention(
        FP32, "auto", heads=(8, 2), filled=(9, 200), width=8, head_dim=16, length=300, tree=40
    ),
    "attention, tree, chunks": attention(
        FP32, "int8", filled=(2054, 1025, 1030, 40), heads=(1, 1), width=9, head_dim=16, length=2080, tree=16
    ),
    "qkv, tree": qkv(FP32, "auto", head_dim=16, nodes=3),
    "qkv, tree, int8": qkv(BF16, "int8", head_dim=64, nodes=2),
    "attention, chunks": attention(
        FP32, "int8", filled=(2054, 1025, 1024, 40), heads=(1, 1), width=3, head_dim=16, length=2064
    ),
    # Chunks double beyond 2048 slots; the windows of the first two rows hold positions on both sides of that.
    "attention, longer chunks": attention(
        FP32, "auto", filled=(2049, 2050, 2048, 2052), heads=(1, 1), width=4, head_dim=16, length=2064
    ),
    "int4, bf16": case("int4_matmul", int4_sample, BF16),
    "int4, fp32": case("int4_matmul", int4_sample, FP32, rows=2, out_features=64),
    "int4, odd sizes": case("int4_matmul", int4_sample, FP32, rows=33, in_features=300, out_features=70),
    "int4, less than a group": case("int4_matmul", int4_sample, FP32, rows=17, in_features=96, out_features=10),
    "int4, tiles, bf16": tiles("int4", BF16, in_features=1280, out_features=160),
    "int4, tiles, fp32": tiles("int4", FP32, rows=33, out_features=64),
    "int8, bf16": case("int8_matmul", int8_sample, BF16),
    "int8, tiles, bf16": tiles("int8", BF16, in_features=1280, out_features=160),
    "int8, tiles, fp32": tiles("int8", FP32, rows=33, out_features=64),
    "int8, odd sizes": case("int8_matmul", int8_sample, FP32, rows=18, in_features=301, out_features=70),
    "qkv, plain, bf16": qkv(BF16, "auto"),
    "qkv, plain, fp32": qkv(FP32, "auto", heads=(6, 2), head_dim=16, norms=1),
    "qkv, int8, bf16": qkv(BF16, "int8", splits=1),
    "qkv, int8, fp32": qkv(FP32, "int8", heads=(6, 2)),
    "qkv, int4, bf16": qkv(BF16, "int4", head_dim=128),
    "qkv, int4, fp32": qkv(FP32, "int4", splits=3, norms=4, head_dim=128),
    "qkv, int4, one group a half": qkv(FP32, "int4", head_dim=32),
    "gate, bf16": case("silu_gate", silu_gate_sample, BF16),
    "gate, fp32": case("silu_gate", silu_gate_sample, FP32, splits=1, width=20),
    "add, bf16": case("add_rms_norm", add_rms_norm_sample, BF16),
    "add, fp32": case("add_rms_norm", add_rms_norm_sample, FP32, splits=1, size=64),
    **{f"forward, {kv_cache}": Forward(kv_cache) for kv_cache in KV_CACHES},
    "forward, LoRA": Forward("int8", lora=True),
    **{f"bits of a node, {kv_cache}": NodeBits(kv_cache) for kv_cache in KV_CACHES},
    **of_windows(window_cases.SMALL),
}
# The published model's, too large for the interpreter.
LARGE: Mapping[str, Case | Forward] = (
    {
        f"attention, W {width}, {kv_cache}": attention(
            BF16, kv_cache, filled=(9312, 9200), heads=(32, 32), width=width, head_dim=128, length=9344
        )
        for width in (1, 32, 64)
        for kv_cache in ("auto", "int8", "int4")
    }
    | {
        f"{scheme}, {rows} rows, {outs} × {ins}": tiles(scheme, BF16, rows=rows, in_features=ins, out_features=outs)
        for scheme in ("int4", "int8")
        for rows in (2, 32, 64, 128)
        for outs, ins in ((12_288, 4096), (4096, 11_008))
    }
    | {
        **{
            f"qkv, {tokens} tokens, {kv_cache}": qkv(
                BF16, kv_cache, tokens=tokens, heads=(32, 32), head_dim=128, splits=2, norms=1
            )
            for tokens in (2, 64)
            for kv_cache in KV_CACHES
        },
        "gate, 64 tokens": case("silu_gate", silu_gate_sample, BF16, tokens=64, width=11_008, splits=1),
        "add, 2 tokens": case("add_rms_norm", add_rms_norm_sample, BF16, tokens=2, size=4096, splits=6),
        **of_windows(window_cases.LARGE),
    }
)


if __name__ == "__main__":
    prepare_interpreter()
    torch.set_num_threads(1)
    print(json.dumps({name: each.difference(sys.argv[1]) for name, each in SMALL.items()}))
