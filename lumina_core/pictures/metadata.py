"""What a PNG file says of its picture: prompt, seed and settings, in text chunks.

`parameters` is in the form that the web UI of AUTOMATIC1111 writes and many programs read: the prompt, the negative
prompt if there is one, then one line of "name: value" pairs. `lumina_mgpt2` is a JSON object of the same values.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import InputError
from ..files.json_text import parse_json
from .sizes import Size, size_text

INFOTEXT, JSON_TEXT = "parameters", "lumina_mgpt2"
VERSION = "lumina-mgpt2"
# How a PNG file ends: an IEND chunk, which is empty, and its CRC.
_END = bytes.fromhex("00000000 49454e44 ae426082")
# A picture with another value of these is another picture. The others name what was used.
_DECIDING = (
    *("prompt", "task", "width", "height", "seed", "cfg", "top_k", "temperature", "decoder", "window"),
    *("weights", "kv", "model_id", "map", "object", "condition_id", "given_height", "mask_id", "top_p", "min_p"),
    *("negative", "loras"),
)


@dataclass(frozen=True)
class PictureSettings:
    """What decides a picture. None is what does not apply: a window, for a decoder whose picture it does not change;
    a `top_p` of 1, a `min_p` of 0.

    `steps` counts the drawn codes. `model`, `condition` and `mask` are names of files, `model_id`, `condition_id` and
    `mask_id` are fingerprints of their bytes. `weights`, `kv` and `dtype` are those that were used, where the user left
    it to auto. `loras` are the names of LoRA files, their strengths and fingerprints, as "file", "strength" and "id".
    """

    prompt: str
    task: str
    width: int
    height: int
    seed: int
    cfg: float
    top_k: int
    temperature: float
    decoder: str
    weights: str
    kv: str
    dtype: str
    steps: int
    model: str
    model_id: str
    window: int | None = None
    map: str | None = None
    object: str | None = None
    condition: str | None = None
    condition_id: str | None = None
    given_height: int | None = None
    mask: str | None = None
    mask_id: str | None = None
    top_p: float | None = None
    min_p: float | None = None
    negative: str | None = None
    loras: list[dict[str, str | float]] | None = None

    @property
    def size(self) -> Size:
        return self.width, self.height

    def values(self) -> dict[str, Any]:
        """The values that apply, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def difference(self, found: dict[str, Any], ignored: Collection[str] = ()) -> str | None:
        """Why a picture with the `found` values is another one; None where it is this one."""
        own = self.values()
        for name in _DECIDING:
            if name not in ignored and found.get(name) != own.get(name):
                return f"its {name} is {found.get(name)!r:.60} and not {own.get(name)!r:.60}"
        return None


@dataclass(frozen=True)
class PictureFile:
    """A picture that lies in a folder; `values` are those of PictureSettings, None where it carries none."""

    size: Size
    values: dict[str, Any] | None


def png_texts(settings: PictureSettings) -> PngInfo:
    """The text chunks of a picture: iTXt in UTF-8 for what is not ASCII, which readers of tEXt disagree about."""
    chunks = PngInfo()
    for name, text in ((INFOTEXT, infotext(settings)), (JSON_TEXT, json.dumps(settings.values(), ensure_ascii=False))):
        (chunks.add_text if text.isascii() else chunks.add_itxt)(name, text)
    return chunks


def infotext(settings: PictureSettings) -> str:
    """The prompt, the negative one, and after them the line of settings.

    Values with a comma, a colon or a line break are quoted.
    """
    values: dict[str, object] = {
        "Steps": settings.steps,
        "Sampler": settings.decoder,
        "CFG scale": settings.cfg,
        "Seed": settings.seed,
        "Size": size_text(settings.size),
        "Model": settings.model,
        "Temperature": settings.temperature,
        "Top K": settings.top_k,
        "Top P": settings.top_p,
        "Min P": settings.min_p,
        "Window": settings.window,
        "Task": settings.task,
        "Map": settings.map,
        "Object": settings.object,
        "Condition": settings.condition,
        "Given height": settings.given_height,
        "Mask": settings.mask,
        "LoRA": ", ".join(f"{one['file']}:{one['strength']:g}" for one in settings.loras or ()) or None,
        "Weights": settings.weights,
        "KV cache": None if settings.kv == "auto" else settings.kv,
        "Version": VERSION,
    }
    pairs = ", ".join(f"{name}: {_quoted(value)}" for name, value in values.items() if value is not None)
    negative = "" if settings.negative is None else f"Negative prompt: {settings.negative}\n"
    return f"{settings.prompt}\n{negative}{pairs}".replace("\0", "\ufffd")  # which no text chunk can hold


def read_picture_file(path: Path) -> PictureFile:
    """Size and settings of a picture. Raises InputError for what is no whole picture."""
    try:
        with Image.open(path) as image:
            if image.format != "PNG":
                image.load()
                return PictureFile(image.size, None)
            size, text = image.size, image.info.get(JSON_TEXT)
        with path.open("rb") as file:
            file.seek(-len(_END), 2)
            if file.read() != _END:
                raise InputError("its end is missing")
    except Exception as error:  # decoders raise anything
        raise InputError(f"{path} is no whole picture ({_reason(error)})") from error
    return PictureFile(size, None if text is None else _parse(text))


def _parse(text: str) -> dict[str, Any] | None:
    with contextlib.suppress(InputError):
        return parse_json(text, JSON_TEXT, InputError)
    return None


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def _quoted(value: object) -> str:
    """A value as it stands among the pairs; numbers without a fraction of zero."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(letter in text for letter in ',:"\n') else text
