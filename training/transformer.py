"""Trains the demo's transformer on the codes of its MoVQGAN: python -m training.transformer --out FOLDER"""

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
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
from lumina_core.model.load import placement
from lumina_core.model.transformer import Transformer
from lumina_core.movqgan.load import load_movqgan
from lumina_core.tokens.tokenizer import Tokenizer
from lumina_core.tokens.vocabulary import Vocabulary

from .arguments import add_arguments, run_training
from .codes import TWO_PANELS, Batch, first_panel, make_batches, make_task_batches
from .matching import set_heads
from .movqgan import FILE_NAME
from .progress import Progress, TrainingState
from .questions import AHEAD_LAYER, STATED_LAYER, Answers, Questions, answers_loss, states_after
from .world import CANVAS, KINDS, code_factors, looks, training_rng
from .world.cells import BEGINS, KIND, OBJECT

logger = logging.getLogger(__name__)

STATE = "transformer.training.pt"
STEPS, BATCH, TASK_BATCH, WITHOUT_TEXT = 12000, 12, 6, 3
PEAK_RATE, WARM_UP, FALL = 3e-3, 100, 0.8
TASKS_FROM, TASK_SHARE, MATCHING_FROM = 0.15, 0.6, 0.5
STRAY_WEIGHT = 0.25
SMALLEST_CFG, LARGEST_CFG = 1.0, 6.0
STRAY = 2e-4  # A code less likely than this, given the text, cannot be in the picture there.
# Shares of the codes that are in the loss: of ground and maps, and of what follows from an object's first cell.
PLAIN_SHARE, SURE_SHARE = 0.5, 0.3
FIRST_WEIGHT = 8.0  # Of an object's first cell, which decides what is drawn; its other cells follow from it.
WHAT_WEIGHT = 6.0  # Of what a code shows, beside the code itself.
TASKS = ("edit",) * 9 + ("control",) * 4 + ("subject",) * 7 + ("pair",) * 3 + ("predict",) * 2
CHANGED_WEIGHT = 2.0
# Batches that only ask which object an edit is about: the text, and the given panel.
ASKED_SHARE, ASKED_WEIGHT, ASKED_TASKS = 0.3, 3.0, ("edit:remove", "edit:recolour", "edit:replace")


