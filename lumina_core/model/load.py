"""Loads published tensors into the transformer's layers."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import operations as default_operations
from ..checkpoint.config import TransformerConfig
from ..checkpoint.diagnosis import check_tensors
from ..checkpoint.find import Checkpoint, open_checkpoint
from ..checkpoint.published import EMBEDDING, HEAD, UNUSED_PREFIX, is_block_linear, packed_name, published_shapes
from ..checkpoint.single_file import MOVQGAN_PREFIX
from ..checkpoint.tensor_files import Shape
from ..checkpoint.tensors import DTYPES, TensorSpec, TensorStore, dtype_name
from ..checkpoint.values import check_code_rows
from ..device import choose_device, dtype_or_choice, explain_out_of_memory, free_bytes, warn_if_emulated
from ..errors import CheckpointError
from ..host.limits import gigabytes
from ..quant.linear import PLAIN, MatmulBackend, QuantizedLinear, quantized_operations
from ..quant.schemes import SCHEMES, PackedTensors, Scheme, quantize
from ..quant.select import choose_backend
from ..quant.weights import AUTO, WeightsPlan, check_device_holds, plan_weights
from .transformer import Transformer

logger = logging.getLogger(__name__)

PLAIN_DTYPES = ("F32", "F16", "BF16", "F64")
# Values of a plain tensor that are read at a time: few enough that a slow disk reads them in a tenth of a second.
READ_ELEMENTS = 2**22

OnProgress = Callable[[int, int], object]


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
    dtype: torch.dtype | str = torch.bfloat16,
    device: torch.device | str = "cpu",
    block_operations: Any = default_operations,
    weights: str = AUTO,
    work_device: torch.device | str | None = None,
    on_progress: OnProgress | None = None,
) -> Transformer:
    """The transformer of a checkpoint (folder, single `.safetensors`, "demo", or an opened one), in eval mode.

    `weights` is the dtype of the blocks' linear weights: auto (as in the checkpoint), int8, int4 (quantised while
    they are read), bf16, fp32 or fp16 (which replace `dtype`, that of everything else). `work_device` is where the
    model runs, if it waits on another `device`; weights are quantised there. `block_operations` are layer classes for
    the blocks, as of a memory manager that streams plain linear weights in. `on_progress` is called with the values
    that are loaded and all that will be, several times a second; an exception that it raises ends the loading.

    Built on the meta device; each parameter is made when its tensor is read, so weights are never held twice. Raises
    CheckpointError that names every missing, unexpected or misshapen tensor before any weight is read, InputError for
    a device that is not there, and weights that it or the checkpoint cannot have, and OutOfMemory.
    """
    device = choose_device(device)
    work_device = device if work_device is None else choose_device(work_device)
    dtype = dtype_or_choice(dtype, work_device)
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    plan, config = plan_weights(weights, checkpoint.scheme, dtype), checkpoint.config
    check_device_holds(plan, work_device)
    store, published = checkpoint.tensors, published_shapes(config)
    check_weights(store, published, checkpoint.scheme, str(checkpoint.path))
    warn_if_emulated(plan.dtype, work_device)
    count = _counter(loaded_values(config), on_progress)

    def get(name: str) -> Tensor:
        # In a mapping of its own: the pages of what was copied do not stay in memory.
        return store.get_alone(name, lambda: count(0))

    def get_packed(name: str) -> PackedTensors:
        assert plan.scheme is not None, "plain weights have no packed tensors"
        if checkpoint.scheme is None:
            return quantize(plan.scheme, get(name), work_device, name, count)
        packed = {key: get(packed_name(name, key)) for key in plan.scheme.packed_specs(published[name][1])}
        count(math.prod(published[name]))
        return packed

    def load() -> Transformer:
        check_tables(get, config, str(checkpoint.path))
        model = build_transformer(config, plan, get, get_packed, device, work_device, block_operations, count)
        model.text_embedding, model.text_head = store.get(EMBEDDING), store.get(HEAD)
        return model

    return explain_out_of_memory(load, lambda: _out_of_memory(checkpoint, plan, device))


def loaded_values(config: TransformerConfig) -> int:
    """Values of the published weights that loading reads: the text rows of embedding and head stay in the file."""
    text_rows = 2 * (config.vocab_size - config.codebook_size) * config.hidden_size
    return sum(math.prod(shape) for shape in published_shapes(config).values()) - text_rows


def loaded_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the checkpoint's tensors that loading reads. Raises nothing for those that cannot be loaded."""
    config, store = checkpoint.config, checkpoint.tensors
    text_values = (config.vocab_size - config.codebook_size) * config.hidden_size
    dtypes, total = store.dtypes, 0
    for name, shape in store.shapes.items():
        if dtypes[name] in DTYPES and not name.startswith((UNUSED_PREFIX, MOVQGAN_PREFIX)):
            values = math.prod(shape) - (text_values if name in (EMBEDDING, HEAD) else 0)
            total += values * DTYPES[dtypes[name]].itemsize
    return max(1, total)


