"""Roundings of int4 weights compared: python -m benchmarks.rounding [--orders 24] [--scenes 64] [--json FILE]

Three tables. Layers: random weights of published sizes, normal and heavy-tailed, with and without columns six times as
large; the error of the weights, and of the output for inputs with channels 8 times as large, in shares of the norm.
Models: the divergence from fp32 of the demo, and of models of its sizes whose weights and inputs are as those of the
layers, on the demo's scenes. A layer's inputs are put into random orders before they are grouped: an order changes
which weights share a scale and nothing else, so that each is one more sample. Speed: seconds to quantise one layer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.checkpoint.locate import DEMO
from lumina_core.checkpoint.single_file import ROUNDINGS
from lumina_core.errors import InputError
from lumina_core.model.load import load_transformer
from lumina_core.pipeline import Lumina
from lumina_core.quant.schemes import Int4, quantize
from training.codes import Batch

from .arguments import exit_code
from .weights import Model, fresh_batches, log_probs

# Degrees of freedom of Student's t; infinitely many are a normal distribution.
TAILS = {"normal": float("inf"), "t 5": 5.0, "t 3": 3.0}
INPUTS, OUTPUTS, TOKENS = (4096, 11_008), 256, 256
LARGE_COLUMNS, LARGE_CHANNELS, SHARE = 6.0, 8.0, 128
LARGEST_LAYER = (22_016, 4096)
# Of the models with random weights: what a block adds to its input, in shares of what the demo's adds, lest errors grow
# from block to block; and the spread of the logits.
BRANCH, LOGIT_SPREAD = 0.1, 2.0


@dataclass(frozen=True)
class LayerError:
    """Errors over what they are errors of: of a layer's weights in the 2-norm and the 0.7-norm, of its output."""

    weights: str
    inputs: int
    rounding: str
    squared: float
    sparse: float
    output: float


@dataclass(frozen=True)
class Divergence:
    """Nats a code between a model and the same in fp32, the difference from nearest and its standard error."""

    model: str
    rounding: str
    nats: float
    more: float
    error: float
    likeliest: float


def random_weight(shape: tuple[int, int], degrees: float, large_columns: bool, generator: torch.Generator) -> Tensor:
    """A weight [out,in] of Student's t, some of whose columns may be larger."""
    weight = torch.randn(shape, generator=generator)
    if degrees != float("inf"):
        squares = sum(torch.randn(shape, generator=generator).square() for _ in range(int(degrees)))
        weight = weight / (squares / degrees).sqrt()
    if large_columns:
        weight[:, large_channels(shape[1], generator)] *= LARGE_COLUMNS
    return weight * 0.02


