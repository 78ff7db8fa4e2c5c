"""A request of a prompt's text, checked against a model."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from ..checkpoint.config import TransformerConfig
from ..errors import CheckpointError, InputError
from ..pictures.sizes import CODE_PIXELS, SizeLimits, check_size, known_sizes, warn_if_untrained, whole_number
from ..tokens.tokenizer import Tokenizer
from ..tokens.vocabulary import Vocabulary
from .request import Request
from .settings import DecodeSettings

logger = logging.getLogger(__name__)


class Described(Protocol):
    """What a request needs to know of a model: that of a loaded one, or of a checkpoint."""

    @property
    def config(self) -> TransformerConfig: ...
    @property
    def vocabulary(self) -> Vocabulary: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...


def build_request(
    model: Described,
    text: str,
    width: int,
    height: int,
    batch: int = 1,
    given_codes: Tensor | None = None,
    settings: DecodeSettings | None = None,
    negative: str | None = None,
) -> Request:
    """A request for `batch` pictures of a full prompt, checked against a model that need not be loaded.

    `given_codes` [h0,w] or [batch,h0,w] are the first rows. `negative` is the full prompt of the unconditional branch,
    which has none for None. The template of a PromptText is encoded with special tokens, what a user typed, and a plain
    string, without. Raises InputError, and CheckpointError where the tokenizer does not fit the model; warns about an
    untrained size.
    """
    if (batch := whole_number("batch", batch, "pictures, at least 1")) < 1:
        raise InputError(f"batch is {batch}; expected at least 1 picture")
    if model.tokenizer is None:
        raise InputError("the model has no tokenizer; expected one, to encode the prompt")
    grid_h, grid_w = check_size(width, height, _limits(model.config, model.vocabulary))
    prompts = [_encode_prompt(model.tokenizer, text, model.config)] * batch
    request = Request(prompts, grid_h, grid_w, given_codes, settings or DecodeSettings())
    if negative is not None and not request.settings.guided:
        logger.warning("The negative prompt is ignored: with cfg 1 there is no unconditional branch to read it.")
    elif negative is not None:
        ids = _encode_prompt(model.tokenizer, negative, model.config)
        request = replace(request, negative_prompts=[ids] * batch)
    check_request(request, model.config, model.vocabulary)
    warn_if_untrained(width, height, model.config.trained_sizes)
    return request


def _encode_prompt(tokenizer: Tokenizer, text: str, config: TransformerConfig) -> list[int]:
    """Ids of a prompt. Raises CheckpointError for ids that the model does not have, and for ids of image codes."""
    ids = tokenizer.encode_prompt(text)
    if of_codes := [one for one in ids if one in config.code_range]:
        fault = f"{of_codes[0]}, which is that of an image code; expected ids of text"
    elif max(ids) >= config.vocab_size:
        fault = f"{max(ids)}; expected ids below vocab_size, {config.vocab_size}"
    else:
        return ids
    raise CheckpointError(
        f"{tokenizer.source} gives the prompt the id {fault}: the tokenizer is of another model, so download it again"
    )


def check_request(request: Request, config: TransformerConfig, vocabulary: Vocabulary) -> None:
    """Raises InputError for a request that the model cannot draw."""
    width, height = request.grid_w * CODE_PIXELS, request.grid_h * CODE_PIXELS
    check_size(width, height, _limits(config, vocabulary), request.longest_prompt)


def _limits(config: TransformerConfig, vocabulary: Vocabulary) -> SizeLimits:
    return SizeLimits(config.max_position_embeddings, vocabulary.max_side, tuple(known_sizes(config.trained_sizes)))


def check_candidates(candidates: int, batch: int, is_masked: bool) -> int:
    """The pictures to draw at once. Raises InputError for candidates without a mask, and of several pictures."""
    if (candidates := whole_number("candidates", candidates, "pictures, at least 1")) < 1:
        raise InputError(f"candidates is {candidates}; expected at least 1 picture")
    if candidates == 1:
        return batch
    if not is_masked:
        raise InputError("candidates came without a mask; expected one, whose given codes rank them")
    if batch != 1:
        raise InputError(f"{candidates} candidates and a batch of {batch} came together; expected one of them")
    return candidates
