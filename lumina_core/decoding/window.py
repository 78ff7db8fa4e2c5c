"""The window that moves over a batch of pictures: its state, and the step that settles tokens."""

import torch
from torch import Tensor

from ..kernels.noise import picture_keys
from ..model.kv_cache import KVCache
from ..model.transformer import Transformer
from .canvas import Canvas
from .drafts import Entrance, enter
from .rules import Slots, make_rule
from .sampling import guide
from .settings import DecodeSettings

# With fewer rows in a matrix product, CPU kernels add up in another order and round differently; at this many and more,
# a row's result is the same bit for bit whatever stands beside it. That leaves attention: behind some 200 tokens it
# also rounds by how much of the cache is read, which changed one token in a million between `gumbel` and `ar`.
SAME_ROUNDING_ROWS = 8


class Window:
    """N pictures, each with W slots that begin at its last settled token.

    All is tensors of fixed shape on the device, and `step` neither reads them on the host nor makes a choice by them.
    `tokens` [N,length] holds codes by index (0 where an end of row stands): settled ones up to `pos` [N], drafts behind
    it. `settled_step` [N,length] is the forward that settled each, −1 where none has, `log_probs` [N,length] the log of
    the guided probability that it had there, 0 where none has.
    """

    def __init__(
        self,
        transformer: Transformer,
        canvas: Canvas,
        cache: KVCache,
        prompt_lengths: list[int],
        settings: DecodeSettings,
    ):
        self.transformer, self.canvas, self.cache, self.settings = transformer, canvas, cache, settings
        pictures, width, device = len(prompt_lengths), settings.width, transformer.device
        branches = 2 if settings.guided else 1
        self.width = width
        self._least_slots = -(-SAME_ROUNDING_ROWS // branches) if device.type == "cpu" else 1
        self.length = canvas.last + 2 * self.slots_run(width) + 1
        self.offset = torch.tensor([*prompt_lengths, *[0] * (pictures * (branches - 1))], device=device)[:, None]
        self.keys = picture_keys([settings.seed + k for k in range(pictures)], device)
        self.tokens = torch.zeros(pictures, self.length, dtype=torch.int64, device=device)
        self.settled_step = torch.full_like(self.tokens, -1)
        self.log_probs = torch.zeros(pictures, self.length, device=device)
        self.pos = torch.full((pictures,), canvas.first - 1, device=device)
        self.steps = torch.zeros((), dtype=torch.int64, device=device)
        codes = transformer.config.codebook_size
        draft_probs = torch.zeros(pictures, width - 1, codes if settings.keeps_draft_probs else 0, device=device)
        self.rule = make_rule(settings.decoder, draft_probs, settings.top_k)
        index = torch.arange(self.length, device=device)
        self.end_of_row = canvas.is_end_of_row(index)
        self.forced = self.end_of_row | (index > canvas.last)
        self._offsets = torch.arange(self.slots_run(width), device=device)

    @property
    def state(self) -> tuple[Tensor, ...]:
        """All that a step changes, beside the cache; always the same tensors."""
        return (self.tokens, self.settled_step, self.log_probs, self.pos, self.steps, *self.rule.state)

    def slots_run(self, width: int) -> int:
        """Slots that a forward of `width` tokens runs."""
        return max(width, self._least_slots)

    def begin(self, hidden: Tensor) -> None:
        """Draws the first token from the states [R,H] behind the prompts."""
        index = (self.pos + 1)[:, None]
        logits = self._logits(hidden[:, None])
        prepared = self.rule.prepare(logits)
        self.tokens.scatter_(1, index, self.rule.draw(prepared, self._slots(index)))
        self._move(logits, prepared, index, torch.ones_like(self.pos))

    def step(self, end_of_row_embedding: Tensor, kv_len: int, width: int) -> Tensor:
        """One forward: the tokens [N] that it settled, 0 for a finished picture.

        `kv_len` is how much of the cache is read; at least the largest position in the window + 1. `width` is W or
        less, and no more than one more than what is left to draw in the picture that is furthest behind.
        """
        index = self.pos[:, None] + self._offsets[: self.slots_run(width)]
        logits = self._logits(self._forward(index, end_of_row_embedding, kv_len), width)
        following = index[:, :width] + 1
        drafts = self.tokens.gather(1, following[:, :-1])
        prepared = self.rule.prepare(logits)
        tokens, accepted = self.rule.settle(prepared, drafts, self._slots(following))
        self.tokens.scatter_(1, following, torch.where(self.forced[following], 0, tokens))
        accepted = torch.minimum(accepted, self.canvas.last - self.pos)
        self._move(logits, prepared, following, accepted)
        return accepted

    def _forward(self, index: Tensor, end_of_row_embedding: Tensor, kv_len: int) -> Tensor:
        embedded = self.transformer.code_embedding(self.tokens.gather(1, index))
        embedded = torch.where(self.end_of_row[index].unsqueeze(-1), end_of_row_embedding, embedded)
        branches = len(self.offset) // len(index)
        input_pos = index.repeat(branches, 1) + self.offset
        return self.transformer.hidden_states(embedded.repeat(branches, 1, 1), self.cache.plan(input_pos, kv_len))

    def _logits(self, hidden: Tensor, width: int = 1) -> Tensor:
        """Guided and over temperature, of the first `width` of all the slots that ran."""
        logits = self.transformer.code_logits(hidden)[:, :width]
        if self.settings.guided:
            cond, uncond = logits.chunk(2)
            logits = guide(cond, uncond, self.settings.cfg_scale)
        return logits.float() / self.settings.temperature

    def _slots(self, index: Tensor) -> Slots:
        return Slots(self.keys, index, self.forced[index], self.steps)

    def _move(self, logits: Tensor, prepared: Tensor, following: Tensor, accepted: Tensor) -> None:
        """Settles the first `accepted` [N] of the tokens at `following` [N,S] and lets new slots enter behind them."""
        settles = torch.arange(following.shape[1], device=following.device) < accepted[:, None]
        log_probs = logits.gather(-1, self.tokens.gather(1, following).unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
        for kept, new in ((self.settled_step, self.steps), (self.log_probs, log_probs)):
            kept.scatter_(1, following, torch.where(settles, new, kept.gather(1, following)))
        if self.width > 1:
            self._enter(prepared, following[:, -1:], accepted)
        self.pos += accepted
        self.steps += 1

    def _enter(self, logits: Tensor, known: Tensor, accepted: Tensor) -> None:
        index = known + 1 + torch.arange(self.width - 1, device=known.device)
        entrance = Entrance(self.canvas, self.tokens, known, logits[:, -1], self._slots(index))
        drafts, draft_probs = enter(self.settings.new_drafts, entrance, self.rule)
        self.tokens.scatter_(1, index, torch.where(self.forced[index], 0, drafts))
        self.rule.remember(logits, accepted, draft_probs)
