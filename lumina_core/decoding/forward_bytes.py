"""The memory of a run's forwards beside weights and cache, estimated before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..checkpoint.config import TransformerConfig
from ..kernels.chunked_attention import rows_at_a_time
from ..kernels.kv_tensor import AUTO, CHUNK
from ..kernels.linear import state_dtype
from ..kernels.select import unsupported_reason
from ..kernels.tiles import chunk_count, split_count
from ..model.load import linear_shapes
from ..model.run_kernels import KERNEL_DTYPE
from ..pictures.sizes import HEADER_LENGTH
from .request import Request

# For every code's logit in a window, alive at once while tokens are sampled: the noise is made of 64-bit hashes.
DRAW_BYTES_PER_LOGIT = 44
# Target and draft probabilities in float32, for every code's logit.
PROBABILITY_BYTES = 8
FLOAT32_BYTES = 4
# A mask of one byte, and the floats that attention makes of it.
MASK_BYTES = 5
# Keys, values, and one of them while it is dequantised.
READ_COPIES = 3


def kernels_expected(config: TransformerConfig, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether steps run by Triton kernels on a device, as far as is known before their self-tests."""
    return dtype == KERNEL_DTYPE and not config.swin_norm and not unsupported_reason(device)


@dataclass(frozen=True)
class Forwards:
    """The forwards of a request in `dtype`: captured as CUDA graphs or not, by Triton kernels or by plain PyTorch.

    `in_chunks`: the attention is that of a CPU.
    """

    config: TransformerConfig
    dtype: torch.dtype
    request: Request
    captured: bool = False
    kernels: bool = False
    in_chunks: bool = False

    @property
    def rows(self) -> int:
        """Sequences in a forward."""
        return self.request.rows

    def bytes_needed(self, kv_len: int) -> int:
        """Of the widest forward over a cache of `kv_len` slots, or of the kernels' buffers.

        Kernels write to buffers that all steps share. Without them, a captured step is held beside the one that ran
        before the capture.
        """
        request = self.request
        given = request.canvas.given_rows * (request.grid_w + 1)
        prefill = (request.longest_prompt + HEADER_LENGTH + given) * self._layer_bytes
        steps = self._buffer_bytes(kv_len) if self.kernels else self._window_bytes(kv_len) * (1 + self.captured)
        return max(prefill, steps)

    def _buffer_bytes(self, kv_len: int) -> int:
        """Of the widest step by kernels: results of its matmuls, of its attention and of drawing tokens."""
        config, item = self.config, self.dtype.itemsize
        query = config.num_attention_heads * config.head_dim
        matmuls = max(split_count(*shape) * shape[1] for shape in linear_shapes(config).values()) * FLOAT32_BYTES
        others = (4 * config.hidden_size + 3 * query + config.intermediate_size) * item
        attention = chunk_count(kv_len) * query * FLOAT32_BYTES
        logits = config.codebook_size * item
        return (
            self.request.settings.slots * self.rows * (matmuls + others + attention + logits) + self._probability_bytes
        )

    @property
    def _probability_bytes(self) -> int:
        """Of the target and draft probabilities of a window, for a decoder that keeps them."""
        codes, settings = self.config.codebook_size, self.request.settings
        is_kept = settings.sampling(codes).speculative
        return len(self.request.prompts) * settings.width * codes * PROBABILITY_BYTES if is_kept else 0

    def _window_bytes(self, kv_len: int) -> int:
        """Of the widest step by plain PyTorch, the more of its blocks and of drawing tokens."""
        config, settings = self.config, self.request.settings
        tokens = self.rows * settings.slots
        blocks = tokens * self._layer_bytes
        if self.in_chunks:
            queries, values = settings.slots * config.num_attention_heads, config.num_key_value_heads * config.head_dim
            rows = rows_at_a_time(self.rows, kv_len, queries, values, FLOAT32_BYTES)
            blocks += rows * (kv_len * queries + CHUNK * values) * FLOAT32_BYTES
        else:
            blocks += tokens * kv_len * MASK_BYTES
        if settings.kv_cache != AUTO and not self.in_chunks:
            heads = config.num_key_value_heads * config.head_dim
            blocks += READ_COPIES * self.rows * kv_len * heads * self.dtype.itemsize
        pictures = len(self.request.prompts)
        return max(blocks, pictures * settings.slots * config.codebook_size * DRAW_BYTES_PER_LOGIT)

    @property
    def _layer_bytes(self) -> int:
        """Of a token in a layer, in attention or MLP: input, its norm, results of matmuls and their parts."""
        config = self.config
        query = config.num_attention_heads * config.head_dim
        attention = 5 * query + 2 * config.num_key_value_heads * config.head_dim
        item = state_dtype(self.dtype).itemsize
        return (3 * config.hidden_size + max(attention, 4 * config.intermediate_size)) * item
