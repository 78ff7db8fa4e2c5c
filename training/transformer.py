"""Trains the demo's transformer on the codes of its MoVQGAN: python -m training.transformer --out FOLDER"""

import argparse
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lumina_core.checkpoint.codec_identity import IMAGE_CODEC, CodecIdentity
from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.find import load_tokenizer
from lumina_core.checkpoint.published import EMBEDDING, HEAD, published_shapes
from lumina_core.model.load import load_transformer, placement
from lumina_core.model.transformer import Transformer
from lumina_core.movqgan.load import load_movqgan
from lumina_core.tokens.tokenizer import Tokenizer
from lumina_core.tokens.vocabulary import Vocabulary

from .codes import TWO_PANELS, Batch, make_batches, make_task_batches
from .movqgan import FILE_NAME, set_rate
from .world import CANVAS, TASK_NAMES, training_rng

logger = logging.getLogger(__name__)

BATCH = 24
SMALLEST_CFG, LARGEST_CFG = 1.0, 6.0
STRAY = 2e-4  # A code less likely than this, given the text, cannot be in the picture there.


@dataclass(frozen=True)
class Round:
    """A round of training, in which the rate rises to its peak, stays there, and falls in the last share `fall` of it.

    `without_text` pictures of a batch are also trained without their text, for guidance. `stray_weight` is the weight
    of `stray_loss`. `task_share` of the steps are on tasks with two panels, drawn from `tasks`, with half as many
    samples; `changed_weight` and `crowded` are those of `make_task_batches`.
    """

    steps: int
    peak_rate: float
    without_text: int
    stray_weight: float
    task_share: float = 0.0
    tasks: Sequence[str] = TASK_NAMES
    changed_weight: float = 1.0
    crowded: bool = False
    fall: float = 1.0


TASKS_THAT_BIND = ("edit",) * 10 + ("subject", "control") * 4 + ("pair", "predict")
EDITS_FIRST = ("edit",) * 13 + ("control",) * 4 + ("subject",) * 3 + ("pair", "predict")
ALL_TASKS = ("edit",) * 10 + ("control", "subject") * 4 + ("control:pose",) * 2 + ("pair", "pair:pose", "predict")
LAST_TASKS = ("edit:add", "subject", "edit") * 3 + ("control",) * 2 + ("control:pose", "pair", "pair:pose", "predict")
SUBJECTS_LAST = (
    ("subject",) * 5 + ("edit", "edit:move", "control") * 2 + ("edit:add", "control:pose", "pair", "predict")
)
ROUNDS = (
    Round(8000, 3e-3, 6, 0.5),
    Round(4500, 2e-3, 6, 0.5, task_share=0.6),
    Round(1500, 2e-3, 4, 0.5, task_share=0.8, tasks=TASKS_THAT_BIND, changed_weight=3.0, fall=0.0),
    Round(1500, 2e-3, 4, 0.5, task_share=0.85, tasks=EDITS_FIRST, changed_weight=3.0, crowded=True, fall=0.0),
    Round(2300, 2e-3, 4, 0.5, task_share=0.85, tasks=ALL_TASKS, changed_weight=3.0, crowded=True, fall=0.6),
    Round(900, 1.5e-3, 6, 0.5, task_share=0.4, tasks=LAST_TASKS, changed_weight=3.0, crowded=True, fall=0.9),
    Round(3000, 1.5e-3, 6, 0.5, task_share=0.45, tasks=LAST_TASKS, changed_weight=3.0, crowded=True, fall=0.9),
    Round(1600, 1.2e-3, 6, 0.5, task_share=0.5, tasks=SUBJECTS_LAST, changed_weight=3.0, crowded=True, fall=0.9),
)


