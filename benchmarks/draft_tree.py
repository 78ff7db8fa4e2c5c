"""What a draft tree could save `gumbel` at most: python -m benchmarks.draft_tree

Behind the first draft that fails, a tree would try other tokens at the same position in the same forward: those that
rank next in the logits of the forward before, with the position's noise. Where one of them is the right token, the
forward would settle one token more. This counts how often that is so, with nothing else changed.
"""

from __future__ import annotations

import argparse
from collections import Counter
from unittest import mock

import torch
from torch import Tensor

from lumina_core.decoding import window
from lumina_core.decoding.rules import GumbelRule, Slots
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.kernels.noise import gumbel_noise
from lumina_core.pipeline import Request, draw
from lumina_core.tokens.prompts import build_prompt
from training.world import CANVAS, CATEGORIES, fresh_samples

from .sources import GRID_SIDE, load_demo

BRANCHES = (2, 4, 8)


class Watching(GumbelRule):
    """`gumbel`, counting the rank of each forward's first token in what the forward before held of it."""

    def __init__(self, ranks: Counter[int], top_k: int):
        super().__init__(top_k)
        self.ranks = ranks
        self.before: tuple[Tensor, int] | None = None

    def settle(self, logits: Tensor, drafts: Tensor, slots: Slots) -> tuple[Tensor, Tensor]:
        """As `GumbelRule`."""
        held = logits + gumbel_noise(slots.keys, slots.index, logits.shape[-1])
        first, token = int(slots.index[0, 0]), int(held[0, 0].argmax())
        if self.before is not None and not bool(slots.forced[0, 0]):
            old, start = self.before
            if first - start < old.shape[1]:
                self.ranks[int((old[0, first - start] > old[0, first - start, token]).sum())] += 1
        self.before = held, first
        return super().settle(logits, drafts, slots)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--prompts-per-category", type=int, default=17)
    options = parser.parse_args()
    demo, ranks, forwards = load_demo(options.checkpoint, "cpu"), Counter[int](), 0
    samples = [sample for name in CATEGORIES for sample in fresh_samples(name, options.prompts_per_category, 0)]
    with (
        mock.patch.object(window, "make_rule", side_effect=lambda _decoder, _probs, top_k: Watching(ranks, top_k)),
        torch.inference_mode(),
    ):
        for seed, sample in enumerate(samples):
            prompt = demo.tokenizer.encode_prompt(build_prompt("t2i", CANVAS, CANVAS, sample.caption))
            settings = DecodeSettings(seed=seed, window_size=options.window)
            request = Request([prompt], GRID_SIDE, GRID_SIDE, settings=settings)
            forwards += draw(demo.transformer, demo.vocabulary, request).nfe
    print(f"{forwards / len(samples):.1f} forwards a picture")
    for branches in BRANCHES:
        hits = sum(count for rank, count in ranks.items() if 0 < rank < branches)
        print(f"{branches} tokens a position: right in {hits / forwards:.1%} of the forwards, at most as many saved")


if __name__ == "__main__":
    main()
