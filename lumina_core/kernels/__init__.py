"""Triton kernels for a step of drawing, each with a twin in plain torch. Knows torch and errors only.

Triton is never needed: a caller asks `choose` once, before it computes, for a kernel or its twin, and logs the answer.
"""

from .chooser import Choice, choose, unusable
from .eager import Stored, unpack_halves

__all__ = ["Choice", "Stored", "choose", "unpack_halves", "unusable"]