def _counter(total: int, on_progress: OnProgress | None) -> Callable[[int], object]:
    """A function that adds values to those that are done, and tells of them."""
    done = 0

    def count(values: int) -> None:
        nonlocal done
        done += values
        if on_progress is not None:
            on_progress(done, total)

    return count


def check_weights(store: TensorStore, published: Mapping[str, Shape], stored: str | None, source: str) -> None:
    """Raises CheckpointError if a tensor of the checkpoint `source` is missing, unexpected or misshapen, or has another
    dtype. The linear weights of its blocks are `stored` in a scheme, or plain.
    """
    found = {
        name: shape for name, shape in store.shapes.items() if not name.startswith((UNUSED_PREFIX, MOVQGAN_PREFIX))
    }
    plain = {name: shape for name, shape in published.items() if stored is None or not is_block_linear(name)}
    packed = dict[str, TensorSpec]()
    for name in published:
        if stored is not None and name not in plain:
            packed |= packed_tensor_specs(name, published[name], SCHEMES[stored])
    check_tensors(found, {**plain, **{name: spec.shape for name, spec in packed.items()}}, source)
    allowed = {**dict.fromkeys(plain, PLAIN_DTYPES), **{name: (spec.dtype,) for name, spec in packed.items()}}
    found_dtypes = store.dtypes
    for name, dtypes in allowed.items():
        if (dtype := found_dtypes[name]) not in dtypes:
            fix = "convert it again" if name in packed else "get the checkpoint in one of these forms"
            one_of = "" if len(dtypes) == 1 else "one of "
            raise CheckpointError(f"{source}: `{name}` holds {dtype}, expected {one_of}{', '.join(dtypes)}: {fix}")


def check_tables(get: Callable[[str], Tensor], config: TransformerConfig, source: str) -> None:
    """Raises CheckpointError for a hole in the rows of image codes, of the embedding or the head."""
    codes = config.code_range
    for name in (EMBEDDING, HEAD):
        check_code_rows(name, get(name)[codes.start : codes.stop], source)


def packed_tensor_specs(name: str, shape: Shape, scheme: Scheme) -> dict[str, TensorSpec]:
    """The packed tensors that the linear weight `name` [out,in] is stored as, by their names in the file."""
    rows, columns = shape
    return {
        packed_name(name, key): TensorSpec(dtype_name(spec.dtype), (rows, *spec.columns))
        for key, spec in scheme.packed_specs(columns).items()
    }


def build_transformer(
    config: TransformerConfig,
    plan: WeightsPlan,
    get: Callable[[str], Tensor],
    get_packed: Callable[[str], PackedTensors],
    device: torch.device | str,
    work_device: torch.device | str,
    block_operations: Any = default_operations,
    on_values: Callable[[int], object] | None = None,
) -> Transformer:
    """A transformer in eval mode on `device`, without its text tables, with the backend that is best on `work_device`.

    `get(name)` returns a published tensor, `get_packed(name)` the packed tensors of one that the plan quantises. For
    `on_values` see `fill`.
    """
    backend = PLAIN
    if plan.scheme is not None:
        backend = choose_backend(plan.scheme, plan.dtype, work_device, linear_shapes(config).values())
        logger.info("%s weights, matmuls on %s by %s", plan.scheme.name, work_device, backend.name)
    model = empty_transformer(config, plan, block_operations, backend)
    fill(model, get, plan.dtype, device, None if plan.scheme is None else get_packed, on_values)
    return model.eval().requires_grad_(False)


