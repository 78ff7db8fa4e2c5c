"""Quantised weights of linear layers, int8 and int4. Imports torch, kernels and errors only."""
