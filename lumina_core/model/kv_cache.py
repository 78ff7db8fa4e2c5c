"""A static key/value cache, written by position, and the attention of a forward with or without it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..checkpoint.config import TransformerConfig
from ..kernels import reference
from ..kernels.buffers import Buffers
from ..kernels.chunked_attention import Chunks, chunked_attention
from ..kernels.draft_tree import DraftTree
from ..kernels.kv_tensor import AUTO, KVTensor
from .rope import rope_table
from .run_kernels import REFERENCE_KERNELS, RunKernels


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer."""

    keys: KVTensor
    values: KVTensor

    def write(self, rows: Tensor, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Stores keys and values [R,S,kv_heads,head_dim] at slots [R,S] of rows [R,1]."""
        self.keys.write(rows, slots, keys)
        self.values.write(rows, slots, values)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` slots of one row to another."""
        self.keys.copy_row(source, target, length)
        self.values.copy_row(source, target, length)


class KVCache:
    """Keys and values [rows,length,kv_heads,head_dim] of every layer; a token's slot is its position.

    A query sees the slots up to its own position, so a token is taken back by writing another at its position. The
    nodes of a draft tree have the last slots. `keys` and `values` hold all layers [layers·rows,…], `layers` parts of
    them. `kv_cache` is one of KV_CACHES; `kernels` attend over the cache, and fuse the blocks where they can.
    """

    def __init__(
        self,
        config: TransformerConfig,
        rows: int,
        length: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        kv_cache: str = AUTO,
        kernels: RunKernels = REFERENCE_KERNELS,
    ):
        self.length, self.kernels, self.heads = length, kernels, config.num_attention_heads
        layers = config.num_hidden_layers
        shape = (layers * rows, length, config.num_key_value_heads, config.head_dim)
        stored = [KVTensor.empty(kv_cache, shape, dtype, device, kernels.in_chunks) for _ in "kv"]
        self.keys, self.values = stored
        self.layers = [LayerCache(*(part.part(layer * rows, rows) for part in stored)) for layer in range(layers)]
        self.cos, self.sin = rope_table(length, config.head_dim, config.rope_theta, dtype=dtype, device=device)
        self.rows = torch.arange(rows, device=device)[:, None]
        self._slots = torch.arange(length, device=device)[None]

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return self.keys.nbytes + self.values.nbytes

    @staticmethod
    def bytes_needed(
        config: TransformerConfig, rows: int, length: int, dtype: torch.dtype, kv_cache: str = AUTO
    ) -> int:
        """Bytes of the keys and values of a cache of this size."""
        shape = (rows, length, config.num_key_value_heads, config.head_dim)
        return 2 * config.num_hidden_layers * KVTensor.empty(kv_cache, shape, dtype, "meta").nbytes

    def plan(
        self, input_pos: Tensor, kv_len: int, tree: DraftTree | None = None, lanes: Tensor | None = None
    ) -> WindowPlan:
        """A forward over tokens at `input_pos` [R,S]; `kv_len` is at least the largest position + 1.

        The last tokens are the nodes of a `tree`, if there is one; `lanes` is its table on the device.
        """
        return WindowPlan(self, input_pos, kv_len, tree, lanes)

    def prefill_plan(self, row: int, length: int) -> CausalPlan:
        """A forward over the first `length` tokens [1,S] of one row, which attend to one another only."""
        assert length <= self.length, "the prompt is longer than the cache"
        return CausalPlan(
            cos=self.cos[None, :length, None],
            sin=self.sin[None, :length, None],
            cache=self,
            row=row,
            slots=self._slots[:, :length],
        )

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` slots of one row to another (a prompt that several pictures share)."""
        for layer in self.layers:
            layer.copy_row(source, target, length)


@dataclass(frozen=True)
class CausalPlan:
    """Causal attention among the tokens of this forward.

    Their keys and values go to `slots` [1,S] of a row of a cache, if there is one.

    cos, sin [1,S,1,head_dim] are the tokens' positions.
    """

    cos: Tensor
    sin: Tensor
    cache: KVCache | None = None
    row: int = 0
    slots: Tensor | None = None

    def attend(self, layer: int, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The attention's output [R,S,heads,head_dim] in a layer."""
        if self.cache is not None and self.slots is not None:
            self.cache.layers[layer].write(self.cache.rows[self.row, None], self.slots, keys, values)
        return reference.attend(query, keys, values)


@dataclass(frozen=True)
class WindowPlan:
    """Attention over a cache of tokens at `input_pos` [R,S], whose keys and values are written there.

    All keys are read as they are stored, also those of this forward: a token finds the same whether the one before it
    came in this forward or in another. `kv_len` bounds the slots that are read.
    """

    cache: KVCache
    input_pos: Tensor
    kv_len: int
    tree: DraftTree | None = None
    lanes: Tensor | None = None

    @cached_property
    def stored_at(self) -> Tensor:
        """Where keys and values are stored [R,S]."""
        return reference.stored_slots(self.input_pos, self.cache.keys.values.shape[1], self.nodes)

    @property
    def nodes(self) -> int:
        """Nodes of the tree."""
        return 0 if self.tree is None else len(self.tree)

    @cached_property
    def cos(self) -> Tensor:
        """[R,S,1,head_dim]."""
        return self.cache.cos[self.input_pos].unsqueeze(2)

    @cached_property
    def sin(self) -> Tensor:
        """[R,S,1,head_dim]."""
        return self.cache.sin[self.input_pos].unsqueeze(2)

    def attend(self, layer: int, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The attention's output [R,S,heads,head_dim] in a layer."""
        self.cache.layers[layer].write(self.cache.rows, self.stored_at, keys, values)
        return self.attend_cached(layer, query)

    def attend_cached(self, layer: int, query: Tensor, buffers: Buffers | None = None) -> Tensor:
        """As `attend`, where this forward's keys and values are in the cache already."""
        cached, kernels = self.cache.layers[layer], self.cache.kernels
        if kernels.attention.is_kernel:
            operands = query, cached.keys, cached.values, self.input_pos, self.kv_len
            tree = {"tree": self.tree, "lanes": self.lanes}
            found: Tensor = kernels.attention.function(*operands, widest=kernels.width, **tree, buffers=buffers)
            return found
        if kernels.in_chunks:
            return chunked_attention(query, cached.keys, cached.values, self.chunks)
        keys, values = (stored.read(self.kv_len, query.dtype, self.nodes) for stored in (cached.keys, cached.values))
        return reference.attend(query, keys, values, self.mask)

    @cached_property
    def chunks(self) -> Chunks:
        """What the layers share of `chunked_attention`."""
        cache, head_dim = self.cache, self.cache.cos.shape[1]
        operands = self.input_pos, self.kv_len, cache.layers[0].keys, cache.heads, head_dim, cache.cos.dtype
        return Chunks.of(*operands, self.tree)

    @cached_property
    def mask(self) -> Tensor:
        """The mask of the reference, the same in every layer."""
        return reference.window_mask(self.input_pos, self.kv_len, self.tree, self.lanes)


AttentionPlan = CausalPlan | WindowPlan
