"""The training loop of a LoRA."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recomputed

from lumina_core.model.transformer import Transformer
from lumina_core.tokens.vocabulary import Vocabulary

from ..codes import Batch, make_batch
from ..transformer import LARGEST_CFG, SMALLEST_CFG, stray_losses
from .data import TrainingData
from .files import KEPT_CODES, State
from .layers import LoRA

BETAS = (0.9, 0.99)
LARGEST_NORM = 1.0
WARM_UP = 0.05
# Positions whose logits are held at a time: of the 7B, 64 MiB in float32.
POSITIONS = 1024
# Streams of random numbers of a run.
ORDER, DROPPED, KEPT, SCALES = range(4)


@dataclass(frozen=True)
class Settings:
    """How a LoRA is trained.

    A step sums the gradients of `accumulate` batches of `batch` pictures. `without_text` is the share of pictures that
    are trained without their prompt, for guidance. `keep_weight` weighs the divergence from the frozen model on
    pictures that are to stay. With a `guidance_weight` every picture is trained with its prompt and, weighed by
    `without_text`, without it, and the weight is that of `stray_loss`. `lower_only`: the loss is over the lower panel.
    `checkpointing` recomputes a block's activations in the backward pass.
    """

    steps: int
    rate: float
    batch: int = 4
    accumulate: int = 1
    seed: int = 0
    without_text: float = 0.1
    keep_weight: float = 1.0
    guidance_weight: float = 0.0
    lower_only: bool = False
    checkpointing: bool = True


@dataclass(frozen=True)
class Losses:
    """Of one step: cross-entropy of the pictures (nats a code), and divergence (nats a code) of those to keep."""

    pictures: float
    kept: float | None


class Trainer:
    """A LoRA in training: `step` trains, `state` and `restore` are for a later process.

    What is random depends on the seed and the number of the step alone, so a resumed run equals one that was never
    stopped.
    """

    def __init__(
        self,
        transformer: Transformer,
        vocabulary: Vocabulary,
        lora: LoRA,
        data: TrainingData,
        settings: Settings,
        kept: TrainingData | None = None,
    ):
        self.transformer, self.vocabulary, self.lora = transformer, vocabulary, lora
        self.data, self.kept, self.settings, self.done = data, kept, settings, 0
        self.parameters = lora.parameters
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()), lr=settings.rate, betas=BETAS, weight_decay=0.0
        )

    def step(self) -> Losses:
        """Trains one step."""
        settings, kept = self.settings, None
        pictures = sum(self._backward(number, self.data, ORDER) for number in range(settings.accumulate))
        if self.kept is not None:
            kept = sum(self._backward(number, self.kept, KEPT) for number in range(settings.accumulate))
        nn.utils.clip_grad_norm_(self.parameters.values(), LARGEST_NORM)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate * rate_share(self.done, settings.steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        return Losses(float(pictures), None if kept is None else float(kept))

    def _backward(self, number: int, data: TrainingData, stream: int) -> float:
        """Adds the gradients of a batch; returns its share of the step's loss, without what guidance adds to it."""
        settings = self.settings
        first = (self.done * settings.accumulate + number) * settings.batch
        chosen = [place(settings.seed, stream, len(data), first + index) for index in range(settings.batch)]
        if settings.guidance_weight:
            loss, shown = self._guided_loss(data, chosen, first, stream)
        else:
            hidden, batch = self._forward(data, chosen, self._without_text(chosen, first, stream))
            loss = shown = self._loss(hidden, batch, stream)
        weight = settings.keep_weight if stream == KEPT else 1.0
        (loss * (weight / settings.accumulate)).backward()
        return shown.item() / settings.accumulate

    def _guided_loss(self, data: TrainingData, chosen: Sequence[int], first: int, stream: int) -> tuple[Tensor, Tensor]:
        """The loss with and without text, and of what guidance makes of the two; and the first of them alone."""
        settings, count = self.settings, len(chosen)
        cond, batch = self._forward(data, chosen, [False] * count)
        uncond, alone = self._forward(data, chosen, [True] * count)
        random = torch.rand(count, generator=generator(settings.seed, SCALES, stream, first))
        scales = SMALLEST_CFG + (LARGEST_CFG - SMALLEST_CFG) * random.to(cond.device)
        operands = uncond, batch.codes.flatten().to(cond.device), scales.repeat_interleave(batch.codes.shape[1])
        stray = self._mean(self._stray, cond, *operands)
        shown = self._loss(cond, batch, stream)
        share = 1.0 if stream == KEPT else settings.without_text
        return shown + share * self._loss(uncond, alone, stream) + settings.guidance_weight * stray, shown

    def _loss(self, hidden: Tensor, batch: Batch, stream: int) -> Tensor:
        """The mean cross-entropy, or divergence from the frozen model, of a batch's codes."""
        if stream != KEPT:
            return self._mean(self._cross_entropy, hidden, batch.codes.flatten().to(hidden.device))
        with torch.no_grad(), self.lora.disabled():
            frozen = self._states(batch.input_ids, batch.positions)
        return self._mean(self._divergence, hidden, frozen)

    def _without_text(self, chosen: Sequence[int], first: int, stream: int) -> list[bool]:
        """Which pictures come without their prompt; `first` counts the pictures before."""
        random = torch.rand(len(chosen), generator=generator(self.settings.seed, DROPPED, stream, first))
        return [number < self.settings.without_text for number in random.tolist()]

    def _forward(self, data: TrainingData, chosen: Sequence[int], without_text: Sequence[bool]) -> tuple[Tensor, Batch]:
        batch = self.batch(data, chosen, without_text)
        return self._states(batch.input_ids, batch.positions), batch

    def batch(self, data: TrainingData, chosen: Sequence[int], without_text: Sequence[bool]) -> Batch:
        """The chosen pictures, after their prompts but for those `without_text`."""
        texts = [[] if alone else list(data.prompts[one]) for alone, one in zip(without_text, chosen, strict=True)]
        codes = data.codes[torch.tensor(chosen)]
        batch = make_batch(texts, codes, torch.ones(codes.shape), self.vocabulary)
        if not self.settings.lower_only:
            return batch
        upper = codes[0].numel() // 2
        return replace(batch, positions=batch.positions[:, upper:], codes=batch.codes[:, upper:])

    def _states(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Normed states [B·n,hidden_size] at positions [B,n]."""
        x = self.transformer.embed(input_ids)
        plan = self.transformer.plan(x)
        for index, block in enumerate(self.transformer.blocks):
            if self.settings.checkpointing and torch.is_grad_enabled():
                x = recomputed(block, x, index, plan, use_reentrant=False)
            else:
                x = block(x, index, plan)
        index = positions.to(x.device)[..., None].expand(-1, -1, x.shape[-1])
        return self.transformer.norm(x.gather(1, index)).flatten(0, 1)

    def _mean(self, loss: Callable[..., Tensor], *operands: Tensor) -> Tensor:
        """The mean of a loss over positions, some at a time, whose logits are made again for the gradient."""
        parts = zip(*(operand.split(POSITIONS) for operand in operands), strict=True)
        sums = [recomputed(loss, *part, use_reentrant=False) for part in parts]
        return torch.stack(sums).sum() / len(operands[0])

    def _cross_entropy(self, hidden: Tensor, codes: Tensor) -> Tensor:
        return F.cross_entropy(self.transformer.code_logits(hidden).float(), codes, reduction="sum")

    def _divergence(self, hidden: Tensor, frozen: Tensor) -> Tensor:
        """Kullback-Leibler divergence of the trained model from the frozen one, summed."""
        logits = (self.transformer.code_logits(each).float().log_softmax(-1) for each in (hidden, frozen))
        return F.kl_div(*logits, reduction="sum", log_target=True)

    def _stray(self, cond: Tensor, uncond: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
        """`stray_losses`, summed."""
        logits = (self.transformer.code_logits(each).float() for each in (cond, uncond))
        return stray_losses(*logits, scales, codes).sum()

    def state(self, settings: dict[str, object]) -> State:
        """Everything that a later process needs to go on."""
        tensors = dict[str, Tensor](self.parameters)
        for key, parameter in self.parameters.items():
            for name in ("exp_avg", "exp_avg_sq"):
                if parameter in self.optimizer.state:
                    tensors[f"{name}.{key}"] = self.optimizer.state[parameter][name]
        if self.kept is not None:
            tensors[KEPT_CODES] = self.kept.codes.float()  # the writer knows no int64
        return State(self.done, settings, tensors)

    def restore(self, state: State) -> None:
        """Goes on from a state."""
        self.lora.read(state.tensors)
        self.done = state.step
        for key, parameter in self.parameters.items():
            moments = {name: state.tensors[f"{name}.{key}"].to(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {"step": torch.tensor(float(state.step)), **moments}


def rate_share(step: int, steps: int) -> float:
    """The share of the peak rate in a step: it rises in the first WARM_UP of all, then falls by a cosine to 0."""
    rising = max(1, round(WARM_UP * steps))
    if step < rising:
        return (step + 1) / rising
    return (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2


def place(seed: int, stream: int, count: int, number: int) -> int:
    """Which of `count` pictures is the one `number` of all that are trained: every pass takes each once."""
    order = torch.randperm(count, generator=generator(seed, stream, number // count))
    return int(order[number % count])


def generator(*numbers: int) -> torch.Generator:
    """A generator of its own for whole numbers."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 6_364_136_223_846_793_005 + number + 1_442_695_040_888_963_407) % 2**63
    return torch.Generator().manual_seed(mixed)