def large_channels(count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator)[: max(1, count // SHARE)]


def rounded(weight: Tensor, rounding: str, order: Tensor | None = None) -> Tensor:
    """The weight [out,in] quantised and dequantised, with its inputs in an order meanwhile."""
    order = torch.arange(weight.shape[1]) if order is None else order
    scheme = Int4(rounding=rounding)
    packed = quantize(scheme, weight[:, order], "cpu", "weight")
    return scheme.dequantize(packed, weight.shape[1])[:, order.argsort()]


def layer_errors(seed: int) -> Iterator[LayerError]:
    """Every kind of layer with every rounding."""
    generator = torch.Generator().manual_seed(seed)
    for name, degrees in TAILS.items():
        for large, inputs in ((large, inputs) for large in (False, True) for inputs in INPUTS):
            weight = random_weight((OUTPUTS, inputs), degrees, large, generator)
            x = torch.randn(TOKENS, inputs, generator=generator)
            x[:, large_channels(inputs, generator)] *= LARGE_CHANNELS
            for rounding in ROUNDINGS:
                error, kind = rounded(weight, rounding) - weight, f"{name}, large columns" if large else name
                output = (x @ error.T).norm() / (x @ weight.T).norm()
                norms = (norm(error, power) / norm(weight, power) for power in (2, 0.7))
                yield LayerError(kind, inputs, rounding, *norms, output.item())


def norm(values: Tensor, power: float) -> float:
    return values.abs().pow(power).mean().pow(1 / power).item()


def load(tail: str | None, batch: Batch, seed: int) -> Model:
    """The demo in fp32, or a model of its sizes with random weights and some large channels after the norms.

    The logits of the latter have LOGIT_SPREAD on the batch.
    """
    checkpoint = open_checkpoint(DEMO)
    transformer = load_transformer(checkpoint, weights="fp32", dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in transformer.named_parameters() if tail is not None else ():
        if name.endswith("_proj.weight"):
            new = random_weight(tuple(parameter.shape), TAILS[tail], True, generator)
            branch = BRANCH if "o_proj" in name or "down_proj" in name else 1.0
            parameter.copy_(new * (branch * parameter.std() / new.std()))
        elif name.endswith("layernorm.weight"):
            parameter[large_channels(len(parameter), generator)] *= LARGE_CHANNELS
    model = Model(Lumina(transformer, checkpoint.vocabulary, checkpoint.tokenizer))
    if tail is not None:
        transformer.norm.weight *= LOGIT_SPREAD / log_probs(model, batch).std(-1).mean()
    return model


def linear_weights(model: Model) -> Mapping[str, Tensor]:
    """The parameters of the blocks' linear layers."""
    return {name: part for name, part in model.lumina.transformer.named_parameters() if name.endswith("_proj.weight")}


def compare(name: str, tail: str | None, batches: Sequence[Batch], orders: int, seed: int) -> list[Divergence]:
    """One kind of model with every rounding, in the same orders; random weights are drawn anew for each."""
    found = {rounding: [] for rounding in ROUNDINGS}
    for index in range(orders):
        model = load(tail, batches[0], seed + index)
        expected = [log_probs(model, batch) for batch in batches]
        weights = {key: part.clone() for key, part in linear_weights(model).items()}
        for rounding in ROUNDINGS:
            generator = torch.Generator().manual_seed(seed + index)
            for key, part in linear_weights(model).items():
                part.copy_(rounded(weights[key], rounding, torch.randperm(part.shape[1], generator=generator)))
            found[rounding].append(divergence(model, batches, expected))
    return [summary(name, rounding, found[rounding], found[ROUNDINGS[0]]) for rounding in ROUNDINGS]


def divergence(model: Model, batches: Sequence[Batch], expected: Sequence[Tensor]) -> tuple[float, float]:
    """Mean divergence from the expected log-probabilities, and the share of codes whose likeliest is the same."""
    nats, likeliest = [], []
    for batch, logs in zip(batches, expected, strict=True):
        found = log_probs(model, batch)
        nats.append((logs.exp() * (logs - found)).sum(-1).mean(1))
        likeliest.append((logs.argmax(-1) == found.argmax(-1)).float().mean(1))
    return torch.cat(nats).mean().item(), torch.cat(likeliest).mean().item()


def summary(
    name: str, rounding: str, found: Sequence[tuple[float, float]], nearest: Sequence[tuple[float, float]]
) -> Divergence:
    nats, likeliest = torch.tensor(found).T
    more = nats - torch.tensor(nearest)[:, 0]
    error = (more.std() / len(more) ** 0.5).item()
    return Divergence(name, rounding, nats.mean().item(), more.mean().item(), error, likeliest.mean().item())


def seconds(rounding: str) -> float:
    """Seconds of a processor that quantising the largest layer takes."""
    weight = torch.randn(LARGEST_LAYER, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    start = time.process_time()
    quantize(Int4(rounding=rounding), weight, "cpu", "weight")
    return time.process_time() - start


def tables(layers: Sequence[LayerError], models: Sequence[Divergence], speed: Mapping[str, float]) -> str:
    """The results in Markdown."""
    lines = ["| weights | inputs | rounding | error, 2-norm | error, 0.7-norm | error of the output |"]
    lines += ["|---|---|---|---|---|---|"]
    lines += [
        f"| {one.weights} | {one.inputs:,} | {one.rounding} | {one.squared:.2%} | {one.sparse:.2%} | {one.output:.2%} |"
        for one in layers
    ]
    lines += ["", "| model | rounding | divergence from fp32 | more than nearest | same likeliest code |"]
    lines += ["|---|---|---|---|---|"]
    lines += [
        f"| {one.model} | {one.rounding} | {one.nats:.5f} | {one.more:+.5f} ± {one.error:.5f} | {one.likeliest:.2%} |"
        for one in models
    ]
    rows, columns = LARGEST_LAYER
    lines += ["", f"| rounding | processor seconds for {rows:,} × {columns:,} |", "|---|---|"]
    return "\n".join(lines + [f"| {rounding} | {taken:.1f} |" for rounding, taken in speed.items()])


@torch.inference_mode()
def run(options: argparse.Namespace) -> None:
    """Measures, prints the tables and writes the file that the options name."""
    batches = fresh_batches(open_checkpoint(DEMO), options.scenes, options.seed)
    layers = list(layer_errors(options.seed))
    names = {"demo": None, **{f"random, {tail}": tail for tail in TAILS}}
    measured = [compare(name, tail, batches, options.orders, options.seed) for name, tail in names.items()]
    models = [one for both in measured for one in both]
    speed = {rounding: seconds(rounding) for rounding in ROUNDINGS}
    print(tables(layers, models, speed))
    if options.json:
        report = {"torch": torch.__version__, "threads": torch.get_num_threads(), "seconds": speed}
        report |= {"layers": [asdict(one) for one in layers], "models": [asdict(one) for one in models]}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=24, help="of the inputs of every layer")
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args(arguments)
    for name in ("orders", "scenes"):
        if getattr(options, name) < 2:
            raise InputError(f"{name} is {getattr(options, name)}; expected at least 2")
    return options


def main() -> int:
    """Runs the command line: 0, or 2 with one line on stderr for bad input."""
    return exit_code("rounding", lambda: run(parse_arguments()))


if __name__ == "__main__":
    sys.exit(main())
