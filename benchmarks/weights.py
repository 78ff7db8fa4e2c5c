"""What fewer bits cost: python -m benchmarks.weights [--scenes 512] [--prompts 24] [--json FILE]

Each form of the weights and of the key/value cache says how likely it finds the codes of fresh rendered scenes: the
mean negative log-likelihood in nats a code, how much more that is than with fp32 weights (with its standard error over
the scenes), the mean Kullback-Leibler divergence of its distributions from those of fp32, and for how many codes the
likeliest is the same. Then each draws prompts greedily, and says how many codes it has in common with fp32: one that
differs leads all behind it elsewhere. All but bf16 compute in fp32. With a cache in few bits every token is read from
it, the prompt's too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import CheckpointFiles, find_checkpoint, load_tokenizer
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.errors import InputError, LuminaError
from lumina_core.model.kv_cache import KVCache
from lumina_core.model.load import read_transformer, weight_bytes
from lumina_core.model.transformer import Transformer
from lumina_core.pictures.sizes import CODE_PIXELS
from lumina_core.pipeline import Request, draw
from lumina_core.quant.schemes import Int4, Int8
from lumina_core.quant.weights import WeightsPlan
from lumina_core.tokens.prompts import build_prompt
from lumina_core.tokens.vocabulary import Vocabulary
from training.codes import Batch, make_batches
from training.world import CANVAS, CATEGORIES, sample
from training.world.sampling import FRESH_STREAM

BATCH = 32


@dataclass(frozen=True)
class Form:
    """How weights and cache are stored."""

    weights: WeightsPlan
    kv_cache: str = "auto"


REFERENCE = "fp32"
FORMS = {
    REFERENCE: Form(WeightsPlan(torch.float32)),
    "fp32, int8 cache": Form(WeightsPlan(torch.float32), "int8"),
    "fp32, int4 cache": Form(WeightsPlan(torch.float32), "int4"),
    "bf16": Form(WeightsPlan(torch.bfloat16)),
    "int8": Form(WeightsPlan(torch.float32, Int8())),
    "int4": Form(WeightsPlan(torch.float32, Int4())),
    "int4, int8 cache": Form(WeightsPlan(torch.float32, Int4()), "int8"),
    "int4, int4 cache": Form(WeightsPlan(torch.float32, Int4()), "int4"),
}


@dataclass(frozen=True)
class Model:
    """A transformer and how it keeps keys and values."""

    transformer: Transformer
    kv_cache: str = "auto"


@dataclass(frozen=True)
class Score:
    """A form against fp32: nats a code, nats more, their standard error, divergence, share of codes whose likeliest is
    the same, bytes of the weights; `drawn` is the share of codes that greedy pictures have in common.
    """

    form: str
    nats: float
    more: float
    error: float
    divergence: float
    likeliest: float
    bytes: int
    drawn: float = 1.0


def fresh_batches(files: CheckpointFiles, scenes: int, seed: int) -> list[Batch]:
    """Captioned scenes of a stream that training never draws from."""
    tokenizer = load_tokenizer(files.tokenizer)
    vocabulary = Vocabulary.of(tokenizer, TransformerConfig.from_file(files.config))
    rng = np.random.default_rng([FRESH_STREAM, seed, len(CATEGORIES)])
    sizes = [min(BATCH, scenes - start) for start in range(0, scenes, BATCH)]
    return [make_batches(rng, size, 1, tokenizer, vocabulary)[0] for size in sizes]


@torch.inference_mode()
def log_probs(model: Model, batch: Batch) -> Tensor:
    """Log-probabilities [B,h·w,codes] of every code of a batch's pictures, all read through the cache."""
    transformer, (rows, length) = model.transformer, batch.input_ids.shape
    kinds = {"dtype": transformer.dtype, "device": transformer.device, "kv_cache": model.kv_cache}
    plan = KVCache(transformer.config, rows, length, **kinds).plan(torch.arange(length).expand(rows, -1), length)
    hidden = transformer.hidden_states(transformer.embed(batch.input_ids), plan)
    index = batch.positions[..., None].expand(-1, -1, hidden.shape[-1])
    return transformer.code_logits(hidden.gather(1, index)).float().log_softmax(-1)


