"""Weights of linear layers in 8 and 4 bits. Knows torch, kernels and errors only."""

from .choice import AUTO, CHOICES, WeightsPlan, plan_weights
from .in_registers import choose_kernel, matmul_samples
from .linear import PLAIN, Kernel, QuantizedLinear, quantized_operations
from .schemes import SCHEMES, Int4, Int8, Piece, Pieces, Scheme, quantize

__all__ = [
    "AUTO",
    "CHOICES",
    "PLAIN",
    "SCHEMES",
    "Int4",
    "Int8",
    "Kernel",
    "Piece",
    "Pieces",
    "QuantizedLinear",
    "Scheme",
    "WeightsPlan",
    "choose_kernel",
    "matmul_samples",
    "plan_weights",
    "quantize",
    "quantized_operations",
]
