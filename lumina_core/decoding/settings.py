"""What a decoding run is asked for, and what it gives."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..model.kv_store import KV_CACHES

DECODERS = ("gumbel", "ar", "sjd", "coupled")
NEW_DRAFTS = ("above", "left", "random", "guess")
MAX_WINDOW = 128
MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class DecodeSettings:
    """How tokens are drawn.

    `window_size` W is how many tokens one forward looks at: the last settled one and W − 1 drafts; it settles 1 to W
    tokens. `ar` is W = 1. `new_drafts` says what a slot that enters the window starts from: the code above, the left
    neighbour, a random code, or a draw from the model's distribution at the window's end. With `adapt_window`, a
    forward of `gumbel` looks at fewer tokens where the last ones settled few. `kv_cache` is how keys and values are
    kept: auto is the format of the computation. Raises InputError when a value is out of range.
    """

    cfg_scale: float = 4.0
    top_k: int = 4096
    temperature: float = 1.0
    seed: int = 0
    decoder: str = "gumbel"
    window_size: int = 32
    new_drafts: str = "above"
    adapt_window: bool = True
    kv_cache: str = "auto"

    def __post_init__(self) -> None:
        _check_number("cfg", self.cfg_scale, 0.0, 100.0)
        _check_number("temperature", self.temperature, 1e-3, 100.0)
        _check_whole("top_k", self.top_k, 1, 2**31)
        _check_whole("seed", self.seed, 0, MAX_SEED)
        _check_whole("window", self.window_size, 1, MAX_WINDOW)
        _check_choice("decoder", self.decoder, DECODERS)
        _check_choice("new_drafts", self.new_drafts, NEW_DRAFTS)
        _check_choice("kv_cache", self.kv_cache, KV_CACHES)

    @property
    def guided(self) -> bool:
        """Whether the unconditional branch runs."""
        return self.cfg_scale != 1.0

    @property
    def width(self) -> int:
        """Tokens that one forward looks at."""
        return 1 if self.decoder == "ar" else self.window_size

    @property
    def keeps_draft_probs(self) -> bool:
        """Whether the decoder needs to know what its drafts were drawn from."""
        return self.decoder in ("sjd", "coupled")


@dataclass(frozen=True)
class StepReport:
    """How far a run is. `codes` [N,h,w] on the CPU, given rows included; behind the settled ones they are drafts or 0.

    `settled` [N] counts sampled codes, given rows not included; `total` is the codes to sample in each picture.
    """

    codes: Tensor
    settled: tuple[int, ...]
    total: int
    nfe: int


@dataclass(frozen=True)
class DecodeResult:
    """A finished run.

    `codes` [N,h,w] int64 on the CPU, given rows included. `nfe`: forwards, without those that read the prompt.
    `accept_lengths[k]`: tokens (ends of row included) that each forward settled in picture k. `settled_step` [N,h,w]:
    the forward that settled each code, 0 for the prompt's, −1 for given ones. `log_likelihood` [N], in nats: the sum
    over a picture's sampled codes of the log of the guided probability, at the temperature, that each has among all
    codes after those before it, whatever top-k and decoder. `seconds`: wall time with prefill; `warm_up_seconds` of it
    went into compiling and capturing. `matmul_kernel` is what multiplied the blocks' weights, `attention_kernel` what
    attended over the cache, with the reason.
    """

    codes: Tensor
    nfe: int
    accept_lengths: tuple[tuple[int, ...], ...]
    settled_step: Tensor
    log_likelihood: tuple[float, ...]
    seconds: float
    warm_up_seconds: float = 0.0
    settings: DecodeSettings = field(default_factory=DecodeSettings)
    matmul_kernel: str = "not known"
    attention_kernel: str = "not known"

    @property
    def sampled_tokens(self) -> int:
        """Codes that were sampled, over all pictures."""
        return int((self.settled_step >= 0).sum())

    @property
    def log_likelihood_per_code(self) -> tuple[float, ...]:
        """`log_likelihood` by code, so that canvases of different sizes compare."""
        return tuple(sum_of_codes * len(self.codes) / self.sampled_tokens for sum_of_codes in self.log_likelihood)

    @property
    def accept_histogram(self) -> dict[int, int]:
        """Accepted length → number of forwards, over all pictures."""
        lengths = [length for picture in self.accept_lengths for length in picture]
        return {length: lengths.count(length) for length in sorted(set(lengths))}


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= value <= high:
        raise InputError(f"{name} is {value!r}; expected a number from {low:g} to {high:g}")


def _check_whole(name: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{name} is {value!r}; expected a whole number from {low} to {high}")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
