"""The errors of this package. Each message says what was given, what was expected and what to do."""

from __future__ import annotations


class LuminaError(Exception):
    """Base of the errors of this package."""


class InputError(LuminaError, ValueError):
    """A bad argument, prompt, size or picture."""


class CheckpointError(LuminaError):
    """A bad checkpoint, tokenizer or MoVQGAN file."""


class OutOfMemory(LuminaError):
    """The device lacks the memory for a run, by the estimate before it or by a failed allocation."""
