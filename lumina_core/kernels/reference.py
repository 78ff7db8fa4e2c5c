"""What every kernel computes, in plain torch operations: their twins, of the same signature.

Products that are split along their inputs come as partial sums [splits,tokens,out]; a kernel that goes on with them
adds them up and rounds once, so that no kernel need do that alone. A split of 1 is the product itself.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .kv_tensor import Stored
from .noise import gumbel_noise

GROUP_SIZE = 128
# A 4-bit code 0 to 15 stands for −8 to 7.
LOWEST_CODE = -8
HEAD_NORM_EPS = 1e-5


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


def int4_matmul(x: Tensor, packed: Tensor, scale_zero: Tensor, joined: bool = True) -> Tensor:
    """x [M,in] times the transpose of a 4-bit weight [out,in], [M,out] in the format of x.

    `packed` uint8 [out,groups·64] holds codes as `unpack_codes` takes them; scale and zero, which are `scale_zero`
    [out,groups,2], serve 128 neighbours: weight = scale · (code − 8) + zero. What is packed behind the weight's width
    is not used. If not `joined`, it is partial sums [splits,M,out].
    """
    scale, zero = scale_zero.float().split(1, -1)
    weight = (unpack_codes(packed) + LOWEST_CODE) * scale + zero
    product = F.linear(x, weight.flatten(1)[:, : x.shape[1]].to(x.dtype))
    return product if joined else product[None]


def unpack_codes(packed: Tensor) -> Tensor:
    """Codes 0 to 15 in float32 [out,groups,128] of bytes [out,groups·64].

    A group is 16 words of 32 bits, the lowest byte first. Word w has in its low half, from its lowest bits on, the
    codes 2·w, 32 + 2·w, 64 + 2·w and 96 + 2·w, and in its high half the codes behind them: shifted and masked, a word
    gives two neighbours.
    """
    words = packed.view(torch.int32)
    quarters = torch.empty(4, *words.shape, dtype=torch.int32, device=packed.device)
    for index, quarter in enumerate(quarters):
        torch.bitwise_and(words >> 4 * index, 0x000F000F, out=quarter)
    codes = quarters.view(torch.int16).unflatten(2, (-1, 32)).permute(1, 2, 0, 3)
    return torch.empty(codes.shape, dtype=torch.float32, device=packed.device).copy_(codes).flatten(2)


def pack_codes(codes: Tensor) -> Tensor:
    """Bytes [out,groups·64] of codes [out,groups,128]; what `unpack_codes` takes apart."""
    by_bytes = codes.to(torch.uint8).unflatten(2, (2, 2, 16, 2)).permute(0, 1, 4, 5, 2, 3)
    return (by_bytes[..., 0] | by_bytes[..., 1] << 4).flatten(1)


def int8_matmul(x: Tensor, codes: Tensor, scale: Tensor, joined: bool = True) -> Tensor:
    """x [M,in] times the transpose of an 8-bit weight [out,in], [M,out] in the format of x.

    `codes` int8 [out,in], `scale` float32 [out]: weight = scale · code. If not `joined`, it is partial sums
    [splits,M,out].
    """
    product = F.linear(x, (codes.float() * scale[:, None]).to(x.dtype))
    return product if joined else product[None]


def topk_cut(logits: Tensor, top_k: int) -> Tensor:
    """Logits [...,K] with all that are less than the k-th largest at −inf; ties with the k-th stay; k is 1 to K."""
    kth = logits.topk(top_k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    return logits.masked_fill(logits < kth, -torch.inf)


def gumbel_draw(logits: Tensor, keys: Tensor, index: Tensor, top_k: int) -> Tensor:
    """Tokens [N,S]: argmax(log p + g) of logits [N,S,K], all but the k largest of which are cut off.

    The noise g is that of pictures with keys [N] at token indices [N,S].
    """
    noise, count = gumbel_noise(keys, index, logits.shape[-1]), logits.shape[-1]
    return ((topk_cut(logits, top_k) if top_k < count else logits) + noise).argmax(-1)


def join(partial_sums: Tensor, dtype: torch.dtype) -> Tensor:
    """The product [tokens,out] of its partial sums."""
    return partial_sums[0].to(dtype) if len(partial_sums) == 1 else partial_sums.sum(0).to(dtype)


def head_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm over the head dimension of x [...,heads,head_dim], in float32 and rounded once.

    Weight and bias [parts,head_dim] serve heads/parts neighbouring heads each.
    """
    if len(weight) == 1:
        return F.layer_norm(x, x.shape[-1:], weight[0].to(x), bias[0].to(x), HEAD_NORM_EPS)
    parts = F.layer_norm(x.float(), x.shape[-1:], eps=HEAD_NORM_EPS).unflatten(-2, (len(weight), -1))
    return torch.addcmul(bias.to(parts)[:, None], parts, weight.to(parts)[:, None]).flatten(-3, -2).to(x.dtype)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [...,heads,head_dim] by rotary position embedding (arXiv 2104.09864, half-rotation form).

    cos and sin are [...,1,head_dim] in the format of x.
    """
    half = x.shape[-1] // 2
    rotated = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + rotated * sin


def place_heads(
    partial_sums: Tensor,
    query_norm: tuple[Tensor, Tensor],
    key_norm: tuple[Tensor, Tensor],
    cos: Tensor,
    sin: Tensor,
    slots: Tensor,
    keys: Stored,
    values: Stored,
) -> tuple[Tensor, Stored, Stored]:
    """Queries [tokens,heads,head_dim], normed and rotated; keys, normed and rotated too, and values go to their slots.

    In the partial sums [splits,tokens,(heads + 2·kv_heads)·head_dim] queries come first, then keys, then values; slots
    [tokens] count those of all rows in turn. Norms are weight and bias as in `head_norm`; cos and sin
    [tokens,head_dim] are in the format of the computation. Gives what it wrote to as well.
    """
    kv_heads, head_dim = keys.numbers.shape[2], cos.shape[1]
    heads = partial_sums.shape[-1] // head_dim - 2 * kv_heads
    split = join(partial_sums, cos.dtype).unflatten(-1, (-1, head_dim)).split((heads, kv_heads, kv_heads), dim=1)
    query, key = (
        apply_rope(head_norm(part, *norm), cos[:, None], sin[:, None])
        for part, norm in zip(split, (query_norm, key_norm), strict=False)
    )
    keys.write(slots, key)
    values.write(slots, split[2])
    return query, keys, values


def silu_gate(partial_sums: Tensor, dtype: torch.dtype) -> Tensor:
    """silu(gate) · up [tokens,width] in `dtype` of partial sums [splits,tokens,2·width], gates first."""
    gate, up = join(partial_sums, dtype).chunk(2, dim=-1)
    return F.silu(gate) * up


def add_norm(x: Tensor, partial_sums: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x [tokens,size] plus the product of partial sums [splits,tokens,size], and the RMSNorm of that."""
    x = x + join(partial_sums, x.dtype)
    return x, F.rms_norm(x, weight.shape, weight, eps)
