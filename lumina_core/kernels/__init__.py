"""Triton kernels for a decoding step, each beside its reference in plain torch. Triton is optional."""
