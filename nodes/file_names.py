"""Names of new files that a user chooses: legal on every system, and numbered."""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from ..lumina_core.errors import InputError
from ..lumina_core.files.output_files import explain_write_errors

# The most bytes of a name on common file systems.
MAX_BYTES = 255
_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f\x7f]')
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³])", re.IGNORECASE)
_TIMES = {"%year%": "%Y", "%month%": "%m", "%day%": "%d", "%hour%": "%H", "%minute%": "%M", "%second%": "%S"}


def prefix_path(prefix: str, name: str, ending: str) -> PurePosixPath:
    """The relative path of a prefix, with %year%, %month% and so on replaced by the time.

    `name` is the widget, `ending` the longest that is appended. Raises InputError for a prefix that leaves its folder,
    or that some system cannot store.
    """
    expanded = prefix
    for word, field in _TIMES.items():
        expanded = expanded.replace(word, time.strftime(field))
    path = expanded.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or not parts or path.endswith(("/", "/.")):
        raise _bad(prefix, name, "a name, or folders and a name separated by /, inside the folder")
    for part in parts:
        if reason := _unsupported_reason(part):
            raise _bad(prefix, name, f"a name that every system can store: {reason}")
    if len((parts[-1] + ending).encode()) > MAX_BYTES:
        raise _bad(prefix, name, f"a shorter name: at most {MAX_BYTES - len(ending)} bytes")
    return PurePosixPath(*parts)


def numbered_paths(root: Path, path: PurePosixPath, ending: str, roots: Iterable[Path]) -> Iterator[Path]:
    """Paths of a new file below `root`: `path`, a number and the ending, from the highest number of any root + 1.

    Leaves out the names that one of the `roots` has.
    """
    folders = [one / path.parent for one in (root, *roots)]
    first = 1 + max((_highest_number(folder, path.name) for folder in folders), default=0)
    names = (f"{path.name}_{number:05}_{ending}" for number in itertools.count(first))
    return (root / path.parent / name for name in names if not any((one / name).exists() for one in folders))


@contextlib.contextmanager
def new_folders(file: Path) -> Iterator[None]:
    """Makes the folder of a new file. After an exception in the body, the folders that were made are removed again.

    Raises InputError if a folder cannot be made.
    """
    missing = list(itertools.takewhile(lambda folder: not folder.exists(), file.parents))
    try:
        with explain_write_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):  # not empty: another run writes there
                folder.rmdir()
        raise


def _highest_number(folder: Path, name: str) -> int:
    pattern = re.compile(rf"{re.escape(name)}_(\d{{1,9}})_", re.IGNORECASE)
    try:
        found = [pattern.match(file.name) for file in folder.iterdir()]
    except OSError:  # no such folder yet
        return 0
    return max((int(match[1]) for match in found if match), default=0)


def _unsupported_reason(part: str) -> str | None:
    """Why a system cannot store a file or folder of this name, or None."""
    if match := _FORBIDDEN.search(part):
        return f"without {match[0]!r}"
    if part.endswith((".", " ")):
        return "without a dot or space at the end"
    if device := _DEVICE.fullmatch(part.split(".")[0].rstrip()):
        return f"{device[0]} is a device on Windows"
    try:
        length = len(part.encode())
    except UnicodeEncodeError:
        return "valid Unicode"
    return None if length <= MAX_BYTES else f"at most {MAX_BYTES} bytes long"


def _bad(prefix: str, name: str, expected: str) -> InputError:
    shown = repr(prefix) if len(prefix) <= 80 else f"{prefix[:80]!r} and {len(prefix) - 80} more characters"
    return InputError(f"{name} is {shown}; expected {expected}")
