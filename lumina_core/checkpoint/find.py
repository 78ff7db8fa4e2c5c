"""Which files make up a checkpoint."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from .single_file import SingleFile, holds_movqgan, read_single_file
from .tensors import read_json

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parents[1] / "demo"
INDEX = "model.safetensors.index.json"
MOVQGAN_NAMES = ("movqgan.safetensors", "movqgan_270M.ckpt", "movqgan_270M.safetensors", "movqgan.ckpt")


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of one checkpoint; `root` is the folder that config and tokenizer lie in.

    A converted file is all of them itself, and `scheme` says how its blocks' linear weights are quantised, if they are.
    """

    root: Path
    config: Path
    shards: tuple[Path, ...]
    tokenizer: Path
    movqgan: Path | None
    scheme: str | None = None

    @property
    def place(self) -> Path:
        """What a user names: the folder, or the converted file."""
        return self.config if self.config in self.shards else self.root


def find_checkpoint(path: str | Path) -> CheckpointFiles:
    """Files of a checkpoint: the published folder, a folder with one file, a single `.safetensors`, or "demo".

    config.json and tokenizer.json lie in the folder, or beside the single file; a converted file has its own in it.
    Raises CheckpointError naming what is missing, and for a single file that is damaged.
    """
    place = DEMO_FOLDER if str(path) == DEMO else Path(path)
    if place.is_dir():
        root, shards = place, _shards(place)
    elif place.is_file() and place.suffix == ".safetensors":
        root, shards = place.parent, (place,)
    else:
        raise CheckpointError(
            f'checkpoint {path} does not exist or is no .safetensors; expected a folder, a .safetensors file or "demo"'
        )
    single = read_single_file(shards[0]) if len(shards) == 1 else None
    if single is not None:
        return _files_of(single)
    if not (root / "config.json").is_file():
        raise CheckpointError(
            f"{root / 'config.json'} is missing; it belongs to the checkpoint: download it too (only a file that the "
            "command convert made needs none)"
        )
    return CheckpointFiles(root, root / "config.json", shards, root / "tokenizer.json", find_movqgan(root))


def find_movqgan(folder: Path) -> Path | None:
    """The MoVQGAN file in a folder, by its usual names or as its only `movqgan*` file; else None."""
    usual = [folder / name for name in MOVQGAN_NAMES if (folder / name).is_file()]
    others = sorted(folder.glob("movqgan*.safetensors")) + sorted(folder.glob("movqgan*.ckpt"))
    if usual:
        return usual[0]
    return others[0] if len(others) == 1 else None


def _files_of(single: SingleFile) -> CheckpointFiles:
    path, root = single.path, single.path.parent
    movqgan = path if holds_movqgan(path) else find_movqgan(root)
    return CheckpointFiles(root, path, (path,), path, movqgan, single.scheme)


def _shards(folder: Path) -> tuple[Path, ...]:
    if (folder / INDEX).is_file():
        return _indexed_shards(folder)
    whole = folder / "model.safetensors"
    if whole.is_file():
        return (whole,)
    files = [file for file in sorted(folder.glob("*.safetensors")) if not file.name.startswith("movqgan")]
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise CheckpointError(f"{folder} has no {INDEX}; then exactly one .safetensors file is expected, found {found}")
    return (files[0],)


def _indexed_shards(folder: Path) -> tuple[Path, ...]:
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise CheckpointError(f"{folder / INDEX} has no `weight_map` of tensor names to files; download it again")
    names = sorted(set(index.values()))
    if outside := [name for name in names if not name or Path(name).name != name]:
        raise CheckpointError(f"{folder / INDEX} names {outside[0]!r}; expected names of files in its own folder")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CheckpointError(f"shards missing in {folder}: {', '.join(missing)}; download them again")
    return tuple(folder / name for name in names)
