"""Names of models in lists: each name is one path, over all the folders that ComfyUI looks in.

A name is a path below a folder, and means the first folder that has it, in ComfyUI's order. What a later folder has
under the same name is listed as "name [folder]".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path, PurePath

from ..lumina_core.checkpoint.find import open_checkpoint
from ..lumina_core.checkpoint.locate import CONFIG
from ..lumina_core.errors import LuminaError
from ..lumina_core.files.json_text import read_json
from ..lumina_core.files.stamps import FileStamps

WEIGHT_SUFFIXES = (".safetensors", ".sft")
MOVQGAN = "movqgan"
_INDEX_SUFFIX = ".safetensors.index.json"
# A shard of several: `model-00001-of-00003.safetensors`.
_SHARD = re.compile(r"-\d+-of-0*([2-9]|[1-9]\d+)$")


def file_paths(roots: Sequence[Path], files: Iterable[str]) -> dict[str, Path]:
    """The path of every name; `files` are the paths below any of the roots."""
    paths = sorted(files)
    return _first_of([(name, root / name, root) for root in roots for name in paths if (root / name).is_file()])


def checkpoint_paths(
    roots: Sequence[Path],
    files: Iterable[str],
    shared_roots: Sequence[Path] = (),
    shared_files: Iterable[str] = (),
) -> dict[str, Path]:
    """The path of every name of a checkpoint: a folder with a config.json, or a single file.

    A root that itself has a config.json is one checkpoint, named by its folder. Shards and the files that an index
    names are no checkpoints of their own. `files` are the paths below any of the roots. Of shared roots, which hold
    other models too, only what opens as a checkpoint of this model is listed, below the root itself.
    """
    relative = [PurePath(name) for name in sorted(files)]
    found, flat = list[tuple[str, Path, Path]](), list[tuple[str, Path, Path]]()
    for root in roots:
        for path in _checkpoints_below(root, [one for one in relative if (root / one).is_file()]):
            found.append((path.as_posix(), root / path, root))
        if (root / CONFIG).is_file():
            flat.append((root.resolve().name, root, root))
    shared_names = sorted(shared_files)
    shared = [(path.as_posix(), root / path, root) for root in shared_roots for path in _own_of(root, shared_names)]
    return _first_of([*found, *flat, *shared])


def name_of(path: Path, paths: dict[str, Path]) -> str | None:
    """The name of a path, or None if the list does not have it."""
    return next((name for name, one in paths.items() if _same(one, path)), None)


def _first_of(found: Iterable[tuple[str, Path, Path]]) -> dict[str, Path]:
    """The paths by name. `found` holds names, paths and their roots, in the order of precedence."""
    paths = dict[str, Path]()
    shadowed = [one for one in found if not _same(paths.setdefault(one[0], one[1]), one[1])]
    for name, path, root in shadowed:
        paths.setdefault(f"{name} [{root.as_posix()}]", path)
    return paths


def _same(first: Path, second: Path) -> bool:
    return first == second or first.resolve() == second.resolve()


def _checkpoints_below(root: Path, files: list[PurePath]) -> list[PurePath]:
    folders = {file.parent for file in files if file.name == CONFIG} - {PurePath()}
    singles = [file for file in files if _is_weights(file) and file.parent not in folders]
    parts = {file for file in singles if _SHARD.search(file.stem)} | _indexed(root, files)
    if (root / CONFIG).is_file():
        parts |= {file for file in singles if file.parent == PurePath() and not _is_complete(root / file)}
    return [*sorted(folders), *(file for file in singles if file not in parts)]


def _own_of(root: Path, names: Iterable[str]) -> list[PurePath]:
    """The checkpoints of this model among the weights of any models below a folder."""
    weights = [file for file in map(PurePath, names) if _is_weights(file) and (root / file).is_file()]
    folders = {file.parent for file in weights if (root / file.parent / CONFIG).is_file()} - {PurePath()}
    candidates = [*sorted(folders), *(file for file in weights if file.parent not in folders)]
    return [
        path for path in candidates if _is_own(root / path, str(FileStamps.of([root / path, root / path / CONFIG])))
    ]


@lru_cache(maxsize=1024)
def _is_own(path: Path, stamp: str) -> bool:
    """Whether a folder or file opens as a checkpoint that draws pictures; `stamp` changes with the file."""
    try:
        return len(open_checkpoint(path).config.code_range) > 0
    except LuminaError:
        return False


def _is_weights(file: PurePath) -> bool:
    return file.suffix.lower() in WEIGHT_SUFFIXES and not file.name.lower().startswith(MOVQGAN)


def _indexed(root: Path, files: list[PurePath]) -> set[PurePath]:
    """The files that an index beside them names."""
    named = set[PurePath]()
    for file in files:
        if file.name.endswith(_INDEX_SUFFIX):
            try:
                shards = read_json(root / file).get("weight_map")
            except LuminaError:  # the loader says what is wrong with it
                continue
            values = shards.values() if isinstance(shards, dict) else ()
            named |= {file.parent / name for name in values if isinstance(name, str)}
    return named


def _is_complete(path: Path) -> bool:
    """Whether a file beside a config.json is a checkpoint of its own: a converted one, or one that does not open."""
    try:
        return open_checkpoint(path).single is not None
    except LuminaError:
        return True
