"""The window that moves over a batch of pictures: its state, the step that accepts tokens, and the new drafts."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels.noise import FRESH, picture_keys
from ..model.kv_cache import KVCache
from ..model.transformer import Transformer
from ..pictures.sizes import HEADER_LENGTH
from .canvas import Canvas
from .rules import Rule, Slots, make_rule
from .sampling import guide
from .settings import DecodeSettings

# With fewer rows in a matmul, CPU kernels sum in another order and round differently; with this many or more, a row's
# result is bit-identical whatever the other rows are. That leaves attention: after some 200 tokens its rounding also
# depends on how much of the cache is read, which changed one token in a million between `gumbel` and `ar`.
SAME_ROUNDING_ROWS = 8


class Window:
    """N pictures, each with W slots that begin at its last accepted token.

    The state is tensors of fixed shape on the device; `step` neither reads them on the host nor branches on them.
    `tokens` [N,length] holds codes by index (0 at an end of row): accepted ones up to `pos` [N], drafts after it.
    `accept_step` [N,length] is the forward that accepted each token, −1 where none has; `log_probs` [N,length] the log
    of its guided probability then, 0 where none has.
    """

    def __init__(
        self,
        transformer: Transformer,
        canvas: Canvas,
        cache: KVCache,
        prompt_lengths: list[int],
        settings: DecodeSettings,
        end_of_row_id: int,
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
        self.accept_step = torch.full_like(self.tokens, -1)
        self.log_probs = torch.zeros(pictures, self.length, device=device)
        self.pos = torch.full((pictures,), canvas.first - 1, device=device)
        self.steps = torch.zeros((), dtype=torch.int64, device=device)
        codes = transformer.config.codebook_size
        draft_probs = torch.zeros(pictures, width - 1, codes if settings.keeps_draft_probs else 0, device=device)
        self.rule = make_rule(settings.decoder, draft_probs, settings.top_k, cache.kernels)
        index = torch.arange(self.length, device=device)
        self.end_of_row = canvas.is_end_of_row(index)
        self.forced = self.end_of_row | (index > canvas.last)
        self._end_of_row_embedding = transformer.embed(torch.tensor([end_of_row_id]))
        self._offsets = torch.arange(self.slots_run(width), device=device)

    @property
    def state(self) -> tuple[Tensor, ...]:
        """Every tensor that a step changes, apart from the cache; always the same tensors."""
        return (self.tokens, self.accept_step, self.log_probs, self.pos, self.steps, *self.rule.state)

    def slots_run(self, width: int) -> int:
        """Slots that a forward of `width` tokens runs."""
        return max(width, self._least_slots)

    def begin(self, hidden: Tensor) -> None:
        """Draws the first token from the prompts' last hidden states [R,H]."""
        index = (self.pos + 1)[:, None]
        logits = self._logits(hidden[:, None])
        prepared = self.rule.prepare(logits)
        self.tokens.scatter_(1, index, self.rule.draw(prepared, self._slots(index)))
        self._move(logits, prepared, index, torch.ones_like(self.pos))

    def step(self, kv_len: int, width: int) -> None:
        """Runs one forward and accepts 1 to `width` tokens of every picture that is not complete.

        `kv_len` is how much of the cache is read: at least the largest position in the window + 1. `width` is at most
        W, and at most one more than what is left to draw in the picture that has most left.
        """
        index = self.pos[:, None] + self._offsets[: self.slots_run(width)]
        logits = self._logits(self._forward(index, kv_len), width)
        following = index[:, :width] + 1
        drafts = self.tokens.gather(1, following[:, :-1])
        prepared = self.rule.prepare(logits)
        tokens, accepted = self.rule.accept(prepared, drafts, self._slots(following))
        self.tokens.scatter_(1, following, torch.where(self.forced[following], 0, tokens))
        self._move(logits, prepared, following, torch.minimum(accepted, self.canvas.last - self.pos))

    def _forward(self, index: Tensor, kv_len: int) -> Tensor:
        embedded = self.transformer.code_embedding(self.tokens.gather(1, index))
        embedded = torch.where(self.end_of_row[index].unsqueeze(-1), self._end_of_row_embedding, embedded)
        branches = len(self.offset) // len(index)
        input_pos = index.repeat(branches, 1) + self.offset
        return self.transformer.hidden_states(embedded.repeat(branches, 1, 1), self.cache.plan(input_pos, kv_len))

    def _logits(self, hidden: Tensor, width: int = 1) -> Tensor:
        """Guided logits over temperature, of the first `width` of the slots that ran."""
        logits = self.transformer.code_logits(hidden)[:, :width]
        if self.settings.guided:
            cond, uncond = logits.chunk(2)
            logits = guide(cond, uncond, self.settings.cfg_scale)
        return logits.float() / self.settings.temperature

    def _slots(self, index: Tensor) -> Slots:
        return Slots(self.keys, index, self.forced[index], self.steps)

    def _move(self, logits: Tensor, prepared: Tensor, following: Tensor, accepted: Tensor) -> None:
        """Accepts the first `accepted` [N] of the tokens at `following` [N,S] and adds new drafts after them."""
        is_accepted = torch.arange(following.shape[1], device=following.device) < accepted[:, None]
        log_probs = logits.gather(-1, self.tokens.gather(1, following).unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
        for kept, new in ((self.accept_step, self.steps), (self.log_probs, log_probs)):
            kept.scatter_(1, following, torch.where(is_accepted, new, kept.gather(1, following)))
        if self.width > 1:
            self._draft(prepared, following[:, -1:], accepted)
        self.pos += accepted
        self.steps += 1

    def _draft(self, logits: Tensor, known: Tensor, accepted: Tensor) -> None:
        index = known + 1 + torch.arange(self.width - 1, device=known.device)
        new = NewDrafts(self.canvas, self.tokens, known, logits[:, -1], self._slots(index))
        drafts, draft_probs = new.make(self.settings.new_drafts, self.rule)
        self.tokens.scatter_(1, index, torch.where(self.forced[index], 0, drafts))
        self.rule.commit(logits, accepted, draft_probs)


Drafts = tuple[Tensor, Callable[[], Tensor]]
"""Drafts [N,S], and a function that returns the distributions [N,S,K] that they count as drawn from."""


@dataclass(frozen=True)
class NewDrafts:
    """Drafts for the slots [N,S] after a window; every way is exact, it only decides how many tokens are accepted.

    `tokens` [N,length] are known up to the index `known` [N,1]; `logits` [N,K] are the window's last, for the token at
    `known`.
    """

    canvas: Canvas
    tokens: Tensor
    known: Tensor
    logits: Tensor
    slots: Slots

    def make(self, way: str, rule: Rule) -> Drafts:
        """Drafts by one of NEW_DRAFTS."""
        if way == "above":
            return self._above()
        if way == "left":
            return self._copies(self._last_code().expand_as(self.slots.index))
        return self._random() if way == "random" else self._guess(rule)

    def _above(self) -> Drafts:
        """The nearest known code in the same column; in the first row, the last known code."""
        index, row_length = self.slots.index, self.canvas.row_length
        rows_up = torch.div(index - self.known + row_length - 1, row_length, rounding_mode="floor")
        source = index - rows_up * row_length
        return self._copies(torch.where(source < HEADER_LENGTH, self._last_code(), source))

    def _random(self) -> Drafts:
        codes = self.logits.shape[-1]
        drafts = (self.slots.uniform(FRESH) * codes).long().clamp_max(codes - 1)
        return drafts, lambda: self.logits.new_full((), 1 / codes).expand(*drafts.shape, codes)

    def _guess(self, rule: Rule) -> Drafts:
        """Draws from the model's distribution at the window's end."""
        logits = self.logits[:, None].expand(-1, self.slots.index.shape[1], -1)
        return rule.draw(logits, self.slots), lambda: logits.softmax(-1)

    def _copies(self, source: Tensor) -> Drafts:
        drafts, codes = self.tokens.gather(1, source), self.logits.shape[-1]
        return drafts, lambda: F.one_hot(drafts, codes).to(self.logits.dtype)

    def _last_code(self) -> Tensor:
        return torch.where(self.canvas.is_end_of_row(self.known), self.known - 1, self.known)
