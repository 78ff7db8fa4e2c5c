"""The windows on which the kernels that move one are compared with their references, by the case's name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina_core.kernels.window_samples import (
    HEADER,
    ROW_LENGTH,
    ROWS,
    accept_window_sample,
    draw_window_sample,
    embed_window_sample,
    keep_branch_sample,
    place_drafts_sample,
)
from lumina_core.kernels.window_state import (
    ABOVE,
    COUPLED,
    GUESS,
    GUMBEL,
    NEW_DRAFTS,
    RULES,
    Drawn,
    Sampling,
    WindowState,
)

BF16, FP32 = torch.bfloat16, torch.float32
Device = torch.device | str
Make = Callable[..., tuple[Any, ...]]
# Of the last accepted tokens of two pictures: before anything is drawn, in the first row and at its end, and at the end
# of a row and of the picture.
BEFORE, FIRST_ROW = (HEADER - 1, HEADER - 1), (HEADER + 2, HEADER + ROW_LENGTH - 2)
ENDS = (HEADER + 2 * ROW_LENGTH - 1, HEADER + ROWS * ROW_LENGTH - 2)
# From where a forward of six tokens reaches an end of row, after which new drafts come.
ROW_AHEAD = (HEADER + ROW_LENGTH - 7, HEADER + 3 * ROW_LENGTH - 7)


class WindowCase(NamedTuple):
    """A kernel, how its arguments are made, and the sizes that these take."""

    kernel: str
    make: Make
    sizes: dict[str, Any]


def at(places: tuple[int, int], make: Make, device: Device, **sizes: Any) -> tuple[Any, ...]:
    """Arguments whose pictures' last accepted tokens are at these places."""
    arguments = make(device, **sizes)
    state = window_of(arguments)
    state.pos.copy_(torch.tensor(places))
    return tuple(drawn_there(state, each) if isinstance(each, Drawn) else each for each in arguments)


def drawn_there(state: WindowState, drawn: Drawn) -> Drawn:
    """A draw with its forced tokens where the window is, and no other code that is as that of an end of row."""
    width = drawn.tokens.shape[1]
    index = state.indices(1, width - len(state.tree))
    forced, known = state.forced.gather(1, index), state.tokens.gather(1, index)
    codes = (1 + (part + state.slot[:width]) % (state.sampling.codes - 1) for part in (drawn.tokens, drawn.fresh))
    tokens, fresh = (torch.where(forced, known, part) for part in codes)
    state.heads.copy_(tokens[:, state.lanes[:, 0] - 1])
    return Drawn(tokens, fresh, drawn.agree | forced, drawn.log_probs, drawn.others)


def narrow(width: int, make: Make, device: Device, **sizes: Any) -> tuple[Any, ...]:
    """Arguments of a forward that is narrower than the window."""
    arguments = make(device, **sizes)
    window_of(arguments).accepted.clamp_(max=width)
    cut = {Drawn: lambda drawn: Drawn(*(part[:, :width].contiguous() for part in drawn)), int: lambda _: width}
    return tuple(cut.get(type(each), lambda same: same)(each) for each in arguments)


def copied(device: Device, **sizes: Any) -> tuple[Any, ...]:
    """Arguments of `draw_window` whose drafts are certain: their distributions have one code each."""
    logits, state, width = draw_window_sample(device, **sizes)
    drafts = state.tokens.gather(1, state.index(1, state.window - 1))
    state.draft_probs.copy_(F.one_hot(drafts, state.sampling.codes))
    return logits, state, width


def unchanged(device: Device, **sizes: Any) -> tuple[Any, ...]:
    """Arguments of `draw_window` whose drafts were drawn from what the model now gives them, but for rounding."""
    logits, state, width = draw_window_sample(device, **sizes)
    assert not state.sampling.guided and state.sampling.top_k >= state.sampling.codes, "p is no softmax of the logits"
    state.draft_probs.copy_((logits.float() / state.sampling.temperature).softmax(-1)[:, : state.window - 1])
    return logits, state, width


def sharp(device: Device, **sizes: Any) -> tuple[Any, ...]:
    """Arguments of `draw_window` with logits so large that most probabilities are 0."""
    logits, *others = draw_window_sample(device, **sizes)
    return (logits * 30, *others)


def unguided(device: Device, **sizes: Any) -> tuple[WindowState, int, Tensor, Tensor, Tensor, float]:
    """Arguments of `embed_window` without an unconditional branch."""
    state, *others = embed_window_sample(device, **sizes)
    return replace(state, offset=state.offset[: len(state.pos)].clone()), *others


def window_of(arguments: tuple[Any, ...]) -> WindowState:
    (state,) = (each for each in arguments if isinstance(each, WindowState))
    return state


