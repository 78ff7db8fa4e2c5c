"""What a file is, by its first bytes."""

from __future__ import annotations

import bz2
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lumina_core.errors import InputError
from lumina_core.files.kind import FileKind, look_at

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
Kind = Callable[[bytes], FileKind]


@pytest.fixture
def kind(tmp_path: Path) -> Kind:
    def find(content: bytes) -> FileKind:
        (tmp_path / "file").write_bytes(content)
        return look_at(tmp_path / "file", InputError, "a file")

    return find


def media(brand: bytes, *compatible: bytes) -> bytes:
    """The first box of a file of the ISO media format, and some more."""
    content = b"ftyp" + brand + bytes(4) + b"".join(compatible)
    return (4 + len(content)).to_bytes(4, "big") + content + bytes(range(64))


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def tar(file: io.BytesIO) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.safetensors"))


def test_a_safetensors_file_whose_first_bytes_are_those_of_a_pickle(tmp_path: Path) -> None:
    """Its header's length, 0x0280 and the like, comes first."""
    path = tmp_path / "a.safetensors"
    tensors = {f"{k}": torch.zeros(1) for k in range(8)}
    for length in range(1024):
        save_file(tensors, path, metadata={"k": "x" * length})
        if path.read_bytes()[0] == 0x80 and path.read_bytes()[1] in (2, 3, 4, 5):
            assert look_at(path, InputError, "a file").name == "safetensors"
            return
    pytest.fail("no header had such a length")


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        pytest.param(b"\x76\x2f\x31\x01\2\0\0\0", "exr", "OpenEXR", id="exr"),
        pytest.param(b"\xff\x0a\xfa\x1f", "jxl", "JPEG XL", id="jxl"),
        pytest.param(b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", "jxl", "JPEG XL", id="jxl in boxes"),
        pytest.param(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "hdr", "Radiance HDR", id="hdr"),
        pytest.param(b"PF\n2 2\n-1.0\n" + bytes(48), "pfm", "PFM", id="pfm"),
        pytest.param(b"P7\nWIDTH 2\nHEIGHT 2\n", "pam", "PAM", id="pam"),
        pytest.param(b"gimp xcf v011\0", "xcf", "GIMP", id="xcf"),
        pytest.param(b"8BPS\0\1", "psd", "Photoshop", id="psd"),
        pytest.param(b"BLENDER-v402", "blender", "Blender", id="blender"),
        pytest.param(bytes(128) + b"DICM" + bytes(range(99)), "dicom", "DICOM", id="dicom"),
        pytest.param(bytes(range(99)) + b"TRUEVISION-XFILE.\0", "tga", "TGA", id="tga"),
        pytest.param(saved(lambda file: np.save(file, np.zeros(4))), "npy", "NumPy", id="npy"),
        pytest.param(saved(lambda file: zipfile.ZipFile(file, "w").close()), "zip", "zip archive", id="empty zip"),
        pytest.param(saved(tar), "tar", "tar archive: unpack it", id="tar"),
        pytest.param(bz2.compress(b"0"), "bzip2", "bzip2 archive: unpack it", id="bzip2"),
        pytest.param(lzma.compress(b"0"), "xz", "xz archive: unpack it", id="xz"),
        pytest.param(b"\0\5\x16\7\0\2\0\0Mac OS X", "appledouble", r"a macOS resource file (._NAME)", id="AppleDouble"),
        pytest.param(b"FUJIFILMCCD-RAW 0201", "raw", "raw photo", id="raw"),
        pytest.param(b"\x1a\x45\xdf\xa3" + bytes(9), "video", "a video", id="matroska"),
        pytest.param(b"RIFF\1\0\0\0AVI LIST", "video", "a video", id="avi"),
        *(
            pytest.param(media(brand), "video", "a video", id=brand.decode())
            for brand in (b"isom", b"mp42", b"qt  ", b"M4V ", b"3gp5")
        ),
        pytest.param(media(b"crx "), "raw", "raw photo", id="CR3"),
        pytest.param(media(b"heic", b"mif1"), "heic", "HEIC", id="heic"),
        pytest.param(media(b"mif1", b"mif1", b"heic"), "heic", "HEIC", id="mif1 of heic"),
        pytest.param(media(b"msf1"), "heic", "HEIC", id="msf1 alone"),
        pytest.param(media(b"mif1", b"mif1", b"avif", b"miaf"), "avif", "AVIF", id="mif1 of avif"),
        pytest.param(media(b"msf1", b"avis"), "avif", "AVIF", id="msf1 of avis"),
        pytest.param(POINTER, "lfs", "Git LFS pointer", id="lfs"),
        pytest.param(b"\xef\xbb\xbf" + POINTER, "lfs", "Git LFS pointer", id="lfs, byte-order mark"),
        pytest.param(POINTER.decode().encode("utf-16"), "lfs", "Git LFS pointer", id="lfs, UTF-16"),
        pytest.param('{"a": 1}'.encode("utf-16"), "utf16", "save it as UTF-8", id="JSON, UTF-16"),
        pytest.param(b"\xfe\xff" + "a word".encode("utf-16-be"), "utf16", "UTF-16", id="UTF-16, big-endian"),
        pytest.param(b"\xff\xfe" + bytes(range(256)), "unknown", "damaged", id="no UTF-16"),
    ],
)
def test_kinds_of_files(kind: Kind, content: bytes, name: str, said: str) -> None:
    found = kind(content)
    assert found.name == name and said in str(found)


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"Entry not found", "text", "a text file that begins 'Entry not found'"),
        (b"Invalid username or password.\n", "text", "a text file that begins 'Invalid username or password.'"),
        (b"<Error><Code>AccessDenied</Code></Error>", "html", "a text file that begins '<Error><Code>AccessDenied"),
        (b'<?xml version="1.0"?>\n<Error><Code>NoSuchKey', "html", "a text file that begins '<Error><Code>NoSuchKey'"),
        (b'{"error":"Unauthorized"}', "json", """JSON text that begins '{"error":"Unauthorized"}'"""),
        (b"../../blobs/0a1b", "text", "a text file that begins '../../blobs/0a1b'"),
    ],
)
def test_messages_of_servers_are_shown(kind: Kind, content: bytes, name: str, said: str) -> None:
    found = kind(content)
    assert found.name == name
    assert str(found).startswith(said)
    assert str(found).endswith(", not the file itself: the download failed or needs a login")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"model_type": "lumina"}', "JSON text"),
        (b"word " * 500, f"a text file that begins {'word ' * 8!r}"),
        (b"\x1b[31m", "damaged or of a kind that this program does not know: download it again"),
    ],
)
def test_other_texts_are_no_messages(kind: Kind, content: bytes, said: str) -> None:
    assert str(kind(content)) == said


def test_what_a_text_begins_with_stays_one_line(kind: Kind) -> None:
    assert "'a b c\\u202ed'" in str(kind("a\nb\u2028c\u202ed".encode()))