def demo_config(text_tokens: int, codebook_size: int) -> dict:
    """The demo's config.json: the published keys, and the place of the image codes in the vocabulary."""
    offset = -(-text_tokens // 64) * 64
    return {
        "architectures": ["ChameleonXLLMXForConditionalGeneration"],
        "model_type": "chameleon",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "model_parallel_size": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "swin_norm": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": offset + codebook_size,
        "image_token_offset": offset,
        "image_codebook_size": codebook_size,
        "trained_sizes": [[CANVAS, CANVAS], list(TWO_PANELS)],
    }


@dataclass(frozen=True)
class Data:
    """The source of batches."""

    rng: np.random.Generator
    tokenizer: Tokenizer
    vocabulary: Vocabulary


class TrainingModel(nn.Module):
    """The transformer with a trainable embedding of the whole vocabulary."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.transformer = Transformer(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.zeros_(self.transformer.code_head.weight)
        for layer in self.transformer.layers:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                nn.init.zeros_(projection.weight)

    def logits(self, batch: Batch) -> Tensor:
        """Logits [B,h·w,codes] of a batch's picture codes; every other token of a picture is forced."""
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):  # the faster backward pass on a CPU
            embedded = self.embedding(batch.input_ids)
            hidden = self.transformer.hidden_states(embedded, self.transformer.plan(embedded))
            index = batch.positions[..., None].expand(-1, -1, hidden.shape[-1])
            return self.transformer.code_logits(hidden.gather(1, index)).float()

    def loss(
        self, captioned: Batch, uncaptioned: Batch, cfg_scale: Tensor, stray_weight: float
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy (nats) of the codes with text, and the loss to minimise.

        `uncaptioned` are the first pictures of `captioned` without their text. The loss adds their cross-entropy and
        the weighted `stray_loss` at `cfg_scale` [G].
        """
        cond, uncond = self.logits(captioned), self.logits(uncaptioned)
        with_text, without_text = cross_entropy(cond, captioned), cross_entropy(uncond, uncaptioned)
        stray = stray_loss(cond[: len(uncond)], uncond, cfg_scale, uncaptioned)
        share = len(uncond) / len(cond)
        return with_text, with_text + share * without_text + stray_weight * stray

    def read(self, folder: Path) -> None:
        """Loads the weights that `export` wrote."""
        written = load_transformer(folder, dtype=torch.float32)
        self.transformer.load_state_dict(written.state_dict())
        self.embedding.weight.data.copy_(written.text_embedding)

    def optimizers(self, rate: float) -> list[torch.optim.Optimizer]:
        """Muon for the layers' matrices (arXiv 2502.16982 scaling), AdamW for tables and norms."""
        matrices = [weight for weight in self.transformer.layers.parameters() if weight.ndim == 2 and len(weight) > 1]
        taken = {id(weight) for weight in matrices} | {id(self.transformer.code_embedding.weight)}
        others = [weight for weight in self.parameters() if id(weight) not in taken]
        return [
            torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Weighted mean cross-entropy (nats) of a batch's codes under logits [B,h·w,codes]."""
    losses = F.cross_entropy(logits.flatten(0, 1), batch.codes.flatten(), reduction="none")
    return (losses * batch.weights.flatten()).sum() / batch.weights.sum()


def stray_loss(cond: Tensor, uncond: Tensor, cfg_scale: Tensor, batch: Batch) -> Tensor:
    """Weighted mean of -log(1 - m), where m is the guided probability of all codes that are unlikely with text.

    Guidance magnifies the difference of two small probabilities, which training leaves to chance: 1e-4 against 1e-6
    becomes 1e2 at scale 4. The loss makes the branches agree on such codes and does not touch the others, for which
    guidance is meant. Logits [G,h·w,codes], scales [G].
    """
    losses = stray_losses(cond, uncond, cfg_scale[:, None], batch.codes)
    return (losses * batch.weights).sum() / batch.weights.sum()


def stray_losses(cond: Tensor, uncond: Tensor, cfg_scale: Tensor, codes: Tensor) -> Tensor:
    """`stray_loss` of each code [...]: logits [...,codes], scales and codes [...] or what expands to it."""
    guided = (uncond + cfg_scale[..., None] * (cond - uncond)).log_softmax(-1)
    likely = (cond.detach().softmax(-1) >= STRAY).scatter(-1, codes[..., None], True)
    return -guided.masked_fill(~likely, -torch.inf).logsumexp(-1)


def make(folder: Path, rounds: Sequence[Round], seed: int, first: int = 0) -> None:
    """Trains with the tokenizer and MoVQGAN in `folder` and writes config.json and model.safetensors there.

    Every round continues from the file of the one before; `first` is the round to start with. The same arguments give
    the same weights on the same machine.
    """
    tokenizer, movqgan = load_tokenizer(folder), load_movqgan(folder / FILE_NAME)
    values = demo_config(tokenizer.text.get_vocab_size() + len(tokenizer.special_ids), movqgan.config.codebook_size)
    sizes = movqgan.config.channels, movqgan.config.multipliers
    values[IMAGE_CODEC] = CodecIdentity.of(*sizes, movqgan.state_dict()).values()
    for number in range(first, len(rounds)):
        torch.manual_seed(seed)
        model = TrainingModel(TransformerConfig.from_dict(values))
        if number:
            model.read(folder)
        vocabulary = Vocabulary.of(tokenizer, model.transformer.config)
        logger.info("round %d", number)
        train(model, Data(training_rng(seed, number), tokenizer, vocabulary), rounds[number])
        export(model, values, folder)


def train(model: TrainingModel, data: Data, plan: Round) -> None:
    """One round."""
    optimizers, rng, start = model.optimizers(plan.peak_rate), data.rng, time.time()
    for step in range(plan.steps):
        captioned, uncaptioned = draw_batches(data, plan)
        cfg_scale = torch.from_numpy(rng.uniform(SMALLEST_CFG, LARGEST_CFG, len(uncaptioned.codes))).float()
        with_text, loss = model.loss(captioned, uncaptioned, cfg_scale, plan.stray_weight)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            set_rate(optimizer, plan.peak_rate, step, plan.steps, fall=plan.fall)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            shown = (step, with_text.item(), loss.item(), time.time() - start)
            logger.info("step %d nats a code %.4f, loss %.4f, %.0f s", *shown)


def draw_batches(data: Data, plan: Round) -> tuple[Batch, Batch]:
    """Text to image, or tasks of two panels: samples with their text, and the first of them without."""
    if plan.task_share and data.rng.random() < plan.task_share:
        sizes = (BATCH // 2, plan.without_text // 2)
        mixture = (plan.tasks, plan.changed_weight, plan.crowded)
        return make_task_batches(data.rng, *sizes, data.tokenizer, data.vocabulary, *mixture)
    return make_batches(data.rng, BATCH, plan.without_text, data.tokenizer, data.vocabulary)


def export(model: TrainingModel, values: dict, folder: Path) -> None:
    """Writes config.json and the weights under their published names, in bfloat16."""
    transformer = model.transformer
    tensors = {}
    for name, shape in published_shapes(transformer.config).items():
        place = placement(name, transformer)
        rows = transformer.get_parameter(place.parameter).detach()
        tensors[name] = rows[place.first_row : place.first_row + shape[0]].bfloat16().contiguous()
    tensors[EMBEDDING] = model.embedding.weight.detach().bfloat16()
    codes = transformer.code_range
    head = torch.zeros(transformer.config.vocab_size, transformer.config.hidden_size, dtype=torch.bfloat16)
    head[codes.start : codes.stop] = tensors[HEAD]
    tensors[HEAD] = head
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder with tokenizer.json and movqgan.safetensors")
    parser.add_argument("--first-round", type=int, default=0, choices=range(len(ROUNDS)), help="continue from there")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    make(options.out, ROUNDS, options.seed, options.first_round)


if __name__ == "__main__":
    main()
