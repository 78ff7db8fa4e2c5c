"""A static key/value cache, written by position."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.config import TransformerConfig
from ..kernels.kv_tensor import Stored
from .kv_store import AUTO, bytes_per_head, make_store
from .rope import rope_table

WindowAttention = Callable[[Tensor, Stored, Stored, Tensor, int], Tensor]


@dataclass(frozen=True)
class BlockKernels:
    """What does the rest of a block beside products and attention; of the form of their twins in `kernels.eager`."""

    place_heads: Callable[..., Any]
    silu_gate: Callable[..., Tensor]
    add_norm: Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class AttentionPlan:
    """What all layers of one forward share.

    cos, sin [R,S,1,head_dim]; mask [R,1,S,kv_len] (true: may look), or None for plain causal attention over the tokens
    of this forward; with a cache, `slots` [R·S] are where keys and values go and `kv_len` how much of it is read.
    Where the cache attends itself, `window_pos` [R,S] are the positions of this forward's tokens, and stand for a mask.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor | None = None
    cache: "KVCache | None" = None
    slots: Tensor | None = None
    kv_len: int = 0
    window_pos: Tensor | None = None


class KVCache:
    """Keys and values [rows, length, kv_heads, head_dim] of every layer; a token's slot is its position.

    A query sees the slots up to its own position, so taking a token back is writing another one at its position.
    `kv_cache` is how they are stored, one of KV_CACHES: auto (as they are, in `dtype`), int8 or int4.
    `window_attention`, of the form of its twin in `kernels.eager`, attends over what is stored as it is stored;
    `block_kernels` then do the rest of a block beside its products. `attention_kernel` names what attends, for reports.
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
        window_attention: WindowAttention | None = None,
        block_kernels: BlockKernels | None = None,
        attention_kernel: str = "torch",
    ):
        self.rows, self.length = rows, length
        self.window_attention, self.block_kernels = window_attention, block_kernels
        self.attention_kernel = attention_kernel
        shape = (config.num_hidden_layers, rows, length, config.num_key_value_heads, config.head_dim)
        # Zeros, not empty: what was never written is masked, but NaN times zero would still be NaN.
        self.keys, self.values = (make_store(kv_cache, shape, dtype, device) for _ in range(2))
        self.cos, self.sin = rope_table(length, config.head_dim, config.rope_theta, dtype=dtype, device=device)
        self._row_start = torch.arange(rows, device=device)[:, None] * length
        self._slot_index = torch.arange(length, device=device)

    @staticmethod
    def bytes_needed(
        config: TransformerConfig, rows: int, length: int, dtype: torch.dtype, kv_cache: str = AUTO
    ) -> int:
        """Bytes that a cache of this size takes."""
        heads = 2 * config.num_hidden_layers * config.num_key_value_heads
        return rows * length * heads * bytes_per_head(kv_cache, config.head_dim, dtype)

    def plan(self, input_pos: Tensor, kv_len: int) -> AttentionPlan:
        """The plan of a forward over tokens at `input_pos` [R,S]; `kv_len` is at least the largest position + 1."""
        by_itself = self.window_attention is not None
        return AttentionPlan(
            cos=self.cos[input_pos].unsqueeze(2),
            sin=self.sin[input_pos].unsqueeze(2),
            mask=None if by_itself else (self._slot_index[:kv_len] <= input_pos[:, :, None]).unsqueeze(1),
            cache=self,
            slots=(input_pos + self._row_start).flatten(),
            kv_len=kv_len,
            window_pos=input_pos if by_itself else None,
        )

    def prefill_plan(self, row: int, length: int) -> AttentionPlan:
        """The plan of a forward over the first `length` tokens [1,S] of one row, which see only one another."""
        assert length <= self.length, "the prompt is longer than the cache"
        return AttentionPlan(
            cos=self.cos[None, :length, None],
            sin=self.sin[None, :length, None],
            cache=self,
            slots=self._row_start[row] + self._slot_index[:length],
        )

    def update(self, layer: int, keys: Tensor, values: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor]:
        """Writes this forward's keys and values [R,S,kv_heads,head_dim].

        Gives all readable ones [R,kv_len,kv_heads,head_dim] as they are stored, this forward's too, so that a token
        finds the same whether the one before it came in this forward or in another; of a prefill, whose mask is None,
        its own as they came.
        """
        self._write(layer, keys, values, plan)
        if plan.mask is None:
            return keys, values
        return self.keys.read(layer, plan.kv_len), self.values.read(layer, plan.kv_len)

    def attend(self, layer: int, query: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan) -> Tensor:
        """Writes this forward's keys and values and gives what its queries [R,S,heads,head_dim] find, of that shape."""
        self._write(layer, keys, values, plan)
        return self.attend_stored(query, self.stored(layer), plan)

    def stored(self, layer: int) -> tuple[Stored, Stored]:
        """Keys and values of a layer."""
        return self.keys.stored(layer), self.values.stored(layer)

    def attend_stored(self, query: Tensor, stored: tuple[Stored, Stored], plan: AttentionPlan) -> Tensor:
        """What queries [R,S,heads,head_dim] find in a layer where this forward's keys and values are already."""
        assert self.window_attention is not None and plan.window_pos is not None
        return self.window_attention(query, *stored, plan.window_pos, plan.kv_len)

    def _write(self, layer: int, keys: Tensor, values: Tensor, plan: AttentionPlan) -> None:
        assert plan.slots is not None
        self.keys.write(layer, plan.slots, keys.flatten(0, 1))
        self.values.write(layer, plan.slots, values.flatten(0, 1))

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` slots of one row to another (a prompt that several pictures share)."""
        for store in (self.keys, self.values):
            store.copy_row(source, target, length)
