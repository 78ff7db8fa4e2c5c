"""Names of a checkpoint's tensors: wrappers of trainers removed, what is of no use left out."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from ..errors import CheckpointError
from .published import EMBEDDING, HEAD, UNUSED_PREFIX

logger = logging.getLogger(__name__)

BASE = "model."
_HEAD_LAYER = HEAD.removesuffix("weight")
# What trainers put into names: DataParallel, torch.compile, FSDP, activation checkpointing.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
_WRAPPER = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(WRAPPERS)})\.")
# Buffers that older versions of transformers store, which follow from the config, and state of TransformerEngine.
_BUFFER = re.compile(
    r"\._extra_state$|\.rotary_emb\.((original_)?inv_freq|cos_cached|sin_cached)$|\.(masked_bias|attn\.bias)$"
)


def published_names(stored: Iterable[str], source: str, anchors: tuple[str, ...] = (EMBEDDING, HEAD)) -> dict[str, str]:
    """The published name of each stored name, without wrappers and without the prefix before an anchor's name.

    `anchors` are names that every such file holds. Raises CheckpointError when two tensors get one name.
    """
    plain = {name: _WRAPPER.sub("", name) for name in stored}
    prefix = _prefix(plain.values(), anchors)
    plain = {name: one.removeprefix(prefix) for name, one in plain.items()}
    if EMBEDDING in anchors and EMBEDDING.removeprefix(BASE) in plain.values():  # the base model was saved, and a head
        plain = {name: one if one.startswith(_HEAD_LAYER) else BASE + one for name, one in plain.items()}
    if changed := [name for name, one in plain.items() if name != one]:
        logger.info("%s: `%s` is read as `%s`, and others alike", source, changed[0], plain[changed[0]])
    found: dict[str, str] = {}
    for name, one in plain.items():
        if one in found:
            raise CheckpointError(
                f"{source} holds both `{found[one]}` and `{name}`; expected one of them: save the model without its "
                "copies"
            )
        found[one] = name
    return plain


def is_unused(name: str) -> bool:
    """Whether a tensor is of no use: of the unused VQ model, or a buffer of the rotary embedding."""
    return name.startswith(UNUSED_PREFIX) or _BUFFER.search(name) is not None


def _prefix(names: Iterable[str], anchors: tuple[str, ...]) -> str:
    """What stands before an anchor's name in all of its occurrences; empty where an anchor has its own name."""
    found = {name.removesuffix(anchor) for name in names for anchor in anchors if name.endswith(anchor)}
    whole = {prefix for prefix in found if not prefix or prefix.endswith(".")}
    return min(whole, key=len) if whole else ""