def _out_of_memory(checkpoint: Checkpoint, plan: WeightsPlan, device: torch.device) -> str:
    """Says what the weights take, what is free, and which quantised weights fit in it."""
    free = free_bytes(device)
    smaller = [replace(plan, scheme=SCHEMES[name]) for name in ("int8", "int4") if plan.scheme is None]
    taken = {one: weight_bytes(empty_transformer(checkpoint.config, one), one.dtype) for one in (plan, *smaller)}
    said = [f"{one.name} weights take {gigabytes(taken[one])}" for one in smaller if free is None or taken[one] < free]
    there = "" if free is None else f" and {gigabytes(free)} are free"
    begin = f"out of memory while loading {checkpoint.path}: {plan.name} weights take {gigabytes(taken[plan])}{there}"
    return "; ".join((begin, *said, "close what else uses the memory"))


def empty_transformer(
    config: TransformerConfig,
    plan: WeightsPlan,
    block_operations: Any = default_operations,
    backend: MatmulBackend = PLAIN,
) -> Transformer:
    """A transformer on the meta device for weights as planned, whose blocks multiply by `backend`."""
    if plan.scheme is not None:
        block_operations = quantized_operations(plan.scheme, block_operations, backend)
    with torch.device("meta"):
        return Transformer(config, block_operations)


def weight_bytes(model: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of a module's parameters, with those that are not quantised in `dtype`; it may be on meta."""
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
    on_values: Callable[[int], object] | None = None,
) -> None:
    """Allocates and fills every parameter of a model on meta from published tensors, some rows at a time.

    `get(name)` returns a tensor, `get_packed(name)` the packed tensors of a quantised linear weight. `on_values` is
    called with the number of values of each part that is read, and with 0 while quantised layers are repacked.
    """
    target: dict[str, Tensor] = {}
    tell = on_values or (lambda _: None)

    def put(parameter: str, rows: Tensor, row: int, dtype: torch.dtype, tell: Callable[[int], object]) -> None:
        if parameter not in target:
            target[parameter] = torch.empty(model.get_parameter(parameter).shape, dtype=dtype, device=device)
        for part in rows.split(max(1, READ_ELEMENTS // max(1, rows[:1].numel()))):
            target[parameter][row : row + len(part)].copy_(part)
            row += len(part)
            tell(part.numel())

    for name in published_shapes(model.config):
        place = placement(name, model)
        if get_packed is not None and is_block_linear(name):
            for key, rows in get_packed(name).items():
                put(packed_name(place.parameter, key), rows, place.first_row, rows.dtype, lambda _: tell(0))
        else:
            put(place.parameter, place.cut(get(name)), place.first_row, dtype, tell)
    model.load_state_dict(target, strict=True, assign=True)
    for layer in model.modules():
        if isinstance(layer, QuantizedLinear):
            layer.repack()
            tell(0)


def placement(name: str, model: Transformer) -> Placement:
    """Where a published tensor goes: q, k, v and gate, up are stacked; code rows are cut out of the whole tables."""
    config, dim = model.config, model.config.head_dim
    query, key = config.num_attention_heads * dim, config.num_key_value_heads * dim
    own = name.removeprefix("model.")
    starts = {"q_proj": 0, "k_proj": query, "v_proj": query + key, "gate_proj": 0, "up_proj": config.intermediate_size}
    part = own.split(".")[-2]
    if name in (EMBEDDING, HEAD):
        return Placement("code_embedding.weight" if name == EMBEDDING else "code_head.weight", model.code_range)
    if part in starts:
        fused = "qkv_proj" if part in ("q_proj", "k_proj", "v_proj") else "gate_up_proj"
        return Placement(own.replace(part, fused), first_row=starts[part])
    return Placement(own)


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
