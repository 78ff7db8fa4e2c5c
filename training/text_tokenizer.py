"""Trains the demo checkpoint's text tokenizer: byte-level BPE in the published file form."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from lumina_core.tokens.prompts import MAPS, build_prompt

from .world import sample_scene, training_rng

MERGES = 640
CAPTIONS = 6000
END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (
    END_OF_TEXT,
    "<racm3:break>",
    "<eoss>",
    "<reserved08799>",
    "<reserved08706>",
    *(f"<reserved{8800 + units:05d}>" for units in range(33)),
)
SIZES = ((96, 96), (96, 192), (128, 128), (512, 512), (768, 768), (768, 1536))
TASKS, TASK_PROMPT_EVERY = ("t2i", "pair", "control", "subject", "edit", "predict"), 8


def train_text_tokenizer(folder: str | Path, seed: int) -> Tokenizer:
    """Trains on prompts of the demo world and writes `tokenizer.json` and `tokenizer_config.json` into `folder`.

    It has at most 256 byte tokens, 640 merges and the special tokens, which come last. The same seed gives the same
    files.
    """
    tokenizer = _byte_level_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + MERGES,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(prompts(seed, CAPTIONS), trainer)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIAL_TOKENS])
    _write(tokenizer, Path(folder))
    return tokenizer


def prompts(seed: int, count: int) -> Iterator[str]:
    """`count` full prompts: most are text to image at 96x96, every eighth is another task or another size."""
    rng = training_rng(seed)
    for index in range(count):
        caption = sample_scene(rng)[1]
        if index % TASK_PROMPT_EVERY:
            yield build_prompt("t2i", *SIZES[0], caption)
        else:
            yield _task_prompt(index // TASK_PROMPT_EVERY, caption)


def _task_prompt(index: int, caption: str) -> str:
    task, size = TASKS[index % len(TASKS)], SIZES[index // len(TASKS) % len(SIZES)]
    return build_prompt(task, *size, caption, map=tuple(MAPS)[index % len(MAPS)], object=caption)


def _byte_level_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _write(tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(_as_json(json.loads(tokenizer.to_str())), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(_as_json(_tokenizer_config(tokenizer)), encoding="utf-8")


def _tokenizer_config(tokenizer: Tokenizer) -> dict[str, object]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(name)): {"content": name, **flags} for name in SPECIAL_TOKENS
        },
        "add_prefix_space": False,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "errors": "replace",
        "model_max_length": 4096,
        "pad_token": END_OF_TEXT,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _as_json(values: dict[str, object]) -> str:
    return json.dumps(values, ensure_ascii=False, indent=1) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tokenizer = train_text_tokenizer(arguments.folder, arguments.seed)
    print(f"{tokenizer.get_vocab_size()} tokens written to {arguments.folder}")


if __name__ == "__main__":
    main()