def score(form: str, model: Model, reference: Model, batches: Sequence[Batch]) -> Score:
    """Compares a model with the one of fp32 weights and cache."""
    nats, more, divergence, likeliest = [], [], [], []
    for batch in batches:
        expected, found = log_probs(reference, batch), log_probs(model, batch)
        own, theirs = (-logs.gather(-1, batch.codes[..., None]).squeeze(-1).mean(1) for logs in (found, expected))
        nats.append(own)
        more.append(own - theirs)
        divergence.append((expected.exp() * (expected - found)).sum(-1).mean(1))
        likeliest.append((expected.argmax(-1) == found.argmax(-1)).float().mean(1))
    difference = torch.cat(more)
    return Score(
        form=form,
        nats=torch.cat(nats).mean().item(),
        more=difference.mean().item(),
        error=(difference.std() / len(difference) ** 0.5).item(),
        divergence=torch.cat(divergence).mean().item(),
        likeliest=torch.cat(likeliest).mean().item(),
        bytes=weight_bytes(model.transformer, model.transformer.dtype),
    )


def draw_greedily(model: Model, files: CheckpointFiles, prompts: int, seed: int) -> Tensor:
    """Codes [prompts,h,w] of fresh captions, always the likeliest."""
    tokenizer = load_tokenizer(files.tokenizer)
    vocabulary = Vocabulary.of(tokenizer, model.transformer.config)
    rng = np.random.default_rng([FRESH_STREAM, seed, len(CATEGORIES) + 1])
    texts = [build_prompt("t2i", CANVAS, CANVAS, sample(rng).caption) for _ in range(prompts)]
    settings = DecodeSettings(top_k=1, kv_cache=model.kv_cache)
    side = CANVAS // CODE_PIXELS
    request = Request([tokenizer.encode_prompt(text) for text in texts], side, side, settings=settings)
    return draw(model.transformer, vocabulary, request).codes


def table(scores: Sequence[Score]) -> str:
    """The scores in Markdown."""
    lines = [
        "| weights | nats a code | more than fp32 | divergence from fp32 | same likeliest | drawn alike | MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {s.form} | {s.nats:.4f} | {s.more:+.4f} ± {s.error:.4f} | {s.divergence:.5f} | {s.likeliest:.2%} "
        f"| {s.drawn:.1%} | {s.bytes / 2**20:.1f} |"
        for s in scores
    ]
    return "\n".join(lines)


def load(files: CheckpointFiles, form: str) -> Model:
    """The checkpoint in one of the FORMS."""
    return Model(read_transformer(files, FORMS[form].weights), FORMS[form].kv_cache)


def run(options: argparse.Namespace) -> list[Score]:
    """Scores every form, prints them and writes what the options ask for."""
    files = find_checkpoint(options.checkpoint)
    batches = fresh_batches(files, options.scenes, options.seed)
    reference = load(files, REFERENCE)
    expected = draw_greedily(reference, files, options.prompts, options.seed)
    scores = []
    for form in FORMS:
        model = load(files, form)
        codes = draw_greedily(model, files, options.prompts, options.seed)
        alike = (codes == expected).float().mean().item()
        scores.append(replace(score(form, model, reference, batches), drawn=alike))
    print(table(scores))
    if options.json:
        names = ("checkpoint", "scenes", "prompts", "seed")
        values = {name: getattr(options, name) for name in names}
        report = {**values, "torch": torch.__version__, "scores": [asdict(one) for one in scores]}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return scores


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--scenes", type=int, default=512)
    parser.add_argument("--prompts", type=int, default=24, help="drawn greedily")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    if options.scenes < 2:
        raise InputError(f"scenes is {options.scenes}; expected at least 2")
    if options.prompts < 1:
        raise InputError(f"prompts is {options.prompts}; expected at least 1")
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
