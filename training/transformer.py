"""Trains the demo's transformer on the codes of its MoVQGAN: python -m training.transformer --out FOLDER"""

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lumina_core.config import TransformerConfig
from lumina_core.model import Transformer
from lumina_core.model.load import EMBEDDING, HEAD, placements, published_shapes
from lumina_core.movqgan import load_movqgan
from lumina_core.tokenizer import load_tokenizer
from lumina_core.vocabulary import Vocabulary

from .codes import Batch, make_batch, make_pool
from .movqgan import FILE_NAME, set_rate
from .world import CANVAS, training_rng

logger = logging.getLogger(__name__)

STEPS, BATCH, PEAK_RATE, POOL = 4500, 32, 3e-3, 50_000
SEQUENCE = 120


def demo_config(text_tokens: int, codebook_size: int) -> dict:
    """The demo's config.json: the published keys, and where its image codes lie in the vocabulary."""
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
        "trained_sizes": [[CANVAS, CANVAS]],
    }


class TrainingModel(nn.Module):
    """The transformer beside a trainable embedding of the whole vocabulary."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.transformer = Transformer(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.zeros_(self.transformer.code_head.weight)
        for layer in self.transformer.layers:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                nn.init.zeros_(projection.weight)

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy (nats) of the picture codes; every other token of a picture is forced."""
        with torch.autocast("cpu", torch.bfloat16):
            embedded = self.embedding(batch.input_ids)
            hidden = self.transformer.hidden_states(embedded, self.transformer.plan(embedded))
            index = batch.positions[..., None].expand(-1, -1, hidden.shape[-1])
            logits = self.transformer.code_logits(hidden.gather(1, index)).float()
        return F.cross_entropy(logits.flatten(0, 1), batch.codes.flatten())

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the layers' matrices (arXiv 2502.16982 scaling), AdamW for tables and norms."""
        matrices = [weight for weight in self.transformer.layers.parameters() if weight.ndim == 2 and len(weight) > 1]
        taken = {id(weight) for weight in matrices} | {id(self.transformer.code_embedding.weight)}
        others = [weight for weight in self.parameters() if id(weight) not in taken]
        return [
            torch.optim.Muon(matrices, lr=PEAK_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0),
        ]


def train(folder: Path, steps: int, seed: int, pool_size: int = POOL) -> None:
    """Trains on the tokenizer and MoVQGAN in `folder` and writes config.json and model.safetensors beside them.

    `pool_size` scenes are drawn and encoded once; the same arguments give the same weights on the same machine.
    """
    torch.manual_seed(seed)
    rng = training_rng(seed)
    tokenizer, movqgan = load_tokenizer(folder), load_movqgan(folder / FILE_NAME)
    values = demo_config(tokenizer.text.get_vocab_size() + len(tokenizer.special_ids), movqgan.config.codebook_size)
    config = TransformerConfig.from_dict(values)
    vocabulary, model = Vocabulary.of(tokenizer, config), TrainingModel(config)
    pool = make_pool(movqgan, rng, pool_size)
    logger.info("%d scenes encoded, %d codes in use", len(pool.specs), len(pool.codes.unique()))
    optimizers, order, start = model.optimizers(), np.empty(0, np.int64), time.time()
    for step in range(steps):
        if len(order) < BATCH:
            order = rng.permutation(len(pool.specs))
        chosen, order = order[:BATCH], order[BATCH:]
        loss = model.loss(make_batch(pool, chosen, rng, tokenizer, vocabulary, SEQUENCE))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            set_rate(optimizer, PEAK_RATE, step, steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            logger.info("step %d loss %.4f, %.0f s", step, loss.item(), time.time() - start)
        if step % 1000 == 999 or step == steps - 1:
            export(model, values, folder)


def export(model: TrainingModel, values: dict, folder: Path) -> None:
    """Writes config.json and the weights under their published names, in bfloat16."""
    transformer = model.transformer
    tensors = {}
    for name, shape in published_shapes(transformer.config).items():
        place = next(placements(name, transformer))
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
    """Command line: `python -m training.transformer --out FOLDER`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder with tokenizer.json and movqgan.safetensors")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--pool", type=int, default=POOL, help="scenes to train on")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(options.out, options.steps, options.seed, options.pool)


if __name__ == "__main__":
    main()
