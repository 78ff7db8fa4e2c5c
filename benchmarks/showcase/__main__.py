"""Makes the pictures of the README, the templates and the help anew: python -m benchmarks.showcase [--only PART ...]

readme: docs/pictures/demo_tasks.png.
cards: example_workflows/*.jpg, what the examples draw when they are run in ComfyUI.
help: web/docs/pictures/*.webp, small graphs in ComfyUI's page, after a run.
Pictures of readme and help are of the first seed, from 0, whose picture is right as the world's recogniser reads it.
Examples have their own seeds. What is wrong is told.

Cards and help need a ComfyUI (COMFYUI_PATH and COMFYUI_PYTHON; else ~/comfy/ComfyUI and the Python of its .venv),
Chromium, and the packages of the extra `test`. All is drawn on the CPU.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from lumina_core.errors import InputError

from ..arguments import exit_code
from ..whole_numbers import positive
from .cards import CARDS, check_examples, make_card
from .comfyui import PACK, find_all, page_of_comfyui
from .graphs import graphs
from .help import make_pictures
from .readme import draw_sheet

if TYPE_CHECKING:
    from browser import Tab

README, CARD, HELP = "readme", "cards", "help"
FOLDERS = {README: "docs/pictures", CARD: "example_workflows", HELP: "web/docs/pictures"}
SHEET = "demo_tasks"


def run(options: argparse.Namespace) -> None:
    """Makes what the options ask for. Raises InputError for what is missing, before anything is drawn."""
    sheets, cards, helps = (
        asked(options, part, names) for part, names in ((README, (SHEET,)), (CARD, CARDS), (HELP, graphs()))
    )
    unknown = set(options.names) - {*sheets, *cards, *helps}
    if unknown:
        raise InputError(f"no part of {', '.join(options.only)} has a picture {', '.join(sorted(unknown))}")
    if cards:
        check_examples(cards)
    found = find_all() if cards or helps else None
    folders = made_folders(options.out)
    if sheets:
        write(folders[README] / f"{SHEET}.png", png(draw_sheet(options.seeds)))
    if found is None:
        return
    with page_of_comfyui(*found) as tab:
        refused = [refusal for name in cards if (refusal := write_card(tab, name, folders[CARD]))]
        for name, file in make_pictures(tab, helps, options.seeds).items():
            write(folders[HELP] / f"{name}.webp", file)
    if refused:
        raise InputError("; ".join(refused))


def write_card(tab: Tab, name: str, folder: Path) -> str:
    """Writes a card. Returns why it could not be made, or an empty text."""
    try:
        write(folder / f"{name}.jpg", make_card(tab, name))
    except InputError as error:
        return str(error)
    return ""


def asked(options: argparse.Namespace, part: str, names: Iterable[str]) -> list[str]:
    """The names of the pictures of a part that are asked for."""
    return [name for name in names if part in options.only and (not options.names or name in options.names)]


def made_folders(out: Path | None) -> dict[str, Path]:
    """The folder of each part, in the repository or below `out`, where they are made."""
    folders = {part: (PACK if out is None else out) / folder for part, folder in FOLDERS.items()}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return folders


def write(path: Path, file: bytes) -> None:
    path.write_bytes(file)
    print(f"{path}: {len(file):,} bytes", flush=True)


def png(picture: Image.Image) -> bytes:
    with io.BytesIO() as file:
        picture.save(file, "PNG", optimize=True)
        return file.getvalue()


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.showcase", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=tuple(FOLDERS), default=list(FOLDERS), help="parts to make")
    parser.add_argument(
        "--names", nargs="+", default=[], help="names of pictures to make, without suffix; default: all"
    )
    parser.add_argument("--seeds", type=positive, default=8, help="tried for each picture of readme and help")
    parser.add_argument("--out", type=Path, help="folder to write to, in the folders of the repository; default: there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line: 0, or 2 with one line on stderr for bad input or what is missing."""
    options = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    return exit_code("showcase", lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
