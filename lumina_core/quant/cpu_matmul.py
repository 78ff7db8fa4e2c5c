"""The CPU backends: torch's own matmuls with int4 and int8 weights, which dequantise a few values at a time.

They compute in bfloat16 with sums in float32; inputs of another dtype are cast. A row's result is bit-identical
whatever the other rows are, which is tested too: a window of any width then draws the same tokens.

int4 weights are put in torch's own order when the model is loaded, in place. That order depends on the processor.
"""

import platform
from functools import cache, lru_cache

import torch
from torch import Tensor

from ..kernels.reference import GROUP_SIZE, int4_matmul, int8_matmul, pack_codes, unpack_codes
from ..kernels.samples import int4_sample, int8_sample
from ..kernels.select import PASSED
from ..kernels.self_test import Function, Sample, self_test
from .linear import MatmulBackend, QuantizedLinear, multiply_plain
from .schemes import PackedTensors

CPU_SCHEMES, CPU_DTYPES = ("int4", "int8"), (torch.bfloat16, torch.float32, torch.float16)
# More tokens of one sequence are a prefill, where dequantising the weight once takes less time.
MAX_INT4_TOKENS, MAX_INT8_TOKENS = 512, 128
# A multiple of the outputs whose codes the order mixes: 64 with AVX-512, 32 with AVX2.
BLOCK_OUTPUTS = 64
# The int8 matmul reads inputs in steps of 16 with AVX-512 and of fewer elsewhere.
INT8_INPUTS = 32
# Outputs that are repacked at a time: bounds the memory that repacking takes.
OUTPUTS_AT_A_TIME = 1024
# Instruction sets of x86 and processors of Arm for which torch's matmuls are written. Elsewhere, and in its builds for
# Windows, they are plain loops (aten/src/ATen/native/cpu/int4mm_kernel.cpp, int8mm_kernel.cpp).
CAPABILITIES, ARM = ("AVX2", "AVX512"), ("aarch64", "arm64")
# Rows of the self-test, and fewer of them that must round alike.
TEST_ROWS, FEWER_ROWS = 33, (1, 2, 3, 5)
# A code has 16 values, so it holds one hexadecimal digit of its own index.
DIGIT_BITS = 4


def cpu_backend(scheme: str) -> MatmulBackend:
    """torch's matmul for int4 or int8 weights where it passes its self-tests, else plain torch. The name says why."""
    matmul, reference, sample = {
        "int4": (_repack_and_multiply, int4_matmul, int4_sample),
        "int8": (multiply_int8, int8_matmul, int8_sample),
    }[scheme]
    reason = _unsupported_reason(scheme)
    test = Sample.of(sample, dtype=torch.bfloat16, rows=TEST_ROWS, out_features=2 * BLOCK_OUTPUTS)
    if not reason:
        reason = self_test(matmul, reference, test, "cpu").reason
    if reason:
        return MatmulBackend(f"plain ({reason})", multiply_plain)
    alike, name = rounds_alike(matmul, test), f"torch's {scheme} matmul ({PASSED})"
    if scheme == "int8":
        return MatmulBackend(name, _int8_layer, repack=_keep_int8, packed_rows=_int8_rows, alike=alike)
    return MatmulBackend(name, _int4_layer, repack=repack, packed_rows=packed_rows, alike=alike)


def _unsupported_reason(scheme: str) -> str:
    """Why torch has no fast matmul for a scheme here, or ""."""
    capability = torch.backends.cpu.get_cpu_capability()
    if platform.system() == "Windows":
        return f"torch's {scheme} matmul is a plain loop on Windows"
    if capability not in CAPABILITIES and platform.machine().lower() not in ARM:
        return f"torch's {scheme} matmul is for {', '.join(CAPABILITIES)} and Arm, not {capability}"
    needed = "_weight_int4pack_mm_for_cpu" if scheme == "int4" else "_weight_int8pack_mm"
    return "" if hasattr(torch.ops.aten, needed) else f"this torch has no {scheme} matmul for CPUs; 2.6 and later have"


def rounds_alike(matmul: Function, sample: Sample) -> bool:
    """Whether the first rows of a sample have the same result without the others, bit for bit."""
    x, *weight = sample("cpu")
    whole = matmul(x, *weight)
    return all(torch.equal(matmul(x[:rows], *weight), whole[:rows]) for rows in FEWER_ROWS)


def _int4_layer(x: Tensor, layer: QuantizedLinear) -> Tensor:
    if not layer.repacked:
        return multiply_plain(x, layer)
    if _is_prefill(x, MAX_INT4_TOKENS):
        return _multiply_prefill(x, layer)
    return multiply_int4(x.flatten(0, -2), *layer.packed_tensors.values()).unflatten(0, x.shape[:-1])


def _int8_layer(x: Tensor, layer: QuantizedLinear) -> Tensor:
    if not layer.repacked:
        return multiply_plain(x, layer)
    if _is_prefill(x, MAX_INT8_TOKENS):
        return _multiply_prefill(x, layer)
    return multiply_int8(x.flatten(0, -2), *layer.packed_tensors.values()).unflatten(0, x.shape[:-1])


