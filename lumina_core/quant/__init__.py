"""Weights of linear layers in 8 and 4 bits. Knows torch and errors only."""

from .choice import AUTO, CHOICES, WeightsPlan, plan_weights
from .linear import PLAIN, QuantizedLinear, quantized_operations
from .schemes import SCHEMES, Int4, Int8, Piece, Pieces, Scheme, quantize

__all__ = [
    "AUTO",
    "CHOICES",
    "PLAIN",
    "SCHEMES",
    "Int4",
    "Int8",
    "Piece",
    "Pieces",
    "QuantizedLinear",
    "Scheme",
    "WeightsPlan",
    "plan_weights",
    "quantize",
    "quantized_operations",
]
