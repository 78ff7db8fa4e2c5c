"""What training a LoRA takes: memory by arithmetic, and a dry run with random weights of a published model's sizes.

python -m training.lora.budget --model 7b --layers 2 --weights int4
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.device import choose_device
from lumina_core.model.load import empty_transformer, linear_shapes, weight_bytes
from lumina_core.model.transformer import Transformer
from lumina_core.pictures.sizes import picture_length
from lumina_core.quant.weights import FLOATS, WeightsPlan, plan_weights
from lumina_core.timing.synthetic import SYNTHETIC, make_transformer

from .data import TrainingData
from .layers import TARGETS, attach
from .train import POSITIONS, Settings, Trainer

# float32: A or B, its gradient, and two moments.
BYTES_PER_PARAMETER = 16
# Of a logit: in the dtype of the computation, in float32, its softmax, and the gradients of these.
LOGIT_BYTES = 16


@dataclass(frozen=True)
class Budget:
    """Bytes of training, for one sequence of `tokens` in a forward."""

    tokens: int
    parameters: int
    weights: int
    optimizer: int
    block_inputs: int
    one_block: int
    gradients: int
    logits: int

    @property
    def total(self) -> int:
        activations = self.block_inputs + self.one_block + self.gradients + self.logits
        return self.weights + self.optimizer + activations

    def lines(self) -> list[str]:
        """A line for each part."""
        named = {
            "frozen weights": self.weights,
            "A, B, gradients, moments": self.optimizer,
            "inputs of the blocks": self.block_inputs,
            "activations of a block": self.one_block,
            "gradients in a block": self.gradients,
            f"logits of {POSITIONS} positions": self.logits,
            "total": self.total,
        }
        head = f"{self.tokens} tokens, {self.parameters / 1e6:.1f} million trained parameters"
        return [head, *(f"{name:<28}{size / 1e9:8.2f} GB" for name, size in named.items())]


def lora_parameters(config: TransformerConfig, rank: int) -> int:
    """Values of A and B for all targets."""
    dim = config.head_dim
    query, key = config.num_attention_heads * dim, config.num_key_value_heads * dim
    hidden, mlp = config.hidden_size, config.intermediate_size
    shapes = [
        (hidden, query),
        (hidden, key),
        (hidden, key),
        (query, hidden),
        (hidden, mlp),
        (hidden, mlp),
        (mlp, hidden),
    ]
    return config.num_hidden_layers * rank * sum(map(sum, shapes))


def estimate(
    config: TransformerConfig, plan: WeightsPlan, rank: int, tokens: int, checkpointing: bool = True
) -> Budget:
    """What one sequence of `tokens` takes. With checkpointing the activations of one block are held at a time."""
    item, block = plan.dtype.itemsize, tokens * block_values(config) * plan.dtype.itemsize
    layers, parameters = config.num_hidden_layers, lora_parameters(config, rank)
    inputs = layers * tokens * config.hidden_size * item if checkpointing else 0
    return Budget(
        tokens=tokens,
        parameters=parameters,
        weights=weight_bytes(empty_transformer(config, plan), plan.dtype),
        optimizer=BYTES_PER_PARAMETER * parameters,
        block_inputs=inputs,
        one_block=block if checkpointing else layers * block,
        gradients=tokens * (2 * linear_shapes(config)["gate_up_proj"][1] * item + 4 * config.hidden_size),
        logits=LOGIT_BYTES * min(tokens, POSITIONS) * config.codebook_size,
    )


def block_values(config: TransformerConfig) -> int:
    """Values of a block that autograd holds for a token, in the dtype of the computation. Measured by `dry_run`."""
    widths = linear_shapes(config)
    return 6 * config.hidden_size + 5 * widths["qkv_proj"][1] // 3 * 2 + 2 * widths["gate_up_proj"][1]


@dataclass(frozen=True)
class DryRun:
    """What a step took: seconds, bytes that autograd held of a block for a token, and the process's peak memory."""

    seconds: float
    block_bytes: float
    peak_bytes: int


def dry_run(
    config: TransformerConfig, plan: WeightsPlan, rank: int, grid: tuple[int, int], device: torch.device
) -> DryRun:
    """Two steps of training on random codes [1,*grid] with random weights; the second is timed."""
    transformer = make_transformer(config, plan, device)
    leave_inference_mode(transformer)
    vocabulary = replace(SYNTHETIC["7b"].vocabulary, image_token_offset=0, codebook_size=config.codebook_size)
    lora = attach(transformer, rank, 2.0 * rank, TARGETS, 0)
    codes = torch.randint(config.codebook_size, (1, *grid), generator=torch.Generator().manual_seed(0))
    trainer = Trainer(transformer, vocabulary, lora, TrainingData([[]], codes), Settings(4, 1e-4, batch=1))
    trainer.step()
    start = time.perf_counter()
    trainer.step()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return DryRun(seconds, saved_bytes(transformer, grid[0] * grid[1]) / (grid[0] * grid[1]), peak)


def leave_inference_mode(transformer: Transformer) -> None:
    """Makes parameters that were made in inference mode fit for gradients, in place."""
    for module in transformer.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.clone(), requires_grad=False))


def saved_bytes(transformer: Transformer, tokens: int) -> int:
    """Bytes that autograd holds of a block for `tokens` tokens, without its weights and its input."""
    x = torch.ones(1, tokens, transformer.config.hidden_size, dtype=transformer.dtype, device=transformer.device)
    x.requires_grad_(True)
    weights = {each.untyped_storage().data_ptr() for each in transformer.parameters()}
    held: dict[int, int] = {}

    def hold(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and storage.data_ptr() != x.untyped_storage().data_ptr():
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    plan = transformer.plan(x)
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        result = transformer.blocks[0](x, 0, plan)
    del result
    return sum(held.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(SYNTHETIC), default="7b")
    parser.add_argument("--weights", choices=("bf16", "fp32", "int8", "int4"), default="int4")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--side", type=int, default=768, help="pixels of a square picture, for the arithmetic")
    parser.add_argument("--layers", type=int, default=0, help="blocks of a dry run; 0: arithmetic alone")
    parser.add_argument("--dry-side", type=int, default=128, help="pixels of the dry run's square picture")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    config = SYNTHETIC[options.model].config
    plan = plan_weights(options.weights, None, FLOATS["bf16"])
    tokens = picture_length(options.side // 8, options.side // 8) + 64
    print("\n".join(estimate(config, plan, options.rank, tokens).lines()))
    if options.layers:
        some, side = replace(config, num_hidden_layers=options.layers), options.dry_side // 8
        taken = dry_run(some, plan, options.rank, (side, side), choose_device(options.device))
        print(f"dry run: {options.layers} blocks, {picture_length(side, side)} tokens, {options.weights}")
        print(f"{taken.seconds:.1f} s a step, peak memory {taken.peak_bytes / 1e9:.2f} GB")
        said = f"{taken.block_bytes / 1024:.0f} KiB for a token, {block_values(config) * 2 / 1024:.0f} KiB estimated"
        print(f"autograd holds of a block {said}")


if __name__ == "__main__":
    main()
