"""The reference of every kernel in plain torch operations, with the kernel's signature.

A matmul that is split along its inputs returns partial sums [splits,tokens,out]. The kernel that consumes them adds
them and rounds once; a split of 1 is the result itself.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .buffers import Buffers
from .draft_tree import DraftTree
from .kv_tensor import KVTensor
from .weight_tiles import from_tiles

GROUP_SIZE = 128
# A 4-bit code 0 to 15 stands for −8 to 7.
LOWEST_CODE = -8
HEAD_NORM_EPS = 1e-5
# Of the integers that top-p adds: of the likeliest code, and of a whole. 65,536 weights times a share fit in 63 bits.
WEIGHT_BITS, SHARE_BITS = 40, 30
SHARE_MASK = 2**SHARE_BITS - 1


def window_attention(
    query: Tensor,
    keys: KVTensor,
    values: KVTensor,
    input_pos: Tensor,
    kv_len: int,
    widest: int = 1,
    tree: DraftTree | None = None,
    lanes: Tensor | None = None,
    buffers: Buffers | None = None,
) -> Tensor:
    """Attention of a window [R,W,heads,head_dim] over a cache of R rows, in the dtype of the query.

    A query at `input_pos` [R,W] sees the slots up to its own position; all positions are less than `kv_len`, which the
    host knows. Query heads h·g to h·g + g − 1 attend to key/value head h. `widest` is the widest window of the run. The
    last queries are the T nodes of a `tree`, whose table is `lanes`: node t, stored in the cache's slot length − T + t,
    sees the slots before its lane's first node, and the nodes of the lane up to itself.
    """
    nodes = 0 if tree is None else len(tree)
    key, value = (stored.read(kv_len, query.dtype, nodes) for stored in (keys, values))
    return attend(query, key, value, window_mask(input_pos, kv_len, tree, lanes))


def window_mask(input_pos: Tensor, kv_len: int, tree: DraftTree | None = None, lanes: Tensor | None = None) -> Tensor:
    """Whether a query at `input_pos` [R,W] sees each slot, and each of the tree's T nodes: [R,1,W,kv_len + T].

    `lanes` is the tree's table; nothing is copied from the host.
    """
    slot = torch.arange(kv_len, device=input_pos.device)
    if tree is None or lanes is None:
        return slot <= input_pos[:, None, :, None]
    node, first = torch.arange(len(tree), device=input_pos.device), lanes[:, 3]
    lane = (first <= node[:, None]).sum(1) - 1
    number = node - first[lane]
    last = input_pos.clone()
    last[:, -len(tree) :] -= number + 1
    same_lane = (lane[:, None] == lane) & (number[:, None] >= number)
    same_lane = F.pad(same_lane, (0, 0, input_pos.shape[1] - len(tree), 0)).expand(len(input_pos), 1, -1, -1)
    return torch.cat((slot <= last[:, None, :, None], same_lane), -1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention [R,S,heads,head_dim] over keys and values [R,kv_len,kv_heads,head_dim].

    `mask` [R,1,S,kv_len] is true where a query sees a slot; None is causal.
    """
    mixed = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return mixed.transpose(1, 2)


def int4_matmul(
    x: Tensor, packed: Tensor, scale_zero: Tensor, sum_splits: bool = True, buffers: Buffers | None = None
) -> Tensor:
    """x [M,in] times the transpose of an int4 weight [out,in], [M,out] in the dtype of x.

    `packed` uint8 [out,groups·64] holds codes (see `unpack_codes`), `scale_zero` [out,groups,2] a scale and a zero for
    128 neighbours: weight = scale · (code − 8) + zero. Both may be in tiles (see `weight_tiles`). Codes beyond the
    weight's inputs are ignored. Without `sum_splits` the result is partial sums [splits,M,out].
    """
    if packed.dim() == 4:
        packed, scale_zero = from_tiles(packed), from_tiles(scale_zero).unflatten(1, (-1, 2))
    scale, zero = scale_zero.float().split(1, -1)
    weight = (unpack_codes(packed) + LOWEST_CODE) * scale + zero
    result = F.linear(x, weight.flatten(1)[:, : x.shape[1]].to(x.dtype))
    return result if sum_splits else result[None]


