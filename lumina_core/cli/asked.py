"""What one prompt asks for, from the options of a command or of a line in a file of prompts."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import torch

from ..checkpoint.find import Checkpoint
from ..decoding.build_request import build_request, check_candidates
from ..decoding.request import Request
from ..decoding.settings import DecodeSettings
from ..errors import InputError
from ..pictures.images import load_picture
from ..pictures.masks import canvas_mask
from ..pictures.panels import condition_pixels, given_size
from ..pictures.sizes import CODE_PIXELS
from ..tokens.prompt_text import PromptText
from ..tokens.prompts import build_negative, build_prompt
from ..tokens.task_inputs import check_condition, is_whole
from ..tokens.token_files import is_token_file, read_token_lists, rows_to_continue

TokenLists = list[list[int]]


@dataclass(frozen=True)
class Asked:
    """A prompt and a negative one in the words of their task.

    `kept` are the tokens of a begun picture, where those are the condition.
    """

    options: argparse.Namespace
    text: PromptText
    kept: TokenLists | None
    negative: PromptText | None = None

    @classmethod
    def of(cls, options: argparse.Namespace, kept: TokenLists | None) -> Asked:
        """Raises InputError for inputs that the task does not take, or lacks."""
        is_continued, is_masked = options.given_height is not None or kept is not None, options.mask is not None
        check_condition(options.task, options.condition is not None, is_continued, is_masked)
        place, inputs = (options.task, options.width, options.height), (options.map, options.object)
        text = build_prompt(*place, options.prompt, *inputs)
        return cls(options, text, kept, build_negative(*place, options.negative, *inputs))

    @property
    def is_whole(self) -> bool:
        """Whether the condition is the whole canvas."""
        return is_whole(self.options.task, self.options.mask is not None)

    def request(self, checkpoint: Checkpoint) -> Request:
        """The request. A condition is not encoded yet: rows of code 0 stand for it; kept rows have their codes."""
        options = self.options
        settings = DecodeSettings(
            cfg_scale=options.cfg,
            top_k=options.top_k,
            temperature=options.temperature,
            seed=options.seed,
            decoder=options.decoder,
            window_size=options.window,
            tree=options.tree,
            kv_cache=options.kv,
            top_p=options.top_p,
            min_p=options.min_p,
        )
        size = options.width, options.height
        pictures = check_candidates(options.candidates, options.batch, options.mask is not None)
        request = build_request(checkpoint, self.text, *size, pictures, settings=settings, negative=self.negative)
        if options.condition is None:
            return request
        if options.mask is not None:
            marked, picture = load_picture(options.mask), load_picture(options.condition)
            mask = canvas_mask(marked, picture.size, *size, self.is_whole)
            codes, score = torch.zeros_like(mask, dtype=torch.int64), options.candidates > 1
            return replace(request, given_codes=codes, mask=mask, score_given=score)
        if self.kept is not None:
            return replace(request, given_codes=_kept_rows(options, checkpoint, self.kept))
        width, height = given_size(*size, options.given_height)
        given = torch.zeros(height // CODE_PIXELS, width // CODE_PIXELS, dtype=torch.int64)
        return replace(request, given_codes=given)

    def pixels(self) -> torch.Tensor | None:
        """The condition [1,3,h,w] that is to be encoded; None where there is none. Raises InputError."""
        options = self.options
        if options.condition is None or self.kept is not None:
            return None
        size = options.width, options.height, options.given_height
        return condition_pixels(load_picture(options.condition), *size, self.is_whole)


def kept_lists(options: argparse.Namespace) -> TokenLists | None:
    """The tokens of a begun picture where the condition is a file of them; as many pictures are drawn."""
    if options.condition is None or not is_token_file(options.condition):
        return None
    lists = read_token_lists(options.condition)
    options.batch = len(lists) if options.batch == 1 else options.batch
    if len(lists) not in (1, options.batch):
        raise InputError(
            f"{options.condition} holds {len(lists)} pictures and the batch is {options.batch}; expected as many"
        )
    return lists


def _kept_rows(options: argparse.Namespace, checkpoint: Checkpoint, kept: TokenLists) -> torch.Tensor:
    """Codes [N,rows,w] of begun pictures. Raises InputError for those of another size, or too few rows."""
    begun = rows_to_continue(kept, checkpoint.vocabulary, str(options.condition))
    size, wanted = f"{begun.grid_w * CODE_PIXELS}x{begun.grid_h * CODE_PIXELS}", f"{options.width}x{options.height}"
    if size != wanted:
        raise InputError(f"the picture begun in {options.condition} is {size} and the canvas {wanted}; expected {size}")
    rows = begun.codes.shape[1]
    if options.given_height is None:
        if rows == begun.grid_h:
            raise InputError(
                f"{options.condition} holds a whole picture; at least one row must be left to draw: `decode` converts "
                "it to a picture, and --given-height draws it again from a row on"
            )
        return begun.codes
    _, height = given_size(options.width, options.height, options.given_height)
    if height > rows * CODE_PIXELS:
        raise InputError(
            f"the given height is {height} and {options.condition} holds {rows} complete rows; expected at most "
            f"{rows * CODE_PIXELS}"
        )
    return begun.codes[:, : height // CODE_PIXELS]
