"""Which files a checkpoint's name stands for: its folder, and the files of its weights."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..files.json_text import read_json
from .hub_cache import cached_repository, snapshot
from .tensor_files import SAFE_SUFFIXES

logger = logging.getLogger(__name__)

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parents[1] / "demo"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
MOVQGAN_NAMES = ("movqgan.safetensors", "movqgan_270M.ckpt", "movqgan_270M.safetensors", "movqgan.ckpt")
# Where the published program keeps its MoVQGAN, below the checkpoint's folder.
MOVQGAN_FOLDERS = ("movqgan/270M", "movqgan")
PICKLE_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt")
WEIGHT_SUFFIXES = (*SAFE_SUFFIXES, *PICKLE_SUFFIXES)
_SHARD = re.compile(r"(?P<start>.*?)-?(?P<number>\d{1,9})-of-(?P<count>\d{1,9})(?P<end>\..*)")
# Files beside the weights that trainers write.
_OTHERS = re.compile(
    r"movqgan.*|(training|model|trainer)_?(args|state)|.*optim(izer)?([_.-].*|_?states)?|scheduler.*|scaler|rng_state.*|"
    r"random_states.*|adapter_model.*",
    re.IGNORECASE,
)
# What downloads that go on, or broke off, are called.
_UNFINISHED = (".part", ".crdownload", ".incomplete", ".aria2", ".download", ".tmp", ".txt", ".json")


@dataclass(frozen=True)
class Location:
    """`named` is the folder or file that the name stands for, `root` the folder of config.json, `files` the weights."""

    named: Path
    root: Path
    files: tuple[Path, ...]


def locate(name: str | Path) -> Location:
    """The files of a checkpoint: "demo", a folder, a file, one shard of several, a repository or folder in the cache.

    Raises CheckpointError when there are none, or when shards are missing.
    """
    place = _place(name)
    if place.is_dir():
        place = snapshot(place) or place
        return Location(place, place, _weights(place))
    if place.name == CONFIG or place.name.endswith(".index.json"):
        return Location(place.parent, place.parent, _weights(place.parent))
    if (shards := _set_of(place)) is not None:
        logger.info("%s is one of %d shards; all are read", place, len(shards))
        return Location(place.parent, place.parent, shards)
    return Location(place, place.parent, (place,))


def find_movqgan(folder: Path) -> Path | None:
    """The MoVQGAN file of a checkpoint's folder, or of the folders in it that the published program has; None: none.

    In each folder one of MOVQGAN_NAMES, or else the only file whose name begins with movqgan.
    """
    for place in (folder, *(folder / name for name in MOVQGAN_FOLDERS)):
        usual = [place / name for name in MOVQGAN_NAMES if os.path.lexists(place / name)]
        others = _weight_files(place, WEIGHT_SUFFIXES)
        if place == folder:  # the others hold nothing else
            others = [file for file in others if file.name.lower().startswith("movqgan")]
        if usual or len(others) == 1:
            return (usual or others)[0]
    return None


def is_weight_file(path: Path) -> bool:
    """Whether a file's name is that of weights of a transformer."""
    return path.suffix.lower() in WEIGHT_SUFFIXES and not _OTHERS.fullmatch(path.stem)


def is_shard(path: Path) -> bool:
    """Whether a file's name is that of one of several shards."""
    match = _SHARD.fullmatch(path.name)
    return match is not None and int(match["count"]) > 1


def _place(name: str | Path) -> Path:
    if str(name) == DEMO:
        return DEMO_FOLDER
    if not isinstance(name, str | os.PathLike):
        raise CheckpointError(f"the checkpoint is {name!r}; expected a path, the name of a repository, or 'demo'")
    if not str(name):
        raise CheckpointError("the name of the checkpoint is empty; expected a folder, a file of weights, or 'demo'")
    place = Path(name)
    try:
        if place.exists():
            return place
        if (cached := cached_repository(str(name))) is not None:
            logger.info("%s: the snapshot in the local cache, %s", name, cached)
            return cached
    except (OSError, ValueError) as error:  # a name too long, or with a null character
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot open checkpoint {str(name)[:200]!r}: {reason}; expected a path") from error
    raise CheckpointError(
        f"checkpoint {name} does not exist; expected a folder, a file of weights, a repository in the local cache of "
        "Hugging Face, or 'demo'"
    )