def unpack_codes(packed: Tensor) -> Tensor:
    """Codes 0 to 15 in float32 [out,groups,128] of bytes [out,groups·64].

    A group is 16 words of 32 bits, the lowest byte first. Word w holds in its low half, from its lowest bits on, the
    codes 2·w, 32 + 2·w, 64 + 2·w and 96 + 2·w, and in its high half the codes that follow each of them: a word that is
    shifted and masked gives two neighbours.
    """
    words = packed.view(torch.int32)
    quarters = torch.empty(4, *words.shape, dtype=torch.int32, device=packed.device)
    for index, quarter in enumerate(quarters):
        torch.bitwise_and(words >> 4 * index, 0x000F000F, out=quarter)
    codes = quarters.view(torch.int16).unflatten(2, (-1, 32)).permute(1, 2, 0, 3)
    return torch.empty(codes.shape, dtype=torch.float32, device=packed.device).copy_(codes).flatten(2)


def pack_codes(codes: Tensor) -> Tensor:
    """Bytes [out,groups·64] of codes [out,groups,128]: the inverse of `unpack_codes`."""
    by_bytes = codes.to(torch.uint8).unflatten(2, (2, 2, 16, 2)).permute(0, 1, 4, 5, 2, 3)
    return (by_bytes[..., 0] | by_bytes[..., 1] << 4).flatten(1)


def int8_matmul(
    x: Tensor, codes: Tensor, scale: Tensor, sum_splits: bool = True, buffers: Buffers | None = None
) -> Tensor:
    """x [M,in] times the transpose of an int8 weight [out,in], [M,out] in the dtype of x.

    `codes` int8 [out,in], also in tiles (see `weight_tiles`), `scale` float32 [out]: weight = scale · code. Without
    `sum_splits` the result is partial sums [splits,M,out].
    """
    codes = from_tiles(codes) if codes.dim() == 4 else codes
    result = F.linear(x, (codes.float() * scale[:, None]).to(x.dtype))
    return result if sum_splits else result[None]


