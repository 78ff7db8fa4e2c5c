"""What fewer bits cost: python -m benchmarks.weights [--scenes 512] [--json FILE]

Each form of the weights says how likely it finds the codes of fresh rendered scenes: the mean negative log-likelihood
in nats a code, how much more that is than with fp32 weights (with its standard error over the scenes), and the mean
Kullback-Leibler divergence of its distributions from those of fp32. int4 comes with its scales fitted and with plain
rounding. All but bf16 compute in fp32.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lumina_core.checkpoint import CheckpointFiles, find_checkpoint
from lumina_core.config import TransformerConfig
from lumina_core.errors import InputError, LuminaError
from lumina_core.model import Transformer
from lumina_core.model.load import read_transformer, weight_bytes
from lumina_core.quant import Int4, Int8, WeightsPlan
from lumina_core.tokenizer import load_tokenizer
from lumina_core.vocabulary import Vocabulary
from training.codes import Batch, make_batches
from training.world import CATEGORIES
from training.world.sampling import FRESH_STREAM

BATCH = 32
FORMS = {
    "fp32": WeightsPlan(torch.float32),
    "bf16": WeightsPlan(torch.bfloat16),
    "int8": WeightsPlan(torch.float32, Int8()),
    "int4, plain rounding": WeightsPlan(torch.float32, Int4(rounds=0)),
    "int4": WeightsPlan(torch.float32, Int4()),
}


@dataclass(frozen=True)
class Score:
    """A form of the weights: nats a code, nats more than fp32, their standard error, divergence from fp32, bytes."""

    form: str
    nats: float
    more: float
    error: float
    divergence: float
    bytes: int


def fresh_batches(files: CheckpointFiles, scenes: int, seed: int) -> list[Batch]:
    """Captioned scenes of a stream that training never draws from."""
    tokenizer = load_tokenizer(files.tokenizer)
    vocabulary = Vocabulary.of(tokenizer, TransformerConfig.from_file(files.config))
    rng = np.random.default_rng([FRESH_STREAM, seed, len(CATEGORIES)])
    sizes = [min(BATCH, scenes - start) for start in range(0, scenes, BATCH)]
    return [make_batches(rng, size, 1, tokenizer, vocabulary)[0] for size in sizes]


@torch.inference_mode()
def log_probs(model: Transformer, batch: Batch) -> Tensor:
    """Log-probabilities [B,h·w,codes] of every code of a batch's pictures."""
    hidden = model.hidden_states(model.embed(batch.input_ids), model.plan(batch.input_ids))
    index = batch.positions[..., None].expand(-1, -1, hidden.shape[-1])
    return model.code_logits(hidden.gather(1, index)).float().log_softmax(-1)


def score(form: str, model: Transformer, reference: Transformer, batches: Sequence[Batch]) -> Score:
    """Compares a model with the one of fp32 weights."""
    nats, more, divergence = [], [], []
    for batch in batches:
        expected, found = log_probs(reference, batch), log_probs(model, batch)
        own, theirs = (-logs.gather(-1, batch.codes[..., None]).squeeze(-1).mean(1) for logs in (found, expected))
        nats.append(own)
        more.append(own - theirs)
        divergence.append((expected.exp() * (expected - found)).sum(-1).mean(1))
    difference = torch.cat(more)
    return Score(
        form=form,
        nats=torch.cat(nats).mean().item(),
        more=difference.mean().item(),
        error=(difference.std() / len(difference) ** 0.5).item(),
        divergence=torch.cat(divergence).mean().item(),
        bytes=weight_bytes(model, model.dtype),
    )


def table(scores: Sequence[Score]) -> str:
    """The scores in Markdown."""
    lines = [
        "| weights | nats a code | more than fp32 | divergence from fp32 | MiB on the device |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {s.form} | {s.nats:.4f} | {s.more:+.4f} ± {s.error:.4f} | {s.divergence:.5f} | {s.bytes / 2**20:.1f} |"
        for s in scores
    ]
    return "\n".join(lines)


def run(options: argparse.Namespace) -> list[Score]:
    """Scores every form, prints them and writes what the options ask for."""
    files = find_checkpoint(options.checkpoint)
    batches = fresh_batches(files, options.scenes, options.seed)
    load: Callable[[WeightsPlan], Transformer] = partial(read_transformer, files)
    reference = load(FORMS["fp32"])
    scores = [score(form, load(plan), reference, batches) for form, plan in FORMS.items()]
    print(table(scores))
    if options.json:
        values = {"checkpoint": options.checkpoint, "scenes": options.scenes, "seed": options.seed}
        report = {**values, "torch": torch.__version__, "scores": [asdict(one) for one in scores]}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return scores


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--scenes", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    if options.scenes < 2:
        raise InputError(f"scenes is {options.scenes}; expected at least 2")
    return options


def main() -> int:
    """Runs the command line: 0, or 2 with one line on stderr saying what is wrong with the input."""
    try:
        run(parse_arguments())
    except (LuminaError, OSError) as error:
        print(f"weights: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
