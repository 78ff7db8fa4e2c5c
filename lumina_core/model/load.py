"""Loads published tensors into the transformer's layers."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import operations as default_operations
from ..checkpoint.config import TransformerConfig
from ..checkpoint.find import Checkpoint, open_checkpoint
from ..checkpoint.published import EMBEDDING, HEAD, is_block_linear, packed_name, published_shapes
from ..device import explain_out_of_memory, gigabytes
from ..quant.linear import PLAIN, MatmulBackend, QuantizedLinear, quantized_operations
from ..quant.schemes import SCHEMES, PackedTensors
from ..quant.select import choose_backend
from ..quant.weights import AUTO, WeightsPlan, plan_weights
from .source import WeightSource
from .transformer import Transformer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """Rows `source_rows` of a published tensor (None: all) are the rows from `first_row` on of a parameter."""

    parameter: str
    source_rows: range | None = None
    first_row: int = 0

    def cut(self, source: Tensor) -> Tensor:
        return source if self.source_rows is None else source[self.source_rows.start : self.source_rows.stop]


def load_transformer(
    source: str | Path | Checkpoint,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    operations: Any = default_operations,
    weights: str = AUTO,
    work_device: torch.device | str | None = None,
) -> Transformer:
    """The transformer of a checkpoint (folder, single `.safetensors`, "demo", or an opened one), in eval mode.

    `weights` is the dtype of the blocks' linear weights: auto (as in the checkpoint), int8, int4 (quantised while
    they are read), bf16 or fp32 (which replace `dtype`, that of everything else). `work_device` is where the model
    runs, if it waits on another `device`; weights are quantised there.

    Built on the meta device; each parameter is made when its tensor is read, so weights are never held twice. Raises
    CheckpointError that names every missing, unexpected or misshapen tensor before any weight is read, InputError for
    weights that the checkpoint cannot have, and OutOfMemory.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    plan, config = plan_weights(weights, checkpoint.scheme, dtype), checkpoint.config
    work_device = device if work_device is None else work_device
    store = checkpoint.tensors
    tensors = WeightSource(store, published_shapes(config), checkpoint.scheme, plan.scheme, work_device)
    tensors.check(str(checkpoint.path))
    model = explain_out_of_memory(
        lambda: build_transformer(config, plan, store.get, tensors.packed, device, work_device, operations),
        lambda: _out_of_memory(checkpoint, plan),
    )
    model.text_embedding, model.text_head = store.get(EMBEDDING), store.get(HEAD)
    return model


def build_transformer(
    config: TransformerConfig,
    plan: WeightsPlan,
    get: Callable[[str], Tensor],
    get_packed: Callable[[str], PackedTensors],
    device: torch.device | str,
    work_device: torch.device | str,
    operations: Any = default_operations,
) -> Transformer:
    """A transformer in eval mode on `device`, without its text tables, with the backend that is best on `work_device`.

    `get(name)` returns a published tensor, `get_packed(name)` the packed tensors of one that the plan quantises.
    """
    backend = PLAIN
    if plan.scheme is not None:
        backend = choose_backend(plan.scheme, plan.dtype, work_device, linear_shapes(config).values())
        logger.info("%s weights, matmuls on %s by %s", plan.scheme.name, work_device, backend.name)
    model = empty_transformer(config, plan, operations, backend)
    fill(model, get, plan.dtype, device, None if plan.scheme is None else get_packed)
    return model.eval().requires_grad_(False)


def _out_of_memory(checkpoint: Checkpoint, plan: WeightsPlan) -> str:
    def taken(one: WeightsPlan) -> str:
        model = empty_transformer(checkpoint.config, one)
        return f"{one.name} weights take {gigabytes(weight_bytes(model, one.dtype))}"

    smaller = f"; {taken(replace(plan, scheme=SCHEMES['int4']))}" if plan.scheme is None else ""
    return f"out of memory while loading {checkpoint.path}: {taken(plan)}{smaller}; close what else uses the memory"


def empty_transformer(
    config: TransformerConfig, plan: WeightsPlan, operations: Any = default_operations, backend: MatmulBackend = PLAIN
) -> Transformer:
    """A transformer on the meta device for weights as planned, whose blocks multiply by `backend`."""
    blocks = operations if plan.scheme is None else quantized_operations(plan.scheme, operations, backend)
    with torch.device("meta"):
        return Transformer(config, operations, blocks)


def weight_bytes(model: Transformer, dtype: torch.dtype) -> int:
    """Bytes of a model's parameters, with those that are not quantised in `dtype`; the model may be on meta."""
    total = 0
    for layer in model.modules():
        quantized = isinstance(layer, QuantizedLinear)
        own = layer.parameters(recurse=False)
        total += sum(part.numel() * (part.dtype if quantized else dtype).itemsize for part in own)
    return total


def fill(
    model: Transformer,
    get: Callable[[str], Tensor],
    dtype: torch.dtype,
    device: torch.device | str,
    get_packed: Callable[[str], PackedTensors] | None = None,
) -> None:
    """Allocates and fills every parameter of a model on meta from published tensors, one at a time.

    `get(name)` returns a tensor, `get_packed(name)` the packed tensors of a quantised linear weight.
    """
    target: dict[str, Tensor] = {}

    def put(parameter: str, rows: Tensor, first_row: int, dtype: torch.dtype) -> None:
        if parameter not in target:
            target[parameter] = torch.empty(model.get_parameter(parameter).shape, dtype=dtype, device=device)
        target[parameter][first_row : first_row + rows.shape[0]].copy_(rows)

    for name in published_shapes(model.config):
        for place in placements(name, model):
            if get_packed is not None and is_block_linear(name):
                for key, rows in get_packed(name).items():
                    put(packed_name(place.parameter, key), rows, place.first_row, rows.dtype)
            else:
                put(place.parameter, place.cut(get(name)), place.first_row, dtype)
    model.load_state_dict(target, strict=True, assign=True)
    for layer in model.modules():
        if isinstance(layer, QuantizedLinear):
            layer.repack()


def placements(name: str, model: Transformer) -> Iterator[Placement]:
    """Where a published tensor goes: q, k, v and gate, up are stacked; code rows are cut out of the whole tables."""
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


def linear_shapes(config: TransformerConfig) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of a block's linear layers, by name."""
    hidden, mlp, dim = config.hidden_size, config.intermediate_size, config.head_dim
    query, key = config.num_attention_heads * dim, config.num_key_value_heads * dim
    return {
        "qkv_proj": (hidden, query + 2 * key),
        "o_proj": (query, hidden),
        "gate_up_proj": (hidden, 2 * mlp),
        "down_proj": (mlp, hidden),
    }
