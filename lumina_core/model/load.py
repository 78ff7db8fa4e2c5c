"""Published tensors into the transformer's layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import find_checkpoint
from ..config import TransformerConfig
from ..errors import CheckpointError
from ..tensor_files import Shape, TensorStore, check_tensors
from .transformer import Transformer

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
UNUSED_PREFIX = "model.vqmodel."


@dataclass(frozen=True)
class Placement:
    """Rows `source_rows` of a published tensor (all where None) become rows from `first_row` of a parameter."""

    parameter: str
    source_rows: range | None = None
    first_row: int = 0


def load_transformer(
    path: str | Path, *, dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu", operations: Any = nn
) -> Transformer:
    """The transformer of a checkpoint (folder, single `.safetensors`, or "demo"), in eval mode.

    Built on the meta device; each parameter is made when its tensor is read, so the weights are never held twice.
    Raises CheckpointError naming every missing, unexpected or misshapen tensor before any weight is read.
    """
    files = find_checkpoint(path)
    config = TransformerConfig.from_file(files.config)
    check_code_range(config, files.config)
    store = TensorStore(files.shards)
    shapes = {name: shape for name, shape in store.shapes.items() if not name.startswith(UNUSED_PREFIX)}
    check_tensors(shapes, published_shapes(config), str(path))
    with torch.device("meta"):
        model = Transformer(config, operations)
    fill(model, store.get, dtype, device)
    model.text_embedding, model.text_head = store.get(EMBEDDING), store.get(HEAD)
    return model.eval().requires_grad_(False)


def fill(model: Transformer, get: Any, dtype: torch.dtype, device: torch.device | str) -> None:
    """Makes every parameter of a model on meta from published tensors, `get(name)` giving one at a time."""
    target: dict[str, Tensor] = {}
    for name in published_shapes(model.config):
        for place in placements(name, model):
            if place.parameter not in target:
                shape = model.get_parameter(place.parameter).shape
                target[place.parameter] = torch.empty(shape, dtype=dtype, device=device)
            source = get(name)
            if place.source_rows is not None:
                source = source[place.source_rows.start : place.source_rows.stop]
            target[place.parameter][place.first_row : place.first_row + source.shape[0]].copy_(source)
    model.load_state_dict(target, strict=True, assign=True)


def placements(name: str, model: Transformer) -> Iterator[Placement]:
    """Where a published tensor goes: q, k, v and gate, up are stacked, code rows are cut out of the big tables."""
    config, dim = model.config, model.config.head_dim
    query, key = config.num_attention_heads * dim, config.num_key_value_heads * dim
    own = name.removeprefix("model.")
    starts = {"q_proj": 0, "k_proj": query, "v_proj": query + key, "gate_proj": 0, "up_proj": config.intermediate_size}
    part = own.split(".")[-2]
    if name in (EMBEDDING, HEAD):
        yield Placement("code_embedding.weight" if name == EMBEDDING else "code_head.weight", model.code_range)
    elif part in starts:
        fused = "qkv_proj" if part in ("q_proj", "k_proj", "v_proj") else "gate_up_proj"
        yield Placement(own.replace(part, fused), first_row=starts[part])
    else:
        yield Placement(own)


def published_shapes(config: TransformerConfig) -> dict[str, Shape]:
    """Names and shapes of a published checkpoint's tensors, without the unused `model.vqmodel.*`."""
    hidden, mlp, dim = config.hidden_size, config.intermediate_size, config.head_dim
    query, key = config.num_attention_heads * dim, config.num_key_value_heads * dim
    norm = (config.model_parallel_size, dim)
    layer: dict[str, Shape] = {
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (key, hidden),
        "self_attn.v_proj.weight": (key, hidden),
        "self_attn.o_proj.weight": (hidden, query),
        **{f"self_attn.{part}_norm.{kind}": norm for part in "qk" for kind in ("weight", "bias")},
        "mlp.gate_proj.weight": (mlp, hidden),
        "mlp.up_proj.weight": (mlp, hidden),
        "mlp.down_proj.weight": (hidden, mlp),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    shapes: dict[str, Shape] = {EMBEDDING: (config.vocab_size, hidden)}
    for index in range(config.num_hidden_layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes | {"model.norm.weight": (hidden,), HEAD: (config.vocab_size, hidden)}


def check_code_range(config: TransformerConfig, source: Path) -> None:
    """Raises CheckpointError when the vocabulary ends among the image codes.

    One that ends before them all is a model of text alone: `forward` serves it, and `Vocabulary.of` refuses it.
    """
    first, end = config.image_token_offset, config.image_token_offset + config.codebook_size
    if first < config.vocab_size < end:
        raise CheckpointError(
            f"{source}: the vocabulary of {config.vocab_size} ends among the image codes {first} to {end - 1}; "
            "set image_token_offset and image_codebook_size to what the checkpoint was trained with"
        )
