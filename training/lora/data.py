"""Training data of a LoRA: a folder of pictures with a caption of the same name beside each."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lumina_core.checkpoint.find import Checkpoint
from lumina_core.errors import InputError
from lumina_core.movqgan.autoencoder import MoVQGAN
from lumina_core.movqgan.codec import encode_picture
from lumina_core.pictures.images import center_crop, load_picture, to_pixels
from lumina_core.pipeline import build_request
from lumina_core.tokens.prompts import build_prompt

logger = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
CAPTION = ".txt"
NAMED = 5


@dataclass(frozen=True)
class Captioned:
    """A picture file and its caption."""

    picture: Path
    caption: str


@dataclass(frozen=True)
class Task:
    """What the pictures are: a task of `build_prompt` and the size of the canvas in pixels."""

    name: str
    width: int
    height: int
    map: str | None = None
    object: str | None = None

    def prompt_ids(self, checkpoint: Checkpoint, captions: Iterable[str]) -> list[list[int]]:
        """The ids of the full prompts. Raises InputError for a size or a prompt that the model cannot draw."""
        texts = [build_prompt(self.name, self.width, self.height, one, self.map, self.object) for one in captions]
        longest = max(texts, key=lambda text: len(checkpoint.tokenizer.encode_prompt(text)))
        build_request(checkpoint, longest, self.width, self.height)
        return [checkpoint.tokenizer.encode_prompt(text) for text in texts]


@dataclass(frozen=True)
class TrainingData:
    """Ids of the prompts, and the codes [N,h,w] of the pictures."""

    prompts: Sequence[Sequence[int]]
    codes: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def digest(self) -> str:
        """A hash of everything."""
        said = repr([list(prompt) for prompt in self.prompts]).encode()
        return hashlib.sha256(said + self.codes.to(torch.int32).numpy().tobytes()).hexdigest()


def read_folder(folder: Path) -> list[Captioned]:
    """The pictures of a folder, by name, with their captions.

    Warns of captions without a picture. Raises InputError for a folder without pictures, and naming the pictures that
    have no caption or an empty one.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; expected a folder of pictures with captions beside them")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not pictures:
        raise InputError(f"{folder} holds no picture; expected files of {', '.join(SUFFIXES)}")
    lacking = [path.name for path in pictures if not path.with_suffix(CAPTION).is_file()]
    if lacking:
        raise InputError(
            f"{len(lacking)} of {len(pictures)} pictures in {folder} have no caption: {_listed(lacking)}; expected a "
            f"text file of the same name beside each, as {Path(lacking[0]).with_suffix(CAPTION)}"
        )
    stems = {path.stem for path in pictures}
    alone = [path.name for path in files if path.suffix.lower() == CAPTION and path.stem not in stems]
    if alone:
        logger.warning("%d captions in %s have no picture and are not used: %s", len(alone), folder, _listed(alone))
    return _captioned(pictures, folder)


def _captioned(pictures: Sequence[Path], folder: Path) -> list[Captioned]:
    found = [Captioned(path, _read_text(path.with_suffix(CAPTION))) for path in pictures]
    empty = [one.picture.with_suffix(CAPTION).name for one in found if not one.caption]
    if empty:
        raise InputError(f"{len(empty)} captions in {folder} are empty: {_listed(empty)}; expected what is to be seen")
    return found


def read_prompts(file: Path) -> list[str]:
    """The prompts of a text file, one a line. Raises InputError where there is none."""
    prompts = [line.strip() for line in _read_text(file).splitlines() if line.strip()]
    if not prompts:
        raise InputError(f"{file} holds no prompt; expected one a line")
    return prompts


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8 (byte {error.start}); save it as UTF-8") from error


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


@torch.inference_mode()
def encode(pictures: Iterable[Path], movqgan: MoVQGAN, width: int, height: int) -> Tensor:
    """Codes [N,h,w] on the CPU of pictures, each scaled to cover `width` by `height` pixels and cropped."""
    codes = []
    for path in pictures:
        pixels = to_pixels(center_crop(load_picture(path), (width, height)))
        codes.append(encode_picture(movqgan, pixels.to(movqgan.weight_device)).cpu())
    return torch.cat(codes)
