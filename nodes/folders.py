"""ComfyUI's folders: the names and paths of models, and of what is kept of pictures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ..lumina_core.checkpoint.locate import CONFIG, DEMO_FOLDER, MOVQGAN_NAMES, find_movqgan
from ..lumina_core.errors import InputError
from . import model_names
from .file_names import numbered_paths, prefix_path

MODEL_FOLDER = "lumina_mgpt2"
# Checkpoints are found here too, among those of other models.
SHARED_FOLDER = "diffusion_models"
VAE_FOLDER = "vae"
LORA_FOLDER = "loras"
DEMO_NAME = "demo (built in)"


def register_model_folder() -> None:
    """Registers `models/lumina_mgpt2` with ComfyUI, in addition to the folders of extra_model_paths.yaml."""
    folder = os.path.join(folder_paths.models_dir, MODEL_FOLDER)
    folder_paths.add_model_folder_path(MODEL_FOLDER, folder)
    with contextlib.suppress(OSError):  # a read-only models folder has no checkpoint
        os.makedirs(folder, exist_ok=True)


def checkpoint_paths() -> dict[str, Path]:
    """Every checkpoint in the model folders, then the demo, by name."""
    found = model_names.checkpoint_paths(*_files_of(MODEL_FOLDER), *_files_of(SHARED_FOLDER))
    found.pop(DEMO_NAME, None)
    return dict(sorted(found.items())) | {DEMO_NAME: DEMO_FOLDER}


def checkpoint_path(name: str) -> Path:
    """The path of a checkpoint in the list, or of a file in the model folders that the list leaves out.

    Earlier versions listed the files of a checkpoint that lies in a model folder itself. Raises InputError when it does
    not exist (any more).
    """
    path = checkpoint_paths().get(name) or model_names.file_paths(*_files_of(MODEL_FOLDER)).get(name)
    if path is None:
        raise InputError(
            f"the checkpoint {name!r} is not in list: models/{MODEL_FOLDER} and models/{SHARED_FOLDER} do not have it; "
            "choose another or put it there"
        )
    return path


def new_checkpoint_paths(prefix: str) -> Iterator[Path]:
    """Paths of a new file in models/lumina_mgpt2, in order of preference: the prefix and a number.

    No model folder has a file of that name. Raises InputError for a prefix outside the folder, one that some system
    cannot store, or one that the loader would not list.
    """
    root = Path(folder_paths.models_dir, MODEL_FOLDER)
    path = prefix_path(prefix, "filename_prefix", "_00001_.safetensors")
    inside = path.parent.parts and (root / path.parent / CONFIG).exists()
    if path.name.lower().startswith(model_names.MOVQGAN) or inside:
        raise InputError(
            f"filename_prefix is {prefix!r}; expected a name that does not begin with movqgan and is not in the "
            "folder of a checkpoint, since the loader would not list the file"
        )
    return numbered_paths(root, path, ".safetensors", map(Path, folder_paths.get_folder_paths(MODEL_FOLDER)))


def checkpoint_name(path: Path) -> str:
    """The name in the list of a file that was saved. Raises InputError if the list does not have it."""
    name = model_names.name_of(path, checkpoint_paths())
    if name is None:
        raise InputError(f"{path} was saved, but Lumina Loader does not list it; move it to a folder of its own")
    return name


def movqgan_paths() -> dict[str, Path]:
    """The files in models/vae with "movqgan" in the name, that of the demo, and the other files, by name."""
    own = find_movqgan(DEMO_FOLDER)
    assert own is not None, "the demo has a MoVQGAN"
    found = model_names.file_paths(*_files_of(VAE_FOLDER))
    order = sorted(found, key=lambda name: (Path(name).name not in MOVQGAN_NAMES, name))
    named = [name for name in order if model_names.MOVQGAN in name.lower()]
    return {name: found[name] for name in named} | {DEMO_NAME: own} | {name: found[name] for name in order}


def movqgan_path(name: str) -> Path:
    """The path of a MoVQGAN in the list. Raises InputError when it does not exist (any more)."""
    path = movqgan_paths().get(name)
    if path is None:
        raise InputError(f"the MoVQGAN {name!r} is not in models/{VAE_FOLDER}; choose another or put it there")
    return path


def named_movqgans() -> list[Path]:
    """The files in models/vae with "movqgan" in the name."""
    return list(movqgan_paths().values())[: list(movqgan_paths()).index(DEMO_NAME)]


def lora_paths() -> dict[str, Path]:
    """The files in models/loras as ComfyUI lists them, then the LoRAs of the demo, by name."""
    names = folder_paths.get_filename_list(LORA_FOLDER)
    found = {name: folder_paths.get_full_path(LORA_FOLDER, name) for name in names}
    own = {f"demo {path.stem} (built in)": path for path in sorted(DEMO_FOLDER.glob("loras/*.safetensors"))}
    return {name: Path(path) for name, path in found.items() if path} | own


def lora_path(name: str) -> Path:
    """The path of a LoRA in the list. Raises InputError when it does not exist (any more)."""
    path = lora_paths().get(name)
    if path is None:
        raise InputError(f"the LoRA {name!r} is not in models/{LORA_FOLDER}; choose another or put it there")
    return path


def kept_folder() -> Path:
    """The folder of what is drawn of pictures that were not finished."""
    return Path(folder_paths.get_output_directory(), MODEL_FOLDER)


def kept_paths() -> dict[str, Path]:
    """The files in the folder of kept pictures by name, the newest first. Links that lead out of it are left out."""
    folder = kept_folder().resolve()
    paths = [path for path in folder.rglob("*.json") if path.is_file() and path.resolve().is_relative_to(folder)]
    newest_first = sorted(paths, key=lambda path: (-path.stat().st_mtime_ns, path.name))
    return {path.relative_to(folder).as_posix(): path for path in newest_first}


def _files_of(kind: str) -> tuple[list[Path], list[str]]:
    """ComfyUI's folders of a kind of model, and the paths of all files below them."""
    return [Path(root) for root in folder_paths.get_folder_paths(kind)], folder_paths.get_filename_list(kind)