def demo_config(text_tokens: int, codebook_size: int) -> dict:
    """The demo's config.json: the published keys, and the place of the image codes in the vocabulary."""
    offset = -(-text_tokens // 64) * 64
    return {
        "architectures": ["ChameleonXLLMXForConditionalGeneration"],
        "model_type": "chameleon",
        "hidden_size": 256,
        "intermediate_size": 384,
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


class FactorTable(nn.Module):
    """Rows [codes,hidden_size] for all codes: the sum of a row for each factor of a code's look, and one of its own.

    What is learned of one factor, such as "the cell below", holds for all codes that share it.
    """

    def __init__(self, factors: np.ndarray, width: int, std: float):
        super().__init__()
        counts = factors.max(0) + 1
        indices = torch.from_numpy(factors + np.cumsum([0, *counts[:-1]]))
        self.register_buffer("shares", torch.zeros(len(factors), int(counts.sum())).scatter_(1, indices, 1.0))
        self.rows = nn.Parameter(torch.randn(int(counts.sum()), width) * std)
        self.own = nn.Parameter(torch.randn(len(factors), width) * std * 0.1)

    def forward(self) -> Tensor:
        return self.shares @ self.rows + self.own


class TrainingModel(nn.Module):
    """The transformer with trainable tables of text and codes."""

    def __init__(self, config: TransformerConfig, factors: np.ndarray):
        super().__init__()
        self.transformer = Transformer(config)
        self.text = nn.Parameter(torch.randn(self.transformer.code_range.start, config.hidden_size) * 0.5)
        self.codes_in = FactorTable(factors, config.hidden_size, 0.25)
        self.codes_out = FactorTable(factors, config.hidden_size, 0.0)
        for layer in self.transformer.layers:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                nn.init.zeros_(projection.weight)
        self.questions = Questions(config.hidden_size)
        self.register_buffer("heads_are_set", torch.tensor(False))
        first = int((factors.max(0) + 1)[:KIND].sum()) + 1
        self.kind_rows = slice(first, first + len(KINDS))

    def tables(self) -> tuple[Tensor, Tensor]:
        """The embedding of the whole vocabulary [vocab_size,hidden_size] and the head [codes,hidden_size]."""
        return torch.cat([self.text, self.codes_in()]), self.codes_out()

    def logits(self, batch: Batch, keep: Tensor, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Answers]:
        """Logits [n,codes] of those picture codes of a batch that `keep`, bool [B,h·w], names, in reading order.

        And what the layers answer to the questions beside them.
        """
        device, layers = self.text.device, self.transformer.layers
        rows, places = keep.nonzero(as_tuple=True)
        kept = rows.to(device), batch.positions[rows, places].to(device)
        before = torch.arange(len(batch.codes), device=device), batch.positions[:, 0].to(device)
        with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(_attention(device)):
            embedded = F.embedding(batch.input_ids.to(device), tables[0])
            with states_after([layers[STATED_LAYER], layers[AHEAD_LAYER]]) as states:
                hidden = self.transformer.hidden_states(embedded, self.transformer.plan(embedded))
            answers = self.questions(states[0][before], states[1][kept], self.codes_in.rows[self.kind_rows])
            return F.linear(hidden[kept], tables[1]).float(), answers

    def loss(
        self, captioned: Batch, uncaptioned: Batch, keep: Tensor, cfg_scale: Tensor, stray_weight: float
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy (nats) of the codes with text, and the loss to minimise.

        `uncaptioned` are the first pictures of `captioned` without their text; `keep`, bool [B,h·w], names the codes
        that count, see `kept_codes`. The loss adds their cross-entropy, that of what the codes show, and the weighted
        `stray_losses` at `cfg_scale` [G].
        """
        tables, count = self.tables(), len(uncaptioned.codes)
        (cond, answers), (uncond, _) = (
            self.logits(batch, keep[: len(batch.codes)], tables) for batch in (captioned, uncaptioned)
        )
        with_text = cross_entropy(cond, captioned, keep)
        loss = with_text + WHAT_WEIGHT * cross_entropy(cond, captioned, keep, what_codes_show())
        loss = loss + answers_loss(answers, captioned, keep)
        for groups, weight in ((None, 1.0), (what_codes_show(), WHAT_WEIGHT)):
            without_text = cross_entropy(uncond, uncaptioned, keep[:count], groups)
            loss = loss + weight * count / len(captioned.codes) * without_text
        if stray_weight:
            scales = cfg_scale[:, None].expand(keep[:count].shape)[keep[:count]].to(uncond.device)
            codes = uncaptioned.codes[keep[:count]].to(uncond.device)
            weights = code_weights(uncaptioned, keep[:count]).to(uncond.device)
            stray = stray_losses(cond[: len(uncond)], uncond, scales, codes)
            loss = loss + stray_weight * (stray * weights).sum() / weights.sum()
        return with_text, loss

    def asked_loss(self, batch: Batch) -> Tensor:
        """The weighted loss of the questions about a batch, without its codes."""
        keep = torch.ones(batch.codes.shape, dtype=torch.bool)
        return ASKED_WEIGHT * answers_loss(self.logits(batch, keep, self.tables())[1], batch, keep)

    def optimizers(self, rate: float) -> list[torch.optim.Optimizer]:
        """Muon for the layers' matrices (arXiv 2502.16982 scaling), AdamW for tables and norms."""
        matrices = [weight for weight in self.transformer.layers.parameters() if weight.ndim == 2 and len(weight) > 1]
        taken = {id(weight) for weight in matrices}
        taken |= {id(self.transformer.code_embedding.weight), id(self.transformer.code_head.weight)}
        others = [weight for weight in self.parameters() if id(weight) not in taken]
        return [
            torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]


def _attention(device: torch.device) -> list[SDPBackend]:
    """The attention with the faster backward pass."""
    if device.type == "cpu":
        return [SDPBackend.MATH]
    return [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def kept_codes(rng: np.random.Generator, codes: Tensor) -> Tensor:
    """Which codes [B,h·w] are in the loss, bool: all that decide what a picture shows, and a random share of others."""
    return torch.from_numpy(rng.random(codes.shape, dtype=np.float32)) < kept_shares()[codes]


@cache
def kept_shares() -> Tensor:
    """The share of each code [codes] that is in the loss."""
    shares = [
        1.0 if look.style == BEGINS or first else SURE_SHARE if look.style == OBJECT else PLAIN_SHARE
        for look, first in zip(looks(), first_codes().tolist(), strict=True)
    ]
    return torch.tensor(shares)


@cache
def first_codes() -> Tensor:
    """Whether each code is the first of an object, bool [codes]."""
    return torch.tensor([look.style == OBJECT and look.row == look.column == 0 for look in looks()])


def code_weights(batch: Batch, keep: Tensor) -> Tensor:
    """Weights [n] of the kept codes in the loss: each stands for those of its kind that are left out.

    An object's first code weighs FIRST_WEIGHT: as it follows on "an object begins", this changes no probability.
    """
    codes = batch.codes[keep]
    return batch.weights[keep] / kept_shares()[codes] * torch.where(first_codes()[codes], FIRST_WEIGHT, 1.0)


@cache
def what_codes_show() -> Tensor:
    """A number for what each code shows, int64 [codes]: ground, or a place to begin, or which object of which colour.

    Which of its details a background has where is chance, and most of a code's entropy; whether an object begins there
    and which is what a text is about. So the loss counts the second again.
    """
    kinds = {(look.style, look.kind, look.colour, look.size) for look in looks()}
    number = {kind: index for index, kind in enumerate(sorted(kinds, key=str))}
    return torch.tensor([number[look.style, look.kind, look.colour, look.size] for look in looks()])


def cross_entropy(logits: Tensor, batch: Batch, keep: Tensor, groups: Tensor | None = None) -> Tensor:
    """Weighted mean cross-entropy (nats) of kept codes, or of their `groups` [codes], under logits [n,codes]."""
    codes = batch.codes[keep].to(logits.device)
    if groups is None:
        losses = F.cross_entropy(logits, codes, reduction="none")
    else:
        groups = groups.to(logits.device)
        others = groups != groups[codes][:, None]
        losses = logits.logsumexp(-1) - logits.masked_fill(others, -torch.inf).logsumexp(-1)
    weights = code_weights(batch, keep).to(logits.device)
    return (losses * weights).sum() / weights.sum()


def stray_losses(cond: Tensor, uncond: Tensor, cfg_scale: Tensor, codes: Tensor) -> Tensor:
    """-log(1 - m) for each code [...], where m is the guided probability of all codes that are unlikely with text.

    Guidance magnifies the difference of two small probabilities, which training leaves to chance: 1e-4 against 1e-6
    becomes 1e2 at scale 4. The loss makes the branches agree on such codes and does not touch the others, for which
    guidance is meant. Logits [...,codes], scales and codes [...] or what expands to it.
    """
    guided = (uncond + cfg_scale[..., None] * (cond - uncond)).log_softmax(-1)
    likely = (cond.detach().softmax(-1) >= STRAY).scatter(-1, codes[..., None], True)
    return -guided.masked_fill(~likely, -torch.inf).logsumexp(-1)


def make(folder: Path, steps: int, seconds: float | None, seed: int, resume: bool, device: torch.device) -> None:
    """Trains with the tokenizer in `folder` and writes config.json and model.safetensors there.

    Without `seconds`, the same arguments give the same weights on the same machine.
    """
    tokenizer = load_tokenizer(folder)
    values = demo_config(tokenizer.text.get_vocab_size() + len(tokenizer.special_ids), len(looks()))
    torch.manual_seed(seed)
    model = TrainingModel(TransformerConfig.from_dict(values), code_factors()).to(device)
    data = Data(training_rng(seed), tokenizer, Vocabulary.of(tokenizer, model.transformer.config))
    train(model, data, Progress(steps, seconds), folder / STATE, resume)
    export(model, values, folder)


def train(model: TrainingModel, data: Data, progress: Progress, path: Path, resume: bool) -> None:
    """Trains to the end of `progress`, from the state in the file `path` where there is one and `resume` is set."""
    optimizers = model.optimizers(PEAK_RATE)
    state = TrainingState(path, model, optimizers, data.rng, progress)
    if resume:
        state.load()
    while not progress.done:
        if progress.share >= MATCHING_FROM and not model.heads_are_set:
            set_heads(model, lambda: asked_batch(data), lambda: asked_edits(data))
            model.heads_are_set.fill_(True)
        if progress.share > TASKS_FROM and data.rng.random() < ASKED_SHARE:
            shown, loss = "edits asked about", model.asked_loss(asked_batch(data))
        else:
            shown, loss = drawn_loss(model, data, progress.share)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            progress.set_rate(optimizer, PEAK_RATE, WARM_UP, FALL)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if progress.step % 50 == 0:
            logger.info("step %d, %s, loss %.4f, %.0f s", progress.step, shown, loss.item(), progress.elapsed)
        progress.advance()
        state.save_at_times()
    state.save()


def drawn_loss(model: TrainingModel, data: Data, share: float) -> tuple[str, Tensor]:
    """The loss of a batch of pictures that are drawn, and a line on it."""
    captioned, uncaptioned = draw_batches(data, share)
    cfg_scale = torch.from_numpy(data.rng.uniform(SMALLEST_CFG, LARGEST_CFG, len(uncaptioned.codes))).float()
    keep = kept_codes(data.rng, captioned.codes)
    stray_weight = STRAY_WEIGHT if share > TASKS_FROM else 0.0
    with_text, loss = model.loss(captioned, uncaptioned, keep, cfg_scale, stray_weight)
    return f"codes {tuple(captioned.codes.shape)}, weighted nats a code {with_text.item():.4f}", loss


def asked_batch(data: Data) -> Batch:
    """Edits up to the end of their given panel."""
    return first_panel(asked_edits(data))


def asked_edits(data: Data) -> Batch:
    """Edits that are about one object."""
    return make_task_batches(data.rng, BATCH, 1, data.tokenizer, data.vocabulary, ASKED_TASKS)[0]


def draw_batches(data: Data, share: float) -> tuple[Batch, Batch]:
    """Text to image, or tasks of two panels: samples with their text, and the first of them without."""
    if share > TASKS_FROM and data.rng.random() < TASK_SHARE:
        sizes = TASK_BATCH, max(1, WITHOUT_TEXT * TASK_BATCH // BATCH)
        return make_task_batches(data.rng, *sizes, data.tokenizer, data.vocabulary, TASKS, CHANGED_WEIGHT)
    return make_batches(data.rng, BATCH, WITHOUT_TEXT, data.tokenizer, data.vocabulary)


def export(model: TrainingModel, values: dict, folder: Path) -> None:
    """Writes config.json and the weights under their published names, in bfloat16.

    config.json names the codec in `folder`, where there is one.
    """
    transformer = model.transformer
    embedding, code_head = (table.detach().cpu() for table in model.tables())
    tensors = {}
    for name, shape in published_shapes(transformer.config).items():
        if name not in (EMBEDDING, HEAD):
            place = placement(name, transformer)
            rows = transformer.get_parameter(place.parameter).detach()
            tensors[name] = rows[place.first_row : place.first_row + shape[0]].bfloat16().cpu().contiguous()
    tensors[EMBEDDING] = embedding.bfloat16()
    head = torch.zeros(embedding.shape, dtype=torch.bfloat16)
    head[transformer.code_range.start : transformer.code_range.stop] = code_head
    tensors[HEAD] = head
    if (folder / FILE_NAME).exists():
        movqgan = load_movqgan(folder / FILE_NAME)
        sizes = movqgan.config.channels, movqgan.config.multipliers
        values = {**values, IMAGE_CODEC: CodecIdentity.of(*sizes, movqgan.state_dict()).values()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.transformer", description=__doc__)
    add_arguments(parser, "folder with tokenizer.json and movqgan.safetensors")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(arguments)
    rest = options.steps, options.seconds, options.seed, options.resume
    run_training(parser, options.device, lambda device: make(options.out, *rest, device))


if __name__ == "__main__":
    main()
