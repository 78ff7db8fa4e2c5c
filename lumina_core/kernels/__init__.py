"""Triton kernels for a step of drawing, each with a twin in plain torch. Knows torch, errors, memory and noise only.

Triton is never needed: a caller asks `choose` once, before it computes, for a kernel or its twin, and logs the answer.
"""

from .chooser import Choice, Remembered, Sample, choose, retry_failed, self_test, unfit, unusable
from .stored import Stored

__all__ = ["Choice", "Remembered", "Sample", "Stored", "choose", "retry_failed", "self_test", "unfit", "unusable"]
