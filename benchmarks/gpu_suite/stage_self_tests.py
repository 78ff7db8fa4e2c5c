"""Each kernel's self-tests, those that a run of the 7B makes before it starts, and the tests of all kernels."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.decoding.sampling import draw_samples, topk_samples
from lumina_core.kernels import reference
from lumina_core.kernels.select import Sample, load, self_test, unusable
from lumina_core.kernels.tiles import padded_chunks
from lumina_core.model.kv_store import KV_CACHES
from lumina_core.model.load import linear_shapes
from lumina_core.model.make_cache import attention_samples, block_samples
from lumina_core.quant.schemes import SCHEMES
from lumina_core.quant.tinygemm import choose_tinygemm
from lumina_core.quant.triton_matmul import matmul_samples
from lumina_core.timing.synthetic import SYNTHETIC

from ..kernels.rest import splits_in_use
from .builds import cache_slots
from .context import Context, emit, require_triton
from .pytest_runs import RESERVE, failure_of, run_pytest

WIDTH, WORKERS = 64, 6


def run(context: Context) -> None:
    require_triton()
    emit(unusable=unusable(context.device))
    failed = 0
    for kernel, variant, samples in _self_tests(context):
        # In a dry run one sample each: the interpreter is slow.
        some = samples[:1] if context.dry_run else samples
        tested = [self_test(load(kernel), getattr(reference, kernel), sample) for sample in some]
        reasons = [one.reason for one in tested if one.reason]
        error = max((one.error for one in tested if one.error is not None), default=None)
        failed += bool(reasons)
        emit(kernel=kernel, variant=variant, samples=len(tested), reason="; ".join(reasons), largest_error=error)
    found, reason = choose_tinygemm(context.device)
    emit(kernel="tinygemm", variant="", reason="" if found else reason)
    tests = run_pytest("tests/gpu/test_kernels.py", context.left - RESERVE, 0 if context.dry_run else WORKERS)
    emit(**tests)
    wrong = [f"{failed} self-tests failed"] if failed else []
    wrong += filter(None, [failure_of(tests, may_skip=context.dry_run)])
    if wrong:
        raise RuntimeError(f"{'; '.join(wrong)}: the figures say more")


def _self_tests(context: Context) -> Iterator[tuple[str, str, list[Sample]]]:
    """Kernel, variant and samples."""
    config, device = SYNTHETIC[context.model].transformer, context.device
    width, chunks = (1, 1) if context.dry_run else (WIDTH, padded_chunks(cache_slots()))
    for scheme in SCHEMES.values():
        yield f"{scheme.name}_matmul", "", matmul_samples(scheme, device, linear_shapes(config).values())
    for kv_cache in KV_CACHES:
        yield "window_attention", kv_cache, attention_samples(device, config, kv_cache, width, chunks)
        yield "place_heads", kv_cache, _block("place_heads", device, config, kv_cache)
    yield "silu_gate", "", _block("silu_gate", device, config, "int8")
    yield "add_norm", "", _block("add_norm", device, config, "int8")
    yield "topk_cut", "", topk_samples(device, config.codebook_size)
    yield "gumbel_draw", "", draw_samples(device, config.codebook_size)


def _block(kernel: str, device: torch.device, config: TransformerConfig, kv_cache: str) -> list[Sample]:
    return block_samples(kernel, device, config, kv_cache, (splits_in_use(kernel, config),))