def topk_cut(logits: Tensor, top_k: int) -> Tensor:
    """Logits [...,K] with all that are less than the k-th largest at −inf; ties with the k-th stay; k is 1 to K."""
    kth = logits.topk(top_k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    return logits.masked_fill(logits < kth, -torch.inf)


def top_p_cut(logits: Tensor, top_p: float) -> Tensor:
    """Logits [...,K] with all but the likeliest codes at −inf (arXiv 1904.09751, section 3.1).

    The smallest set of them whose probability reaches `top_p`, and those that tie with its last one. Probabilities are
    added as integers, of which the likeliest code has 2^`WEIGHT_BITS`, so that no order of the sum matters.
    """
    ordered = logits.sort(-1, descending=True).values
    reached = ((ordered - ordered[..., :1]).exp() * 2.0**WEIGHT_BITS).long().cumsum(-1)
    share, total = share_of_one(top_p), reached[..., -1:]
    least = (total >> SHARE_BITS) * share + (((total & SHARE_MASK) * share + SHARE_MASK) >> SHARE_BITS)
    last = (reached < least).sum(-1, keepdim=True)
    return logits.masked_fill(logits < ordered.gather(-1, last), -torch.inf)


def share_of_one(probability: float) -> int:
    """A probability above 0 as a whole number of parts of 2^`SHARE_BITS`, at least one."""
    return max(1, round(probability * 2**SHARE_BITS))


def min_p_cut(logits: Tensor, min_p: float) -> Tensor:
    """Logits [...,K] with all codes less likely than `min_p` of the likeliest at −inf (arXiv 2407.01082, section 3)."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(min_p), -torch.inf)


def gumbel_draw(logits: Tensor, noise: Tensor, top_k: int) -> Tensor:
    """Tokens [N,S]: argmax(log p + g), draws from the softmax of the k largest of the logits [N,S,K] in float32.

    The Gumbel-max trick (arXiv 1411.0030) with noise g [N,S,K]. A CPU is slow at finding the k-th largest, so there it
    is found only where the argmax of all is not among the k; the host has to read which those are.
    """
    if top_k >= logits.shape[-1]:
        return (logits + noise).argmax(-1)
    if logits.device.type != "cpu":
        return (topk_cut(logits, top_k) + noise).argmax(-1)
    best = (logits + noise).argmax(-1, keepdim=True)
    outside = (logits > logits.gather(-1, best)).sum(-1) >= top_k
    tokens = best.squeeze(-1)
    if outside.any():
        tokens[outside] = (topk_cut(logits[outside], top_k) + noise[outside]).argmax(-1)
    return tokens


def add_splits(partial_sums: Tensor, dtype: torch.dtype) -> Tensor:
    """The matmul's result [tokens,out] of its partial sums."""
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
    """Rotary position embedding of x [...,heads,head_dim] (arXiv 2104.09864, half-rotation form).

    cos and sin are [...,1,head_dim] in the dtype of x.
    """
    half = x.shape[-1] // 2
    rotated = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + rotated * sin


def qkv_norm_rope_store(
    partial_sums: Tensor,
    query_norm: tuple[Tensor, Tensor],
    key_norm: tuple[Tensor, Tensor],
    cos: Tensor,
    sin: Tensor,
    input_pos: Tensor,
    keys: KVTensor,
    values: KVTensor,
    nodes: int = 0,
    buffers: Buffers | None = None,
) -> tuple[Tensor, KVTensor, KVTensor]:
    """Queries [tokens,heads,head_dim] after norm and RoPE; stores keys after norm and RoPE, and values, of R rows.

    The partial sums [splits,tokens,(heads + 2·kv_heads)·head_dim] hold queries, then keys, then values of the tokens at
    `input_pos` [R,S], tokens = R·S. Norms are weight and bias as in `head_norm`; cos and sin [positions,head_dim] are
    in the dtype of the computation. The last `nodes` tokens of a row are those of a draft tree, which are
    stored in the last slots. Returns `keys` and `values` too, which it has written to.
    """
    kv_heads, head_dim = keys.values.shape[2], cos.shape[1]
    heads = partial_sums.shape[-1] // head_dim - 2 * kv_heads
    qkv = add_splits(partial_sums, cos.dtype).unflatten(-1, (-1, head_dim)).split((heads, kv_heads, kv_heads), dim=1)
    angles = [table[input_pos.flatten()].unsqueeze(1) for table in (cos, sin)]
    query, key = (
        apply_rope(head_norm(part, *norm), *angles) for part, norm in zip(qkv, (query_norm, key_norm), strict=False)
    )
    rows = torch.arange(len(input_pos), device=input_pos.device)[:, None]
    slots = stored_slots(input_pos, keys.values.shape[1], nodes)
    keys.write(rows, slots, key.unflatten(0, input_pos.shape))
    values.write(rows, slots, qkv[2].unflatten(0, input_pos.shape))
    return query, keys, values


def stored_slots(input_pos: Tensor, length: int, nodes: int) -> Tensor:
    """Where the tokens at `input_pos` [R,S] are stored in a cache of `length` slots: the last `nodes` in its last."""
    if not nodes:
        return input_pos
    last = torch.arange(length - nodes, length, device=input_pos.device).expand(len(input_pos), -1)
    return torch.cat((input_pos[:, :-nodes], last), 1)


def silu_gate(partial_sums: Tensor, dtype: torch.dtype, buffers: Buffers | None = None) -> Tensor:
    """silu(gate) · up [tokens,width] in `dtype` of partial sums [splits,tokens,2·width], gates first."""
    gate, up = add_splits(partial_sums, dtype).chunk(2, dim=-1)
    return F.silu(gate) * up


def add_rms_norm(
    x: Tensor, partial_sums: Tensor, weight: Tensor, eps: float, buffers: Buffers | None = None
) -> tuple[Tensor, Tensor]:
    """x [tokens,size] plus the sum of partial sums [splits,tokens,size], and the RMSNorm of that."""
    x = x + add_splits(partial_sums, x.dtype)
    return x, F.rms_norm(x, weight.shape, weight, eps)
