"""What a file is, by its first bytes and its size: one look, before anything is read from it."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from ..errors import LuminaError

FIRST_BYTES = 4096
SAFETENSORS, ZIP, PICKLE = "safetensors", "zip", "pickle"
# The most bytes of a header that the safetensors library reads.
MAX_HEADER_BYTES = 100_000_000
_BRANDS_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BEGINS = (
    (b"version https://git-lfs.github.com/spec/", "lfs"),
    (b"GGUF", "gguf"),
    (b"PK\x03\x04", ZIP),
    (b"%!PS", "eps"),
    (b"\xc5\xd0\xd3\xc6", "eps"),
    (b"%PDF", "pdf"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!", "rar"),
    (b"\x89HDF", "hdf5"),
)
_WORDS = {
    "lfs": "a Git LFS pointer, not the file itself: run `git lfs pull`, or download the file",
    "html": "a web page, not the file itself: the download failed or needs a login; download it again",
    "gguf": "a GGUF file, which this program does not read",
    "empty": "empty: download it again",
    "zeros": "all zeros: the download never finished; download it again",
    SAFETENSORS: "a safetensors file",
    ZIP: "a PyTorch file (.ckpt, .pth, .bin) or another zip archive",
    PICKLE: "a PyTorch pickle (.ckpt, .pth, .bin)",
    "json": "JSON text",
    "text": "a text file",
    "eps": "an EPS or PostScript file: convert it to PNG",
    "pdf": "a PDF file",
    "png": "a PNG picture",
    "jpeg": "a JPEG picture",
    "webp": "a WebP picture",
    "heic": "a HEIC picture, as phones take them: convert it to JPEG or PNG",
    "avif": "an AVIF picture: convert it to PNG",
    "gzip": "a gzip archive: unpack it first",
    "zstd": "a Zstandard archive: unpack it first",
    "7z": "a 7z archive: unpack it first",
    "rar": "a RAR archive: unpack it first",
    "hdf5": "an HDF5 file",
    "unknown": "damaged or of a kind that this program does not know: download it again",
}


@dataclass(frozen=True)
class FileKind:
    """`name` of a kind of file, such as safetensors, zip, lfs, html or heic, and the file's `size` in bytes."""

    name: str
    size: int

    def __str__(self) -> str:
        """What the file is and what to do, for "the file is ..."."""
        return _WORDS[self.name]


def look_at(path: Path, error: type[LuminaError], expected: str) -> FileKind:
    """The kind of a file. Raises `error`, naming the `expected` file, unless it is a regular file that can be read."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device, not a file"
            raise error(f"{path} is {what}; expected {expected}")
        with path.open("rb") as file:
            return FileKind(_name(file.read(FIRST_BYTES), size := path.stat().st_size, path), size)
    except error:  # InputError is a ValueError
        raise
    except FileNotFoundError as cause:
        raise error(f"file {path} is missing; expected {expected}") from cause
    except (OSError, ValueError) as cause:  # ValueError: a name with a null character
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"cannot read {path}: {reason}; expected {expected}") from cause


def _name(first: bytes, size: int, path: Path) -> str:
    if not size:
        return "empty"
    for begin, name in _BEGINS:
        if first.startswith(begin):
            return name
    if first[:4] == b"RIFF" and first[8:12] == b"WEBP":
        return "webp"
    if first[4:8] == b"ftyp":
        return "avif" if first[8:12] in (b"avif", b"avis") else "heic" if first[8:12] in _BRANDS_HEIC else "unknown"
    if _is_safetensors(first):  # the length of its header may begin as a pickle does
        return SAFETENSORS
    if first[:1] == b"\x80" and first[1:2] in b"\x02\x03\x04\x05":
        return PICKLE
    return _text_name(first) or ("zeros" if _is_zero(path) else "unknown")


def _is_safetensors(first: bytes) -> bool:
    """Whether the bytes begin with the length of a JSON header and its brace."""
    return len(first) > 8 and 2 <= int.from_bytes(first[:8], "little") <= MAX_HEADER_BYTES and first[8:9] == b"{"


def _text_name(first: bytes) -> str | None:
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] in (b"{", b"["):
        return "json"
    if text[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "html"
    if not text or any(byte < 32 and byte not in b"\t\r\n" for byte in text):
        return None
    try:
        text[:-4].decode("utf-8")  # the last character may be cut
    except UnicodeDecodeError:
        return None
    return "text"


def _is_zero(path: Path) -> bool:
    with path.open("rb") as file:
        while block := file.read(2**20):
            if block.strip(b"\0"):
                return False
    return True