def sampling(rule: str, way: str, turn: int = 0, **changes: Any) -> Sampling:
    """A rule and new drafts, in turn guided or not, with a top-k that cuts or does not, and with so many codes."""
    codes = (50, 300, 7, 1000)[turn % 4]
    cut = turn // 2 % 2 == 0
    scale = (3.0, 1.0)[turn % 2]
    values = {"cfg_scale": scale, "temperature": 0.7, "top_k": max(2, codes // 4) if cut else 4096, **changes}
    return Sampling(**{"codes": codes, "rule": rule, "new_drafts": way, **values})


def draw(make: Make = draw_window_sample, dtype: torch.dtype = FP32, **sizes: Any) -> WindowCase:
    return WindowCase("draw_window", make, {"dtype": dtype, **sizes})


def draws() -> dict[str, WindowCase]:
    """All rules and ways, then what a rule or a number of codes may get wrong."""
    every = {
        f"draw, {rule}, {way}": draw(
            dtype=(BF16, FP32)[turn // 3 % 2],
            sampling=sampling(rule, way, turn),
            window=(5, 2, 4)[turn % 3],
            slots=(None, 8)[turn % 2],
        )
        for turn, (rule, way) in enumerate(itertools.product(RULES, NEW_DRAFTS))
    }
    for rule in RULES:
        # Of one kind, so that a GPU's compiler has less to do.
        one = sampling(rule, GUESS, codes=60)
        plain = sampling(rule, "left", codes=60, cfg_scale=1.0, top_k=60)
        every |= {
            f"draw, {rule}, one token": draw(window=1, sampling=one),
            f"draw, {rule}, narrow": draw(partial(narrow, 2, draw_window_sample), sampling=one),
            f"draw, {rule}, first token": draw(
                partial(at, BEFORE, partial(narrow, 1, draw_window_sample)), sampling=one, slots=4
            ),
            f"draw, {rule}, ends": draw(partial(at, ENDS, draw_window_sample), sampling=one),
            f"draw, {rule}, one of the codes": draw(sampling=replace(one, top_k=1)),
            f"draw, {rule}, three codes": draw(dtype=BF16, sampling=sampling(rule, GUESS, codes=3, top_k=2)),
            f"draw, {rule}, one code": draw(sampling=sampling(rule, GUESS, codes=1, top_k=1)),
            f"draw, {rule}, ties": draw(dtype=BF16, sampling=sampling(rule, GUESS, 1, codes=1000, top_k=250)),
            f"draw, {rule}, 16,384 codes": draw(window=2, sampling=sampling(rule, GUESS, codes=16_384, top_k=4096)),
            f"draw, {rule}, sharp": draw(sharp, sampling=plain),
        }
        if rule != GUMBEL:
            every[f"draw, {rule}, copied"] = draw(copied, sampling=sampling(rule, "left", codes=5, top_k=3))
            every[f"draw, {rule}, unchanged"] = draw(unchanged, sampling=plain)
    # Each with other parts of the cut, of two kinds of code: no rule's cut is its own.
    for name, asked in (
        ("top-p", sampling(GUMBEL, ABOVE, 3, top_p=0.9)),
        ("top-p, ties", sampling(GUMBEL, GUESS, 1, codes=1000, top_k=250, top_p=0.5, min_p=0.02)),
        ("top-p of 16,384", sampling(COUPLED, GUESS, codes=16_384, top_p=0.95, min_p=0.05)),
        ("min-p", sampling(COUPLED, GUESS, 1, codes=1000, top_k=250, min_p=0.3)),
    ):
        every[f"draw, {asked.rule}, {name}"] = draw(dtype=BF16, window=2, sampling=asked)
    for turn, (tree, window, slots) in enumerate(((1, 2, None), (16, 7, 9), (40, 12, None))):
        asked = sampling(GUMBEL, GUESS, turn, tree=tree)
        every[f"draw, tree of {tree}"] = draw(dtype=(BF16, FP32)[turn % 2], sampling=asked, window=window, slots=slots)
        every[f"draw, tree of {tree}, ends"] = draw(
            partial(at, ENDS, draw_window_sample), sampling=asked, window=window, slots=slots
        )
    return every


def accept(make: Make = accept_window_sample, **sizes: Any) -> WindowCase:
    return WindowCase("accept_window", make, sizes)


def accepts() -> dict[str, WindowCase]:
    every = {}
    for rule, way in itertools.product(RULES, NEW_DRAFTS):
        name, asked = f"accept, {rule}, {way}", {"sampling": sampling(rule, way)}
        every[name] = accept(**asked)
        every[f"{name}, narrow"] = accept(partial(narrow, 3, accept_window_sample), **asked, window=7)
        every[f"{name}, first token"] = accept(partial(at, BEFORE, partial(narrow, 1, accept_window_sample)), **asked)
        every[f"{name}, first row"] = accept(partial(at, FIRST_ROW, accept_window_sample), **asked, window=6)
        every[f"{name}, row ahead"] = accept(partial(at, ROW_AHEAD, accept_window_sample), **asked, window=6)
        every[f"{name}, ends"] = accept(partial(at, ENDS, accept_window_sample), **asked)
        if way == ABOVE:
            every[f"{name}, two tokens"] = accept(**asked, window=2)
            # Longer than two rows, so that the code above a new draft may be one of the window's.
            every[f"{name}, wide"] = accept(**asked, window=2 * ROW_LENGTH + 2)
    for way, (tree, window) in itertools.product(NEW_DRAFTS, ((1, 2), (16, 7), (16, 2 * ROW_LENGTH + 2))):
        name, asked = f"accept, tree of {tree}, {way}, W {window}", {"sampling": sampling(GUMBEL, way, tree=tree)}
        every[name] = accept(**asked, window=window)
        every[f"{name}, row ahead"] = accept(partial(at, ROW_AHEAD, accept_window_sample), **asked, window=window)
    asked = {"sampling": sampling(GUMBEL, GUESS, tree=16), "window": 7}
    every["accept, tree, ends"] = accept(partial(at, ENDS, accept_window_sample), **asked)
    return every | {f"accept, {rule}, one token": accept(sampling=sampling(rule, GUESS), window=1) for rule in RULES}


def place(make: Make = place_drafts_sample, **sizes: Any) -> WindowCase:
    return WindowCase("place_drafts", make, sizes)


def places() -> dict[str, WindowCase]:
    """The rules and ways that have something to place."""
    every = {}
    for turn, (rule, way) in enumerate(itertools.product(RULES, NEW_DRAFTS)):
        if rule == GUMBEL and way != GUESS:
            continue
        name, asked = f"place, {rule}, {way}", {"sampling": sampling(rule, way, turn)}
        every[name] = place(**asked)
        every[f"{name}, two tokens"] = place(**asked, window=2)
        every[f"{name}, narrow"] = place(partial(narrow, 1, place_drafts_sample), **asked, window=4)
        every[f"{name}, ends"] = place(partial(at, ENDS, place_drafts_sample), **asked, window=3)
    return every | {f"place, {rule}, one code": place(sampling=sampling(rule, GUESS, codes=1)) for rule in RULES}


def embed(make: Make = embed_window_sample, **sizes: Any) -> WindowCase:
    return WindowCase("embed_window", make, sizes)


SMALL: Mapping[str, WindowCase] = {
    "embed, bf16": embed(dtype=BF16),
    "embed, fp32": embed(dtype=FP32, size=64, slots=1),
    "embed, unguided": embed(unguided, dtype=FP32, size=20, slots=ROW_LENGTH + 2),
    "embed, tree": embed(dtype=BF16, size=64, slots=7, tree=16),
    "embed, tree, ends": embed(partial(at, ENDS, embed_window_sample), dtype=FP32, size=40, slots=3, tree=3),
    "embed, tree, row ahead": embed(partial(at, ROW_AHEAD, embed_window_sample), dtype=FP32, size=9, slots=12, tree=40),
    "embed, ends": embed(partial(at, ENDS, embed_window_sample), dtype=BF16, size=1000, slots=2),
    **draws(),
    **accepts(),
    **places(),
    **{
        f"keep branch, {kv_cache}": WindowCase(
            "keep_branch",
            keep_branch_sample,
            {"dtype": dtype, "kv_cache": kv_cache, "sampling": Sampling(50, cfg_scale=scale, tree=16), "window": 9},
        )
        for kv_cache, dtype, scale in (("auto", BF16, 1.0), ("int8", BF16, 3.0), ("int4", FP32, 3.0))
    },
}
# The published model's.
LARGE: Mapping[str, WindowCase] = {
    "embed, 32 slots": embed(dtype=BF16, size=4096, slots=32),
    **{
        f"{kernel}, {rule}, W {window}": WindowCase(kernel, make, {**sizes, "sampling": asked, "window": window})
        for rule, window in itertools.product(RULES, (1, 64))
        for asked in [sampling(rule, GUESS, codes=16_384, top_k=4096)]
        for kernel, make, sizes in (
            ("draw_window", draw_window_sample, {"dtype": BF16}),
            ("accept_window", accept_window_sample, {}),
            ("place_drafts", place_drafts_sample, {}),
        )
        if window > 1 or kernel != "place_drafts"
    },
}