def _is_prefill(x: Tensor, most: int) -> bool:
    """Whether input [...,tokens,in] has more tokens than a window, or is one that torch's matmul does not take."""
    return x.device.type != "cpu" or x.requires_grad or (x.dim() > 1 and x.shape[-2] > most)


def _multiply_prefill(x: Tensor, layer: QuantizedLinear) -> Tensor:
    """The matmul with the weight dequantised, in bfloat16 where the processor has it."""
    if x.device.type == "cpu" and not x.requires_grad and _has_bf16():
        return multiply_plain(x.to(torch.bfloat16), layer).to(x.dtype)
    return multiply_plain(x, layer)


@cache
def _has_bf16() -> bool:
    """Whether the processor multiplies in bfloat16 itself; torch emulates it on others, slowly."""
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(supported() for supported in asked if supported is not None)


def multiply_int4(x: Tensor, packed: Tensor, scale_zero: Tensor) -> Tensor:
    """x [M,in] times the transpose of an int4 weight of repacked tensors, [M,out] in the dtype of x."""
    out_features, groups = scale_zero.shape[:2]
    rows, by_groups = x.to(torch.bfloat16).contiguous(), scale_zero.view(groups, out_features, 2)
    return torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, GROUP_SIZE, by_groups).to(x.dtype)


def multiply_int8(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """x [M,in] times the transpose of an int8 weight, [M,out] in the dtype of x.

    torch's matmul would round the scales to bfloat16, so it gets ones.
    """
    rows, ones = x.to(torch.bfloat16).contiguous(), torch.ones(len(codes), dtype=torch.bfloat16)
    return (torch.ops.aten._weight_int8pack_mm(rows, codes, ones).float() * scale).to(x.dtype)


def _keep_int8(layer: QuantizedLinear) -> PackedTensors | None:
    """Nothing to change; None for inputs of which torch's matmul would read beyond the end."""
    return None if layer.in_features % INT8_INPUTS else {}


def _int8_rows(layer: QuantizedLinear, first: int, end: int) -> PackedTensors:
    return {name: tensor[first:end] for name, tensor in layer.packed_tensors.items()}


def _repack_and_multiply(x: Tensor, packed: Tensor, scale_zero: Tensor) -> Tensor:
    return multiply_int4(x, *_repack({"packed": packed, "scale_zero": scale_zero}).values())


def repack(layer: QuantizedLinear) -> PackedTensors | None:
    """The packed tensors of `Int4` in torch's order, in the same shapes; None where the weight does not fill blocks."""
    fills = layer.out_features % BLOCK_OUTPUTS == 0 and layer.in_features % GROUP_SIZE == 0
    return _repack(layer.packed_tensors) if fills else None


def _repack(tensors: PackedTensors) -> PackedTensors:
    packed, scale_zero = tensors["packed"].cpu(), tensors["scale_zero"].cpu()
    codes = (unpack_codes(part).flatten(1) for part in packed.split(OUTPUTS_AT_A_TIME))
    by_groups = scale_zero.transpose(0, 1).contiguous().view(scale_zero.shape)
    return {"packed": torch.cat([_order(part) for part in codes]), "scale_zero": by_groups}


def _order(codes: Tensor) -> Tensor:
    """Codes 0 to 15 [out,in] as bytes [out,in/2] in torch's order."""
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 1)


def packed_rows(layer: QuantizedLinear, first: int, end: int) -> PackedTensors:
    """Rows `first` to `end` of a repacked layer's packed tensors in the neutral order."""
    packed, scale_zero = layer.packed_tensors.values()
    start, blocks = first % BLOCK_OUTPUTS, slice(first // BLOCK_OUTPUTS, -(-end // BLOCK_OUTPUTS))
    ordered = packed.view(-1, BLOCK_OUTPUTS * packed.shape[1])[blocks]
    places = code_places(layer.in_features).to(packed.device)
    codes = torch.stack((ordered & 15, ordered >> 4), -1).flatten(1).index_select(1, places).view(-1, layer.in_features)
    codes = codes[start : start + end - first].unflatten(1, (-1, GROUP_SIZE))
    by_groups = scale_zero.view(-1, layer.out_features, 2)[:, first:end]
    return {"packed": pack_codes(codes), "scale_zero": by_groups.transpose(0, 1)}


@lru_cache(maxsize=4)
def code_places(in_features: int) -> Tensor:
    """Where in torch's order each code of BLOCK_OUTPUTS rows is: indices [BLOCK_OUTPUTS·in] of 4-bit halves, low first.

    Found by ordering the digits of every code's index, since the order depends on the processor.
    """
    count = BLOCK_OUTPUTS * in_features
    index = torch.arange(count, dtype=torch.int32)
    found = torch.zeros(count, dtype=torch.int64)
    for shift in range(0, count.bit_length(), DIGIT_BITS):
        ordered = _order((index >> shift & 15).view(BLOCK_OUTPUTS, in_features)).flatten()
        found |= torch.stack((ordered & 15, ordered >> 4), -1).flatten().long() << shift
    return torch.empty(count, dtype=torch.int64).scatter_(0, found, torch.arange(count))
