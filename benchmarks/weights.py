"""What smaller weights and caches cost: python -m benchmarks.weights [--scenes 512] [--prompts 24] [--json FILE]

Each form of the weights and of the key/value cache is compared with fp32 on the codes of fresh rendered scenes: the
mean negative log-likelihood in nats a code, its excess over fp32 (with the standard error over the scenes), the mean
Kullback-Leibler divergence of the distributions, and the share of codes for which the likeliest is the same. Then each
draws prompts greedily, and the codes in common with fp32 are counted; after the first difference the rest can differ
too. All but bf16 compute in fp32. Every token is read from the cache, the prompt's too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lumina_core.checkpoint.find import Checkpoint, open_checkpoint
from lumina_core.convert import plan_conversion
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.errors import InputError
from lumina_core.model.kv_cache import KVCache
from lumina_core.model.load import load_transformer, weight_bytes
from lumina_core.pipeline import Lumina
from lumina_core.quant.linear import MatmulBackend, QuantizedLinear
from lumina_core.quant.torchao_backend import float8_reference
from training.codes import Batch, make_batches
from training.world import CATEGORIES, sample
from training.world.sampling import FRESH_STREAM

from .arguments import DEMO_CFG, exit_code
from .sources import caption_request

BATCH = 16


@dataclass(frozen=True)
class Form:
    """How weights and cache are stored, as a user chooses them. With `rounding`, the weights are converted before.

    `quantised_inputs`: fp8 inputs too, row by row, as on a GPU that multiplies in fp8.
    """

    weights: str
    kv_cache: str = "auto"
    rounding: str | None = None
    quantised_inputs: bool = False


REFERENCE = "fp32"
FORMS = {
    REFERENCE: Form("fp32"),
    "fp32, int8 cache": Form("fp32", "int8"),
    "fp32, int4 cache": Form("fp32", "int4"),
    "bf16": Form("bf16"),
    "int8": Form("int8"),
    "int4": Form("int4"),
    "int4, hqq": Form("int4", rounding="hqq"),
    "fp8": Form("fp8"),
    "fp8, inputs too": Form("fp8", quantised_inputs=True),
    "int8-dynamic": Form("int8-dynamic"),
    "int4, int8 cache": Form("int4", "int8"),
    "int4, int4 cache": Form("int4", "int4"),
}


@dataclass(frozen=True)
class Model:
    """A loaded model and how it stores keys and values."""

    lumina: Lumina
    kv_cache: str = "auto"


@dataclass(frozen=True)
class Score:
    """A form compared with fp32.

    `nats` of a code, `more` of them than fp32 with the standard `error` of that, `divergence` from fp32, share of codes
    whose `likeliest` is the same, `bytes` of the weights; `drawn` is the share of codes that greedy pictures share.
    """

    form: str
    nats: float
    more: float
    error: float
    divergence: float
    likeliest: float
    bytes: int
    drawn: float = 1.0


def fresh_batches(checkpoint: Checkpoint, scenes: int, seed: int) -> list[Batch]:
    """Captioned scenes from a random stream that training does not use."""
    rng = np.random.default_rng([FRESH_STREAM, seed, len(CATEGORIES)])
    sizes = [min(BATCH, scenes - start) for start in range(0, scenes, BATCH)]
    return [make_batches(rng, size, 1, checkpoint.tokenizer, checkpoint.vocabulary)[0] for size in sizes]


@torch.inference_mode()
def log_probs(model: Model, batch: Batch) -> Tensor:
    """Log-probabilities [B,h·w,codes] of every code of a batch's pictures, with every token read from the cache."""
    transformer, (rows, length) = model.lumina.transformer, batch.input_ids.shape
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
        own, of_reference = (-logs.gather(-1, batch.codes[..., None]).squeeze(-1).mean(1) for logs in (found, expected))
        nats.append(own)
        more.append(own - of_reference)
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
        bytes=weight_bytes(model.lumina.transformer, model.lumina.transformer.dtype),
    )


def draw_greedily(model: Model, prompts: int, seed: int) -> Tensor:
    """Codes [prompts,h,w] of fresh captions, always the likeliest."""
    rng = np.random.default_rng([FRESH_STREAM, seed, len(CATEGORIES) + 1])
    captions = [sample(rng).caption for _ in range(prompts)]
    settings = DecodeSettings(DEMO_CFG, top_k=1, kv_cache=model.kv_cache)
    return model.lumina.sample(caption_request(model.lumina, captions, settings)).codes


def table(scores: Sequence[Score]) -> str:
    """The scores in Markdown."""
    lines = [
        "| weights | nats a code | more than fp32 | divergence from fp32 | same likeliest code "
        "| codes in common | MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {s.form} | {s.nats:.4f} | {s.more:+.4f} ± {s.error:.4f} | {s.divergence:.5f} | {s.likeliest:.2%} "
        f"| {s.drawn:.1%} | {s.bytes / 2**20:.1f} |"
        for s in scores
    ]
    return "\n".join(lines)


def load(checkpoint: Checkpoint, form: str) -> Model:
    """The checkpoint in one of the FORMS."""
    chosen = FORMS[form]
    # A system that keeps mapped files leaves the converted one behind.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if chosen.rounding is not None:
            conversion = plan_conversion(checkpoint.path, chosen.weights, rounding=chosen.rounding)
            conversion.write(file := Path(folder) / "converted.safetensors")
            checkpoint = open_checkpoint(file)
        transformer = load_transformer(checkpoint, weights=chosen.weights, dtype=torch.float32)
    if chosen.quantised_inputs:
        for layer in transformer.modules():
            if isinstance(layer, QuantizedLinear):
                layer.backend = MatmulBackend("fp8 inputs in plain torch", _multiply_in_fp8)
    return Model(Lumina(transformer, checkpoint.vocabulary, checkpoint.tokenizer), chosen.kv_cache)


def _multiply_in_fp8(x: Tensor, layer: QuantizedLinear) -> Tensor:
    return float8_reference(x.flatten(0, -2), *layer.packed_tensors.values()).unflatten(0, x.shape[:-1])


def run(options: argparse.Namespace) -> list[Score]:
    """Scores every form, prints the scores and writes the file that the options name."""
    checkpoint = open_checkpoint(options.checkpoint)
    batches = fresh_batches(checkpoint, options.scenes, options.seed)
    reference = load(checkpoint, REFERENCE)
    expected = draw_greedily(reference, options.prompts, options.seed)
    scores = []
    for form in FORMS:
        model = load(checkpoint, form)
        codes = draw_greedily(model, options.prompts, options.seed)
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
    parser.add_argument("--json", type=Path, help="file for the scores")
    options = parser.parse_args(arguments)
    if options.scenes < 2:
        raise InputError(f"scenes is {options.scenes}; expected at least 2")
    if options.prompts < 1:
        raise InputError(f"prompts is {options.prompts}; expected at least 1")
    return options


def main() -> int:
    """Runs the command line: 0, or 2 with one line on stderr for bad input."""
    return exit_code("weights", lambda: run(parse_arguments()))


if __name__ == "__main__":
    sys.exit(main())
