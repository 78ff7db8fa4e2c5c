"""The tests of captured steps, and how often `gumbel` and `ar` differ on the demo."""

from __future__ import annotations

import torch

from lumina_core.decoding.settings import DecodeSettings
from lumina_core.pipeline import Lumina
from training.world import CATEGORIES, fresh_samples

from ..sources import caption_request
from .context import Context, emit
from .pytest_runs import RESERVE, failure_of, run_pytest

PROMPTS_PER_CATEGORY, DRY_PROMPTS, WORKERS = 8, 1, 4


def run(context: Context) -> None:
    for dtype in (torch.bfloat16,) if context.dry_run else (torch.bfloat16, torch.float32):
        emit(**_compare(context, dtype))
    tests = run_pytest("tests/gpu/test_steps.py", context.left - RESERVE, 0 if context.dry_run else WORKERS)
    emit(**tests)
    if failure := failure_of(tests, may_skip=context.dry_run):
        raise RuntimeError(f"{failure}: see the figures")


def _compare(context: Context, dtype: torch.dtype) -> dict[str, object]:
    """Counts codes and pictures in which `gumbel` at its default window differs from `ar` with the same seeds."""
    lumina = Lumina.load("demo", device=context.device, dtype=dtype)
    categories = CATEGORIES[:1] if context.dry_run else CATEGORIES
    count = DRY_PROMPTS if context.dry_run else PROMPTS_PER_CATEGORY
    captions = [one.caption for category in categories for one in fresh_samples(category, count, seed=0)]
    gumbel, ar = (
        lumina.sample(caption_request(lumina, captions, DecodeSettings(decoder=decoder)))
        for decoder in ("gumbel", "ar")
    )
    differ = gumbel.codes != ar.codes
    return {
        "compared": "gumbel with ar",
        "dtype": str(dtype).removeprefix("torch."),
        "kernel": gumbel.matmul_kernel,
        "attention": gumbel.attention_kernel,
        "pictures": len(differ),
        "codes": differ.numel(),
        "differing_pictures": int(differ.flatten(1).any(1).sum()),
        "differing_codes": int(differ.sum()),
        "forwards": gumbel.nfe,
        "forwards_of_ar": ar.nfe,
    }
