"""What every kernel computes, in plain torch operations: their twins, of the same signature."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

GROUP_SIZE = 128
# A 4-bit code 0 to 15 stands for −8 to 7.
LOWEST_CODE = -8


@dataclass(frozen=True)
class Stored:
    """Keys, or values, of a layer: numbers [rows,length,kv_heads,head_dim] and what scales them.

    int8 numbers have float32 scales [rows,length,kv_heads,1], and stand for scale · number. Where there is a `lowest`,
    numbers are bytes [rows,length,kv_heads,head_dim/2] of two 4-bit codes, as `unpack_halves` takes them. Others stand
    for themselves and have no scales.
    """

    numbers: Tensor
    scales: Tensor | None = None
    lowest: Tensor | None = None

    def read(self, length: int, dtype: torch.dtype) -> Tensor:
        """The first `length` slots of every row [rows,length,kv_heads,head_dim]."""
        numbers = self.numbers[:, :length]
        if self.scales is None:
            return numbers
        if self.lowest is None:
            return (numbers * self.scales[:, :length]).to(dtype)
        return unpack_halves(numbers, self.scales[:, :length], self.lowest[:, :length], dtype)


def unpack_halves(packed: Tensor, scales: Tensor, lowest: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers [...,n] in `dtype` of bytes [...,n/2]: lowest + scale · code, rounded once.

    The low bits of byte i are code i, the high ones code n/2 + i; scales and lowest numbers [...,groups] are each of
    n/groups neighbouring codes.
    """
    codes = torch.empty(*packed.shape[:-1], 2 * packed.shape[-1], dtype=dtype, device=packed.device)
    first, second = codes.chunk(2, -1)
    first.copy_(packed & 15)
    second.copy_(packed >> 4)
    grouped = codes.unflatten(-1, (scales.shape[-1], -1))
    torch.addcmul(lowest.to(dtype).unsqueeze(-1), grouped, scales.to(dtype).unsqueeze(-1), out=grouped)
    return codes


def window_attention(query: Tensor, keys: Stored, values: Stored, input_pos: Tensor, kv_len: int) -> Tensor:
    """Attention of a window [R,W,heads,head_dim] over a cache of R rows; a query sees the slots up to its own position.

    `input_pos` [R,W] are the queries' positions; `kv_len` is a bound, known to the host, that none of them reaches.
    Query heads h·g to h·g + g − 1 look at key/value head h. Gives [R,W,heads,head_dim] in the format of the query.
    """
    key, value = (stored.read(kv_len, query.dtype) for stored in (keys, values))
    slots = torch.arange(kv_len, device=query.device)
    mixed = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=(slots <= input_pos[:, :, None]).unsqueeze(1),
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return mixed.transpose(1, 2)


def int4_matmul(x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """x [M,in] times the transpose of a 4-bit weight [out,in], [M,out] in the format of x.

    `packed` uint8 [out,groups·64] holds two codes a byte, the first in its high half; `scale` and `zero` [out,groups]
    serve 128 neighbours: weight = scale · (code − 8) + zero. What is packed behind the weight's width is not used.
    """
    codes = torch.stack((packed >> 4, packed & 15), dim=-1).flatten(1).unflatten(1, (-1, GROUP_SIZE))
    weight = (codes.float() + LOWEST_CODE) * scale.float().unsqueeze(-1) + zero.float().unsqueeze(-1)
    return F.linear(x, weight.flatten(1)[:, : x.shape[1]].to(x.dtype))


def int8_matmul(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """x [M,in] times the transpose of an 8-bit weight [out,in], [M,out] in the format of x.

    `codes` int8 [out,in], `scale` float32 [out]: weight = scale · code.
    """
    return F.linear(x, (codes.float() * scale[:, None]).to(x.dtype))


def topk_cut(logits: Tensor, top_k: int) -> Tensor:
    """Logits [...,K] with all that are less than the k-th largest at −inf; ties with the k-th stay; k is 1 to K."""
    kth = logits.topk(top_k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    return logits.masked_fill(logits < kth, -torch.inf)
