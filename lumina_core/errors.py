"""The errors of this package. Each message says what was given, what was expected and what to do."""

from __future__ import annotations

# Characters of a message. A value of the user's may have any length.
MOST_CHARACTERS = 1000


class LuminaError(Exception):
    """Base of the errors of this package. The middle of a long message is left out."""

    def __init__(self, message: str = "") -> None:
        half = MOST_CHARACTERS // 2
        super().__init__(message if len(message) <= MOST_CHARACTERS else f"{message[:half]} … {message[-half:]}")


class InputError(LuminaError, ValueError):
    """A bad argument, prompt, size or picture."""


class CheckpointError(LuminaError):
    """A bad checkpoint, tokenizer or MoVQGAN file."""


class OutOfMemory(LuminaError):
    """The device lacks the memory for a run, by the estimate before it or by a failed allocation."""
