"""The window that moves over a batch of pictures: its state, and the step that accepts tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels.buffers import NORMED, Buffers
from ..kernels.noise import picture_keys
from ..kernels.window_reference import window_embeddings
from ..kernels.window_state import WindowState
from ..model.kv_cache import KVCache, WindowPlan
from ..model.transformer import Transformer
from .canvas import Canvas
from .settings import DecodeSettings

# With fewer rows in a matmul, CPU kernels sum in another order and round differently; with this many or more, a row's
# result is bit-identical whatever the other rows are. Backends for quantised weights that round alike need no more.
SAME_ROUNDING_ROWS = 8
# Rows that the head multiplies on a GPU at least: those of a window of 32 with guidance.
HEAD_ROWS = 64


class Window:
    """N pictures, each with W slots that begin at its last accepted token.

    All that a step reads or writes is tensors of fixed shape on the device: the state, the cache, and the buffers for
    its results. `step` neither reads them on the host nor branches on them; by the kernels it allocates nothing after
    its first run at a width.
    """

    def __init__(
        self, transformer: Transformer, canvas: Canvas, cache: KVCache, pictures: int, settings: DecodeSettings
    ):
        self.transformer, self.canvas, self.cache, self.kernels = transformer, canvas, cache, cache.kernels
        self.width, device = settings.width, transformer.device
        branches = 2 if settings.guided else 1
        self._least_rows = SAME_ROUNDING_ROWS if device.type == "cpu" else 1
        self._least_slots = 1 if transformer.rounds_alike else -(-self._least_rows // branches)
        sampling = settings.sampling(transformer.config.codebook_size)
        self._nodes = settings.nodes
        length = canvas.last + 2 * self.slots_run(self.width) + 1
        self.state = WindowState.empty(canvas.layout, sampling, self.width, pictures, length, device)
        self.buffers = Buffers(device)
        # The head always multiplies as many rows, so that its rounding does not depend on the width.
        rows = max(HEAD_ROWS, len(self.state.offset) * (self.width + self._nodes))
        self._head_shape = rows, transformer.config.hidden_size
        if self.kernels.blocks is not None:
            self.buffers.empty(NORMED, self._head_shape, transformer.dtype)
        self._end_of_row = torch.empty(transformer.config.hidden_size, dtype=transformer.dtype, device=device)

    @property
    def pos(self) -> Tensor:
        """The index of each picture's last accepted token [N]."""
        return self.state.pos

    @property
    def nbytes(self) -> int:
        """Bytes of the state, the cache and the buffers."""
        return sum(part.nbytes for part in self.state.changed) + self.cache.nbytes + self.buffers.nbytes

    def slots_run(self, width: int) -> int:
        """Slots that a forward of `width` tokens runs, beside the nodes of its tree."""
        return max(width, self._least_slots - self._nodes)

    def place(
        self, canvas: Canvas, prompt_lengths: Sequence[int], codes: Tensor, drawn: Tensor, seed: int, end_of_row_id: int
    ) -> None:
        """Puts the window after the canvas's given rows. Codes [N,h,w] are given except where they are `drawn`.

        `prompt_lengths` are those of the rows' prompts, in order; the rows after them have none.
        """
        assert canvas.layout == self.canvas.layout, "a window serves one size"
        self.canvas = canvas
        state, pictures = self.state, len(self.state.keys)
        state.offset.copy_(torch.tensor([*prompt_lengths, *[0] * (len(state.offset) - len(prompt_lengths))]))
        state.keys.copy_(picture_keys([seed + k for k in range(pictures)], "cpu"))
        length = state.tokens.shape[1]
        state.tokens.copy_(self.canvas.place_codes(codes, length))
        state.forced.copy_(~self.canvas.place_codes(drawn, length))
        state.accept_step.fill_(-1)
        state.log_probs.zero_()
        state.pos.fill_(self.canvas.first - 1)
        state.steps.zero_()
        state.heads.zero_()
        self._end_of_row.copy_(self.transformer.embed(torch.tensor(end_of_row_id)))

    def begin(self, hidden: Tensor) -> None:
        """Draws the first token from the prompts' last hidden states [R,H]."""
        self._accept(self.state.without_tree, self._logits(hidden)[:, None], 1)

    def step(self, kv_len: int, width: int) -> None:
        """Runs one forward and accepts 1 to `width` tokens of every picture that is not complete.

        `kv_len` is how much of the cache is read: at least the largest position in the window + 1; `width` at most W.
        """
        hidden = self._forward(kv_len, self.slots_run(width))
        self._accept(self.state, self._logits(hidden).unflatten(0, (len(self.state.offset), -1)), width)
        if self._nodes:
            self.kernels.keep_branch(self.state, self.cache.keys, self.cache.values)

    def _forward(self, kv_len: int, slots: int) -> Tensor:
        """Normed states [R·S,H] of the first slots of every row, and of its tree."""
        transformer, state, blocks = self.transformer, self.state, self.kernels.blocks
        if blocks is None:
            embedded, input_pos = window_embeddings(state, slots, transformer.code_embedding, self._end_of_row)
            return transformer.hidden_states(embedded, self._plan(input_pos, kv_len)).flatten(0, 1)
        norm, embedding = transformer.blocks[0].input_layernorm, transformer.code_embedding.weight
        x, normed, input_pos = blocks.embed_window(
            state, slots, embedding, self._end_of_row, norm.weight, norm.eps, buffers=self.buffers
        )
        return transformer.fused_states(x, normed, self._plan(input_pos, kv_len), self.buffers)

    def _plan(self, input_pos: Tensor, kv_len: int) -> WindowPlan:
        tree = (self.state.tree, self.state.lanes) if self._nodes else ()
        return self.cache.plan(input_pos, kv_len, *tree)

    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits [n,K] of states [n,H]."""
        if self.kernels.blocks is None:
            missing = max(0, self._least_rows - len(hidden))
            return self.transformer.code_logits(F.pad(hidden, (0, 0, 0, missing)))[: len(hidden)]
        states = self.buffers.empty(NORMED, self._head_shape, hidden.dtype)
        if hidden.data_ptr() != states.data_ptr():
            states[: len(hidden)].copy_(hidden)
        return self.transformer.code_logits(states, self.buffers)[: len(hidden)]

    def _accept(self, state: WindowState, logits: Tensor, width: int) -> None:
        kernels, sampling = self.kernels, state.sampling
        drawn = kernels.draw_window(logits, state, width, buffers=self.buffers)
        kernels.accept_window(state, drawn)
        if self.width > 1 and (sampling.speculative or sampling.guesses):
            kernels.place_drafts(state, width)