def _weights(folder: Path) -> tuple[Path, ...]:
    """The weights in a folder: a whole model.safetensors, else what an index lists, else the only set or file."""
    safe, pickles = _weight_files(folder, SAFE_SUFFIXES), _weight_files(folder, PICKLE_SUFFIXES)
    indices = _indices(folder, ".safetensors.index.json") or _indices(folder, ".bin.index.json")
    whole = [file for file in safe if file.stem == "model"]
    if whole:
        _say_ignored(whole[0], [*indices, *(file for file in safe if is_shard(file))])
        return (whole[0],)
    if indices:
        return _indexed_shards(indices[0])
    for files in (safe, pickles):
        if found := _only_weights(folder, [file for file in files if is_weight_file(file)]):
            return found
    if any(folder.glob("adapter_*")):
        raise CheckpointError(f"{folder} is a LoRA adapter; expected the whole checkpoint, the adapter merged into it")
    raise _no_weights(folder, [])


def _only_weights(folder: Path, files: list[Path]) -> tuple[Path, ...] | None:
    """The set of shards, or the file; None where there is none. Raises CheckpointError for more than one."""
    if not files:
        return None
    if (shards := _set_of(files[0])) is not None and set(files) == set(shards):
        return shards
    if len(files) > 1:
        raise _no_weights(folder, files)
    return (files[0],)


def _no_weights(folder: Path, files: list[Path]) -> CheckpointError:
    found = ", ".join(file.name for file in files[:5]) or "none"
    if not files and (begun := sorted(file.name for file in folder.iterdir() if _is_unfinished(file))):
        found = f"none, and {begun[0]}, which is no finished download"
    return CheckpointError(
        f"{folder} has no {INDEX}; expected it, or exactly one .safetensors file of weights; found {found}"
    )


def _set_of(file: Path) -> tuple[Path, ...] | None:
    """All shards of the set that a file is one of; None where it is a file of its own.

    Raises CheckpointError when some are missing.
    """
    match = _SHARD.fullmatch(file.name)
    if match is None or int(match["count"]) == 1:
        return None
    if file.name.startswith("consolidated"):
        raise CheckpointError(
            f"{file} is one of {int(match['count'])} parts of weights that were split for model parallelism; expected "
            "whole weights: merge the parts"
        )
    index = next((one for one in _indices(file.parent, ".index.json") if file.name in _listed(one)), None)
    if index is not None:
        return _indexed_shards(index)
    count, width = int(match["count"]), len(match["number"])
    head, tail = file.name[: match.start("number")], file.name[match.end("number") :]
    first = 0 if (file.parent / f"{head}{0:0{width}}{tail}").exists() else 1
    if count > 10_000:
        raise CheckpointError(f"{file} is one of {count:,} shards by its name; expected at most 10,000")
    names = [f"{head}{number:0{width}}{tail}" for number in range(first, first + count)]
    _check_present(file.parent, names)
    return tuple(file.parent / name for name in names)


def _indexed_shards(index: Path) -> tuple[Path, ...]:
    names = _listed(index)
    if not names:
        raise CheckpointError(f"{index} has no `weight_map` of tensor names to files; download it again")
    if outside := [name for name in names if not name or Path(name).name != name or "\\" in name]:
        raise CheckpointError(f"{index} lists {outside[0]!r}; expected names of files in the same folder")
    _check_present(index.parent, names)
    return tuple(index.parent / name for name in names)


def _listed(index: Path) -> list[str]:
    """The names of files in an index; none where it is damaged in form."""
    weight_map = read_json(index, CheckpointError, "an index of shards").get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        return []
    return sorted(set(weight_map.values()))


def _check_present(folder: Path, names: list[str]) -> None:
    if missing := [name for name in names if not os.path.lexists(folder / name)]:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise CheckpointError(
            f"shards missing in {folder}: {', '.join(missing[:5])}{more}, {len(missing)} of {len(names)}; download "
            "them again"
        )


def _is_unfinished(file: Path) -> bool:
    """Whether a name is that of weights, with what a program puts after it."""
    return file.suffix.lower() in _UNFINISHED and Path(file.stem).suffix.lower() in WEIGHT_SUFFIXES


def _indices(folder: Path, end: str) -> list[Path]:
    return sorted(file for file in folder.glob(f"*{end}") if not file.name.startswith("."))


def _weight_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if not file.name.startswith("."))  # macOS writes ._ files beside others
    return sorted(file for file in files if file.suffix.lower() in suffixes and not file.is_dir())


def _say_ignored(used: Path, ignored: list[Path]) -> None:
    if ignored:
        names = ", ".join(file.name for file in ignored[:3])
        logger.warning("%s is used, since it is whole; %s beside it is not read", used, names)
