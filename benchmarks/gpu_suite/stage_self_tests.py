"""The self-tests of each kernel, as before a run of the 7B, and the tests of all kernels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from lumina_core.decoding.settings import AUTO_TREE
from lumina_core.kernels.draft_tree import DraftTree
from lumina_core.kernels.kv_tensor import KV_CACHES
from lumina_core.kernels.select import load, reference_of, unsupported_reason
from lumina_core.kernels.self_test import Sample, self_test
from lumina_core.kernels.tiles import split_count
from lumina_core.kernels.window_state import ABOVE, GUESS, GUMBEL, RULES, Sampling
from lumina_core.model.load import linear_shapes
from lumina_core.model.run_kernels import KERNEL_DTYPE, branch_samples, run_samples, window_samples
from lumina_core.quant.select import SAMPLES, matmul_samples
from lumina_core.quant.tinygemm import tinygemm_failure
from lumina_core.timing.synthetic import SYNTHETIC

from .builds import cache_slots
from .context import Context, emit, require_triton
from .pytest_runs import RESERVE, failure_of, run_pytest

WIDTH, WORKERS = 64, 6


def run(context: Context) -> None:
    require_triton()
    emit(unusable=unsupported_reason(context.device))
    failed = 0
    for kernel, variant, samples in _self_tests(context):
        # In a dry run one sample each: the interpreter is slow.
        some = samples[:1] if context.dry_run else samples
        tested = [self_test(load(kernel), reference_of(kernel), sample, context.device) for sample in some]
        reasons = [one.reason for one in tested if one.reason]
        error = max((one.error for one in tested if one.error is not None), default=None)
        failed += bool(reasons)
        emit(kernel=kernel, variant=variant, samples=len(tested), reason="; ".join(reasons), largest_error=error)
    emit(kernel="tinygemm", variant="", reason=tinygemm_failure(context.device))
    tests = run_pytest("tests/gpu/test_kernels.py", context.left - RESERVE, 0 if context.dry_run else WORKERS)
    emit(**tests)
    failures = [f"{failed} self-tests failed"] if failed else []
    failures += filter(None, [failure_of(tests, may_skip=context.dry_run)])
    if failures:
        raise RuntimeError(f"{'; '.join(failures)}: see the figures")


def _self_tests(context: Context) -> Iterator[tuple[str, str, tuple[Sample, ...]]]:
    """Kernel, variant and samples; a kernel whose samples are the same for every kind of cache comes once."""
    config = SYNTHETIC[context.model].config
    shapes = linear_shapes(config)
    for scheme in SAMPLES:
        yield f"{scheme}_matmul", "", matmul_samples(scheme, shapes.values())
    width, length = (2, 1) if context.dry_run else (WIDTH, cache_slots())
    splits = {layer: (split_count(*shape),) for layer, shape in shapes.items()}
    seen = set()
    for kv_cache, nodes in itertools.product(KV_CACHES, (0, AUTO_TREE)):
        tree = DraftTree.of(nodes, width)
        of_run = run_samples(config, splits, kv_cache, width, length, tree)
        for kernel, samples in {**of_run, **branch_samples(config, True, kv_cache, tree)}.items():
            told = kv_cache * (("kv_cache", kv_cache) in samples[0].sizes), f"tree of {len(tree)}" * bool(tree.lanes)
            if (kernel, samples) not in seen:
                seen.add((kernel, samples))
                yield kernel, ", ".join(filter(None, told)), samples
    # In a dry run all kernels, but not all rules.
    rules, ways = (RULES[-1:], (GUESS,)) if context.dry_run else (RULES, (ABOVE, GUESS))
    for rule, way in itertools.product(rules, ways):
        for nodes in (0, AUTO_TREE) if rule == GUMBEL else (0,):
            sampling = Sampling(config.codebook_size, rule, way, tree=nodes)
            for kernel, samples in window_samples(sampling, KERNEL_DTYPE, 2 if context.dry_run else WIDTH).items():
                yield kernel, f"{rule}, {way}{', tree' if nodes else ''}", samples
