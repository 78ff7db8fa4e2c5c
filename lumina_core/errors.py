"""The errors that this package raises on purpose. Each message says what came, what was expected and what to do."""

from __future__ import annotations


class LuminaError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(LuminaError, ValueError):
    """A bad argument, prompt, size or picture."""


class CheckpointError(LuminaError):
    """A bad checkpoint, tokenizer or MoVQGAN file."""


class OutOfMemory(LuminaError):
    """A run that the device has no memory for, whether this was foretold or found on the way."""


class Cancelled(LuminaError):
    """The caller's `should_cancel` asked for the run to stop."""
