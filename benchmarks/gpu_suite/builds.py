"""The kernel variants to compile: every one that a run or a sweep of the suite uses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.locate import DEMO_FOLDER
from lumina_core.decoding.settings import AUTO_TREE
from lumina_core.kernels.kv_tensor import KV_CACHES
from lumina_core.kernels.reference import GROUP_SIZE
from lumina_core.kernels.tiles import MIN_DOT, AttentionTile, MatmulTile, padded_chunks, power_of_2
from lumina_core.kernels.weight_tiles import TILE_ROWS
from lumina_core.kernels.window_state import ABOVE, COUPLED, GUESS, GUMBEL, NEW_DRAFTS, RANDOM, SJD
from lumina_core.model.load import linear_shapes
from lumina_core.model.run_kernels import TEST_SLOTS
from lumina_core.timing.steps import PROMPT_TOKENS, canvas_reaching
from lumina_core.timing.synthetic import SYNTHETIC

from ..kernels import attention, matmul, rest
from ..kernels.arguments import Arguments, matmul_arguments

ROWS, WIDTHS, CONTEXTS = (64, 2, 32, 128, 16), (1, 8, 16, 32, 64), (1024, 5120, 9216)
SCHEMES, DRY_BUILDS = ("int4", "int8"), 4
# The narrowest window with a draft tree. Trees of other sizes change the code by constants alone.
TREE_WIDTH = 8


@dataclass(frozen=True)
class Build:
    """A kernel's variant: `arguments()` are unfilled tensors, `options` are passed by name."""

    kernel: str
    variant: str
    arguments: Callable[[], Arguments]
    options: dict[str, Any]


def cache_slots() -> int:
    """Slots of the cache in the sweep of attention: those of a 768×768 picture."""
    return PROMPT_TOKENS + canvas_reaching(max(CONTEXTS), max(WIDTHS)).last + 1


def all_builds(dry_run: bool) -> list[Build]:
    """Every variant once: first those of a run, then those that are only swept."""
    if dry_run:
        of_each = {one.kernel: one for one in _once(_of_a_run(SYNTHETIC["tiny"].config, ("int8",), (1,), 128))}
        return list(of_each.values())[:DRY_BUILDS]
    published, demo = SYNTHETIC["7b"].config, TransformerConfig.from_file(DEMO_FOLDER / "config.json")
    return _once(
        itertools.chain(
            _of_a_run(published, KV_CACHES, WIDTHS, cache_slots()),
            _of_a_run(demo, KV_CACHES, WIDTHS, 256),
            _matmuls(published, matmul.tiles_of),
            _swept_attention(published),
        )
    )


def _once(builds: Iterator[Build]) -> list[Build]:
    return list({(build.kernel, build.variant): build for build in builds}.values())


def _of_a_run(
    config: TransformerConfig, kv_caches: Sequence[str], widths: Sequence[int], length: int
) -> Iterator[Build]:
    yield from _matmuls(config, lambda scheme, problem: [problem.tile_in_use(scheme)])
    # In a cache of the run's length, and of that of the self-tests, whose chunks are combined by another variant.
    for kv_cache, width, slots in itertools.product(kv_caches, widths, (length, TEST_SLOTS + 1)):
        for nodes in (0, AUTO_TREE) if width >= TREE_WIDTH else (0,):
            problem = attention.Problem(config, kv_cache, width, 0, slots, nodes)
            yield _attention(problem, problem.tile_in_use)
    for kernel in ("qkv_norm_rope_store", "silu_gate", "add_rms_norm"):
        for splits in sorted({1, rest.splits_in_use(kernel, config)}):
            for kv_cache in kv_caches if kernel == "qkv_norm_rope_store" else ("",):
                problem = rest.Problem(config, 2, splits, kv_cache)
                yield _small(kernel, problem, f"{config.hidden_size} {kv_cache}, {splits} splits")
    for tree in (0, AUTO_TREE):
        yield _small("embed_window", rest.Problem(config, 2 * TREE_WIDTH, tree=tree), f"{config.hidden_size}, {tree}")
    for kv_cache in kv_caches:
        of_tree = rest.Problem(config, 2 * TREE_WIDTH, kv_cache=kv_cache, tree=AUTO_TREE)
        yield _small("keep_branch", of_tree, f"{config.hidden_size} {kv_cache}")
    yield from _windows(config, widths)


def _windows(config: TransformerConfig, widths: Sequence[int]) -> Iterator[Build]:
    """The kernels that move a window, by what their code depends on of the rule and the new drafts."""
    codes, narrow = config.codebook_size, rest.Problem(config, 2)
    for rule in (GUMBEL, COUPLED):
        for change in ({}, {"new_drafts": GUESS}, {"cfg_scale": 1.0}, {"top_k": codes}):
            yield _small("draw_window", replace(narrow, rule=rule, **change), f"{codes}, {rule} {change}")
            if rule == GUMBEL:
                of_tree = replace(narrow, rows=2 * TREE_WIDTH, tree=AUTO_TREE, **change)
                yield _small("draw_window", of_tree, f"{codes}, {rule} {change}, tree")
    for rule, way in ((GUMBEL, GUESS), *((COUPLED, way) for way in (ABOVE, RANDOM, GUESS))):
        yield _small("place_drafts", replace(narrow, rule=rule, new_drafts=way), f"{codes}, {rule}, {way}")
    for rule, way, width in itertools.product((GUMBEL, SJD), NEW_DRAFTS, widths):
        problem = rest.Problem(config, 2 * width, rule=rule, new_drafts=way)
        yield _small("accept_window", problem, f"{rule}, {way}, window {power_of_2(width)}")
        if rule == GUMBEL and width >= TREE_WIDTH:
            yield _small("accept_window", replace(problem, tree=AUTO_TREE), f"{way}, window {power_of_2(width)}, tree")


def _small(kernel: str, problem: rest.Problem, variant: str) -> Build:
    return Build(kernel, variant, partial(rest.ARGUMENTS[kernel], problem, "cpu"), {})


def _matmuls(
    config: TransformerConfig, tiles: Callable[[str, matmul.Problem], Sequence[MatmulTile]]
) -> Iterator[Build]:
    for scheme, problem in itertools.product(SCHEMES, matmul.problems(linear_shapes(config), ROWS)):
        for tile in tiles(scheme, problem):
            # How often the inputs are split changes the code no more than by the dtype of the partial sums.
            variant = {**asdict(tile), "splits": min(tile.splits, 2)}
            whole = [problem.shape[0] % GROUP_SIZE == 0, problem.shape[1] % TILE_ROWS == 0]
            arguments = partial(matmul_arguments, scheme, problem.shape, problem.rows, "cpu")
            yield Build(f"{scheme}_matmul", f"{variant} {whole}", arguments, {"sum_splits": False, "tile": tile})


def _swept_attention(config: TransformerConfig) -> Iterator[Build]:
    for kv_cache, width in itertools.product(KV_CACHES, WIDTHS):
        problem = attention.Problem(config, kv_cache, width, 0, cache_slots())
        for tile in attention.tiles_of(problem):
            yield _attention(problem, tile)


def _attention(problem: attention.Problem, tile: AttentionTile) -> Build:
    window, chunks = power_of_2(max(problem.slots, MIN_DOT)), padded_chunks(problem.length, tile.chunk)
    name = f"{problem.config.hidden_size} {problem.kv_cache} {asdict(tile)}"
    variant = f"{name}, window {window}, {chunks} chunks, tree of {problem.tree}"
    return Build("window_attention", variant, partial(problem.arguments, "cpu"), {"tile": tile})
