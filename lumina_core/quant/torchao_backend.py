"""The torchao backend: fp8 matmuls on NVIDIA GPUs that have them, with the inputs quantised row by row.

torchao's weight tensors are made from a layer's packed tensors for each call, without a copy: a layer keeps plain
parameters, and torchao's configs, which set those of PyTorch's compiler, are not used. Elsewhere fp8 weights are
dequantised, as torchao does too.
"""

import importlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels.samples import normal, seeded, uniform
from ..kernels.select import PASSED, unsupported_device_reason
from ..kernels.self_test import Sample, self_test
from .linear import MatmulBackend, QuantizedLinear, multiply_plain
from .schemes import FLOAT8, FLOAT8_MAX

logger = logging.getLogger(__name__)

VERSIONS = "0.13 to 0.18"
FLOAT8_CAPABILITY, FLOAT8_DTYPE = (8, 9), torch.bfloat16
# Inputs and outputs of a layer that the matmul takes.
MULTIPLE = 16
TEST_ROWS = (1, 5, 64)
# The least largest magnitude of a row: torchao divides a row of zeros by 0.
LEAST = 1e-12
MakeWeight = Callable[[Tensor, Tensor], Tensor]


def float8_backend(dtype: torch.dtype, device: torch.device | str, shapes: Iterable[tuple[int, int]]) -> MatmulBackend:
    """torchao's fp8 matmul where the device has one and it passes its self-tests; else plain torch.

    The name says which and why. `shapes` are (inputs, outputs) of the layers. A GPU that has it and a torchao that is
    missing, too old or too new are logged as a warning.
    """
    if reason := _unsupported_reason(dtype, device, shapes):
        return MatmulBackend(f"plain ({reason})", multiply_plain)
    try:
        make_weight = import_float8()
    except ImportError as error:
        reason = str(error)
    else:
        reason = float8_failure(make_weight, device)
    if reason:
        logger.warning("fp8 weights are dequantised for every matmul, which is slower: %s", reason)
        return MatmulBackend(f"plain ({reason})", multiply_plain)
    return torchao_backend(make_weight, device, f"torchao fp8, inputs in 8 bits ({PASSED})")


def torchao_backend(make_weight: MakeWeight, device: torch.device | str, name: str) -> MatmulBackend:
    """Multiplies inputs on a device by torchao, others by plain torch."""

    def multiply(x: Tensor, layer: QuantizedLinear) -> Tensor:
        if x.device.type != torch.device(device).type or x.dtype != FLOAT8_DTYPE:
            return multiply_plain(x, layer)
        weight = make_weight(*(tensor.to(x.device) for tensor in layer.packed_tensors.values()))
        return F.linear(x.flatten(0, -2), weight).unflatten(0, x.shape[:-1])

    return MatmulBackend(name, multiply)


def float8_failure(make_weight: MakeWeight, device: torch.device | str) -> str:
    """Why torchao's fp8 matmul does not work on a device, or "" where it passes its self-tests."""

    def multiply(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        return F.linear(x, make_weight(values, scale))

    samples = (Sample.of(float8_sample, rows=rows) for rows in TEST_ROWS)
    reasons = (self_test(multiply, float8_reference, sample, device).reason for sample in samples)
    reason = next(filter(None, reasons), "")
    return f"torchao {_version()}: {reason.splitlines()[0]}; versions {VERSIONS} were tried" if reason else ""


def import_float8() -> MakeWeight:
    """A function that makes torchao's weight [out,in] of values [out,in] and scales [out], which it shares.

    Imports torchao. Raises ImportError with one line where it is missing, or has not what is needed.
    """
    try:
        tensors = importlib.import_module("torchao.quantization.quantize_.workflows.float8.float8_tensor")
        common = importlib.import_module("torchao.quantization.quantize_.common")
        granularity = importlib.import_module("torchao.quantization.granularity")
        inference = importlib.import_module("torchao.float8.inference")
        by_torch, by_row = common.KernelPreference.TORCH, granularity.PerRow()
        config = inference.Float8MMConfig(use_fast_accum=True)
        kinds = {"float8_dtype": FLOAT8, "hp_value_lb": LEAST, "kernel_preference": by_torch}
        inputs = tensors.QuantizeTensorToFloat8Kwargs(granularity=by_row, **kinds)
        make: Any = tensors.Float8Tensor
    except Exception as error:  # a package that fits neither this Python nor this torch raises what it likes
        raise ImportError(_import_failure(error)) from error

    def make_weight(values: Tensor, scale: Tensor) -> Tensor:
        fixed = {"mm_config": config, "act_quant_kwargs": inputs, "kernel_preference": by_torch, "dtype": FLOAT8_DTYPE}
        weight: Tensor = make(values, scale[:, None], block_size=[1, values.shape[1]], **fixed)
        return weight

    return make_weight


def _import_failure(error: Exception) -> str:
    version = _version()
    if not version:
        return f"torchao is not installed; `pip install torchao` adds it (versions {VERSIONS} were tried)"
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"torchao {version} has no fp8 matmul of the form that is known ({first}); versions {VERSIONS} were tried"


def _version() -> str:
    """torchao's version, or "" where it cannot be imported."""
    try:
        return str(getattr(importlib.import_module("torchao"), "__version__", "of an unknown version"))
    except ImportError:
        return ""


def _unsupported_reason(dtype: torch.dtype, device: torch.device | str, shapes: Iterable[tuple[int, int]]) -> str:
    """Why no fp8 matmul is looked for, or ""."""
    if reason := unsupported_device_reason(device):
        return reason
    capability = torch.cuda.get_device_capability(device)
    if capability < FLOAT8_CAPABILITY:
        return f"compute capability {capability}; fp8 matmuls need {FLOAT8_CAPABILITY} or more"
    if dtype != FLOAT8_DTYPE:
        return f"fp8 matmuls are for {FLOAT8_DTYPE}, not {dtype}"
    if odd := [shape for shape in shapes if shape[0] % MULTIPLE or shape[1] % MULTIPLE]:
        return f"fp8 matmuls are for inputs and outputs in multiples of {MULTIPLE}, not {odd[0]}"
    return ""


def float8_sample(device: torch.device | str, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of `float8_reference`; of several rows the last is zeros."""
    generator = seeded(device)
    x, values = normal(generator, rows, 256), normal(generator, 96, 256).mul_(100).clamp_(-FLOAT8_MAX, FLOAT8_MAX)
    x[1:][-1:] = 0
    return x.to(FLOAT8_DTYPE), values.to(FLOAT8), uniform(generator, 96) * 1e-3 + 1e-4


def float8_reference(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """x [n,in], rounded to fp8 by rows, times the transpose of an fp8 weight [out,in], [n,out] in the dtype of x."""
    row_scale = x.float().abs().amax(-1, keepdim=True).clamp_min(LEAST) / FLOAT8_MAX
    rows = (x.float() / row_scale).clamp_(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8)
    return (F.linear(rows.float(), values.float()) * row_scale * scale).to(x.dtype)
