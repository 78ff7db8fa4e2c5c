"""Settings, progress and result of a decoding run."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..kernels.draft_tree import MAX_TREE, DraftTree
from ..kernels.kv_tensor import KV_CACHES
from ..kernels.window_state import GUMBEL, NEW_DRAFTS, Sampling
from ..pictures.sizes import as_whole

DECODERS = ("gumbel", "ar", "sjd", "coupled")
MAX_WINDOW = 128
MAX_SEED = 2**64 - 1
# Nodes of the draft tree where it is left to the device, and rows × nodes that it has then at most.
AUTO_TREE, AUTO_TREE_ROWS = 16, 32


@dataclass(frozen=True)
class DecodeSettings:
    """How tokens are drawn. Raises InputError when a value is out of range.

    A forward has `window_size` W tokens, the last accepted one and W − 1 drafts, and accepts 1 to W tokens; `ar` is
    W = 1. `new_drafts` is what a new draft starts from: the code above, the left neighbour, a random code, or a draw
    from the model's distribution at the window's end. With `adapt_window`, a forward of `gumbel` is narrower where the
    last forwards accepted few tokens. `kv_cache` is the dtype of keys and values; auto is that of the computation.
    `tree` is how many tokens more a forward of `gumbel` has, for other codes than the first drafts; None is as many as
    suits the device (see `with_tree`). A window holds a tree only as far as itself. Of the `top_k` likeliest codes,
    `top_p` keeps the likeliest that have this probability together (arXiv 1904.09751); then `min_p` keeps those with at
    least this share of the likeliest one's (arXiv 2407.01082). 1 and 0 keep all.
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
    tree: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        checked = {
            "cfg_scale": _number("cfg", self.cfg_scale, 0.0, 100.0),
            "temperature": _number("temperature", self.temperature, 1e-3, 100.0),
            "top_p": _number("top_p", self.top_p, 0.0, 1.0, from_low=False),
            "min_p": _number("min_p", self.min_p, 0.0, 1.0),
            "top_k": _whole("top_k", self.top_k, 1, 2**31),
            "seed": _whole("seed", self.seed, 0, MAX_SEED),
            "window_size": _whole("window", self.window_size, 1, MAX_WINDOW),
        }
        if self.tree is not None:
            checked["tree"] = _whole("tree", self.tree, 0, MAX_TREE)
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # NumPy's numbers become Python's
        _check_choice("decoder", self.decoder, DECODERS)
        _check_choice("new_drafts", self.new_drafts, NEW_DRAFTS)
        _check_choice("kv_cache", self.kv_cache, KV_CACHES)
        if self.tree and (self.decoder != GUMBEL or self.window_size == 1):
            raise InputError(
                f"tree is {self.tree} with the decoder {self.decoder} and a window of {self.window_size}; expected 0, "
                "or the decoder gumbel and a window of at least 2"
            )

    @property
    def guided(self) -> bool:
        """Whether there is an unconditional branch."""
        return self.cfg_scale != 1.0

    @property
    def width(self) -> int:
        """Tokens of one forward."""
        return 1 if self.decoder == "ar" else self.window_size

    @property
    def nodes(self) -> int:
        """Nodes of the tree, as far as the window holds it; none where it is still left to the device."""
        return len(DraftTree.of(self.tree or 0, self.width))

    @property
    def slots(self) -> int:
        """Tokens of one forward and the nodes of its tree."""
        return self.width + self.nodes

    def at_window(self, window: int) -> DecodeSettings:
        """The same settings with another window, which may be too small for a tree."""
        return replace(self, window_size=window, tree=0 if window == 1 else self.tree)

    def with_tree(self, rows: int, by_kernels: bool) -> DecodeSettings:
        """The settings with a tree where it is left to the device; `rows` are pictures × branches.

        A tree pays where a forward of more tokens takes little longer: on a GPU whose step runs `by_kernels`.
        """
        if self.tree is not None:
            return self
        has_tree = by_kernels and self.decoder == GUMBEL and self.window_size > 1
        return replace(self, tree=min(AUTO_TREE, AUTO_TREE_ROWS // rows) if has_tree else 0)

    def sampling(self, codes: int) -> Sampling:
        """The settings as the kernels of a step take them; `ar` is `gumbel` at a window of one."""
        rule = GUMBEL if self.decoder == "ar" else self.decoder
        return Sampling(
            codes,
            rule,
            self.new_drafts,
            self.cfg_scale,
            self.temperature,
            self.top_k,
            self.tree or 0,
            self.top_p,
            self.min_p,
        )


@dataclass(frozen=True)
class StepReport:
    """The progress of a run.

    `codes` [N,h,w] on the CPU include given codes; after the accepted ones they are drafts or 0. `accepted` [N] counts
    sampled codes, without given ones; `total` is the most codes to sample in a picture. `warm_up_seconds` went into
    compiling and capturing so far. `reached` [N] counts the codes of the grid, given ones too, up to the last accepted.
    """

    codes: Tensor
    accepted: tuple[int, ...]
    total: int
    nfe: int
    warm_up_seconds: float = 0.0
    reached: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """Complete rows of every picture."""
        return min(self.reached) // self.codes.shape[2]


@dataclass(frozen=True)
class DecodeResult:
    """A complete run.

    `codes` [N,h,w] int64 on the CPU, given ones included. `nfe`: forwards, without those of the prefill.
    `accept_lengths[k]`: tokens (ends of row and given codes included) that each forward accepted in picture k.
    `accept_step` [N,h,w]: the forward that accepted each code, 0 for the prefill, −1 for given codes. `log_likelihood`
    [N], in nats: the sum over a picture's sampled codes of the log of the guided probability, at the temperature, among
    all codes and given those before it, whatever top-k and decoder. `seconds`: wall time with prefill, of which
    `warm_up_seconds` went into compiling and capturing. `matmul_kernel` multiplied by the blocks' weights,
    `attention_kernel` attended over the cache, each with the reason. `given_log_likelihood` [N]: as `log_likelihood`,
    of the given codes after a picture's first drawn code; None unless the request scores them, or where there are none.
    """

    codes: Tensor
    nfe: int
    accept_lengths: tuple[tuple[int, ...], ...]
    accept_step: Tensor
    log_likelihood: tuple[float, ...]
    seconds: float
    warm_up_seconds: float = 0.0
    settings: DecodeSettings = field(default_factory=DecodeSettings)
    matmul_kernel: str = "not known"
    attention_kernel: str = "not known"
    given_log_likelihood: tuple[float, ...] | None = None

    @property
    def effective_sample_size(self) -> float | None:
        """How many pictures of the batch count, where each has the likelihood of its given codes as weight: 1 to N.

        Kish's (Σw)² / Σw² of importance weights w (Survey Sampling, 1965); None where the given codes are not scored.
        """
        if self.given_log_likelihood is None:
            return None
        weights = torch.tensor(self.given_log_likelihood, dtype=torch.float64).softmax(0)
        return float(1 / weights.square().sum())

    @property
    def sampled_tokens(self) -> int:
        """Sampled codes, over all pictures."""
        return int((self.accept_step >= 0).sum())

    @property
    def tokens_per_second(self) -> float | None:
        """Sampled tokens a second, over all pictures, without the warm-up; None where no time is left without it."""
        seconds = self.seconds - self.warm_up_seconds
        return self.sampled_tokens / seconds if seconds > 0 else None

    @property
    def log_likelihood_per_code(self) -> tuple[float, ...]:
        """`log_likelihood` per sampled code, to compare canvases of different sizes."""
        counts = (self.accept_step >= 0).sum((1, 2)).tolist()
        return tuple(nats / count for nats, count in zip(self.log_likelihood, counts, strict=True))

    @property
    def accept_histogram(self) -> dict[int, int]:
        """Accept length → number of forwards, over all pictures."""
        lengths = [length for picture in self.accept_lengths for length in picture]
        return {length: lengths.count(length) for length in sorted(set(lengths))}


def _number(name: str, value: Any, low: float, high: float, from_low: bool = True) -> Any:
    """The number, a plain one of Python: as it came where it is an int or float. It is `low` itself if `from_low`."""
    good = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= value <= high or (value == low and not from_low):
        span = f"from {low:g} to {high:g}" if from_low else f"above {low:g}, at most {high:g}"
        raise InputError(f"{name} is {value!r}; expected a number {span}")
    return value if type(value) in (int, float) else float(value)


def _whole(name: str, value: Any, low: int, high: int) -> int:
    number = as_whole(value)
    if number is None or not low <= number <= high:
        raise InputError(f"{name} is {value!r}; expected a whole number from {low} to {high}")
    return number


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
