"""What a file is, by its first bytes and its size: one look, before anything is read from it."""

from __future__ import annotations

import codecs
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from ..errors import LuminaError

FIRST_BYTES = 4096
SAFETENSORS, ZIP, PICKLE = "safetensors", "zip", "pickle"
# The most bytes of a header that the safetensors library reads.
MAX_HEADER_BYTES = 100_000_000
# Longer texts are hardly the error message of a server.
_MESSAGE_BYTES, _BEGINNING = 1024, 40
_BRANDS_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BRANDS_AVIF = (b"avif", b"avis")
_POINTERS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_BEGINS = (
    (b"GGUF", "gguf"),
    (b"PK\x03\x04", ZIP),
    (b"PK\x05\x06", ZIP),
    (b"%!PS", "eps"),
    (b"\xc5\xd0\xd3\xc6", "eps"),
    (b"%PDF", "pdf"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x76\x2f\x31\x01", "exr"),
    (b"\xff\x0a", "jxl"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
    (b"#?RADIANCE", "hdr"),
    (b"#?RGBE", "hdr"),
    (b"PF\n", "pfm"),
    (b"P7\n", "pam"),
    (b"gimp xcf", "xcf"),
    (b"8BPS", "psd"),
    (b"SIMPLE  =", "fits"),
    (b"BLENDER", "blender"),
    (b"\x1a\x45\xdf\xa3", "video"),
    (b"II*\0\x10\0\0\0CR", "raw"),
    (b"IIU\0", "raw"),
    (b"IIRO", "raw"),
    (b"IIRS", "raw"),
    (b"MMOR", "raw"),
    (b"FUJIFILMCCD-RAW", "raw"),
    (b"\0MRM", "raw"),
    (b"FOVb", "raw"),
    (b"\x93NUMPY", "npy"),
    (b"\0\x05\x16\x07", "appledouble"),
    (b"\0\x05\x16\0", "appledouble"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!", "rar"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x89HDF", "hdf5"),
)
_BEGINS_AT = ((128, b"DICM", "dicom"), (257, b"ustar", "tar"), (4, b"moov", "video"), (4, b"mdat", "video"))
_TGA_END = b"TRUEVISION-XFILE.\0"
_ERROR_KEY = re.compile(rb'\{\s*"(error|errors|message|detail|code|status|statusCode)"')
_XML_START = re.compile(rb"<\?xml[^>]*>\s*")
_NOT_ITSELF = ", not the file itself: the download failed or needs a login"
_WORDS = {
    "lfs": "a Git LFS pointer, not the file itself: run `git lfs pull`, or download the file",
    "html": f"a web page{_NOT_ITSELF}; download it again",
    "gguf": "a GGUF file, which this program does not read",
    "empty": "empty: download it again",
    "zeros": "all zeros: the download never finished; download it again",
    SAFETENSORS: "a safetensors file",
    ZIP: "a PyTorch file (.ckpt, .pth, .bin) or another zip archive",
    PICKLE: "a PyTorch pickle (.ckpt, .pth, .bin)",
    "json": "JSON text",
    "text": "a text file",
    "utf16": "text in UTF-16: save it as UTF-8",
    "eps": "an EPS or PostScript file: convert it to PNG",
    "pdf": "a PDF file",
    "png": "a PNG picture",
    "jpeg": "a JPEG picture",
    "webp": "a WebP picture",
    "heic": "a HEIC picture, as phones take them: convert it to JPEG or PNG",
    "avif": "an AVIF picture: convert it to PNG",
    "exr": "an OpenEXR picture: convert it to PNG",
    "jxl": "a JPEG XL picture: convert it to PNG",
    "hdr": "a Radiance HDR picture: convert it to PNG",
    "pfm": "a PFM picture in colour: convert it to PNG",
    "pam": "a PAM picture: convert it to PNG",
    "tga": "a TGA picture: convert it to PNG",
    "dicom": "a DICOM picture: convert it to PNG",
    "fits": "a FITS picture: convert it to PNG",
    "raw": "a raw photo of a camera: convert it to JPEG or PNG",
    "xcf": "a GIMP project (.xcf): export it as PNG",
    "psd": "a Photoshop project (.psd): export it as PNG",
    "blender": "a Blender project: render it as PNG",
    "video": "a video: save one of its frames as PNG",
    "npy": "a NumPy array (.npy), which this program does not read",
    "appledouble": "a macOS resource file (._NAME), not the file itself: take the file without ._ in its name",
    "gzip": "a gzip archive: unpack it first",
    "zstd": "a Zstandard archive: unpack it first",
    "7z": "a 7z archive: unpack it first",
    "rar": "a RAR archive: unpack it first",
    "tar": "a tar archive: unpack it first",
    "bzip2": "a bzip2 archive: unpack it first",
    "xz": "an xz archive: unpack it first",
    "hdf5": "an HDF5 file",
    "unknown": "damaged or of a kind that this program does not know: download it again",
}


@dataclass(frozen=True)
class FileKind:
    """`name` of a kind of file, such as safetensors, zip, lfs, html or heic, and the file's `size` in bytes.

    `beginning` is how a text file starts that may be the message of a server.
    """

    name: str
    size: int
    beginning: str = ""

    def __str__(self) -> str:
        """What the file is and what to do, for "the file is ..."."""
        if not self.beginning:
            return _WORDS[self.name]
        what = "JSON text" if self.name == "json" else "a text file"
        return f"{what} that begins {self.beginning!r}{_NOT_ITSELF if self.size <= _MESSAGE_BYTES else ''}"


def look_at(path: Path, error: type[LuminaError], expected: str) -> FileKind:
    """The kind of a file. Raises `error`, naming the `expected` file, unless it is a regular file that can be read."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device, not a file"
            raise error(f"{path} is {what}; expected {expected}")
        with path.open("rb") as file:
            first, size = file.read(FIRST_BYTES), path.stat().st_size
        name = _name(first, size, path)
        return FileKind(name, size, _beginning(first, name, size))
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
    # Before all others: the length of its header may begin as any of them does.
    if _is_safetensors(first):
        return SAFETENSORS
    if name := _signature_name(first) or _text_name(first):
        return name
    return "zeros" if _is_zero(path) else "tga" if _is_tga(path, size) else "unknown"


def _signature_name(first: bytes) -> str | None:
    for begin, name in _BEGINS:
        if first.startswith(begin):
            return name
    for start, begin, name in _BEGINS_AT:
        if first[start : start + len(begin)] == begin:
            return name
    if first[:4] == b"RIFF" and first[8:12] in (b"WEBP", b"AVI "):
        return "webp" if first[8:12] == b"WEBP" else "video"
    if first[4:8] == b"ftyp":
        return _media_name(first)
    return PICKLE if first[:1] == b"\x80" and first[1:2] in b"\x02\x03\x04\x05" and len(first) > 1 else None


def _media_name(first: bytes) -> str:
    """A picture or a video, by the brands that the file says: the first, and those that it is compatible with."""
    brand, end = first[8:12], int.from_bytes(first[:4], "big")
    compatible = [first[start : start + 4] for start in range(16, min(end, len(first)), 4)]
    is_any_picture = brand in (b"mif1", b"msf1")
    if brand in _BRANDS_AVIF or (is_any_picture and any(other in _BRANDS_AVIF for other in compatible)):
        return "avif"
    if brand in _BRANDS_HEIC:
        return "heic"
    return "raw" if brand == b"crx " else "video"


def _is_safetensors(first: bytes) -> bool:
    """Whether the bytes begin with the length of a JSON header and its brace."""
    return len(first) > 8 and 2 <= int.from_bytes(first[:8], "little") <= MAX_HEADER_BYTES and first[8:9] == b"{"


def _utf8(first: bytes) -> bytes:
    """The bytes of a text in UTF-8, without white space and a byte-order mark before it; others as they are."""
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        first = first.decode("utf-16", "ignore").encode("utf-8", "ignore")
    return first.removeprefix(codecs.BOM_UTF8).lstrip()


def _text_name(first: bytes) -> str | None:
    text = _utf8(first)
    if text.startswith(_POINTERS):
        return "lfs"
    if text[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<error>")):
        return "html"
    is_utf16 = first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if text[:1] in (b"{", b"[") and not is_utf16:
        return "json"
    if not text or any(byte < 32 and byte not in b"\t\r\n" for byte in text):
        return None
    try:
        text[:-4].decode("utf-8")  # the last character may be cut
    except UnicodeDecodeError:
        return None
    return "utf16" if is_utf16 else "text"


def _beginning(first: bytes, name: str, size: int) -> str:
    """How a text begins that may be the message of a server; nothing for other files."""
    text = _utf8(first) if name in ("text", "json", "html") else b""
    if name == "html":
        text = _XML_START.sub(b"", text, count=1)
        text = text if text.startswith(b"<Error>") else b""
    if name == "json" and (size > _MESSAGE_BYTES or not _ERROR_KEY.match(text)):
        return ""
    return " ".join(text.decode("utf-8", "ignore").split())[:_BEGINNING]


def _is_zero(path: Path) -> bool:
    with path.open("rb") as file:
        while block := file.read(2**20):
            if block.strip(b"\0"):
                return False
    return True


def _is_tga(path: Path, size: int) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, size - len(_TGA_END)))
        return file.read() == _TGA_END
