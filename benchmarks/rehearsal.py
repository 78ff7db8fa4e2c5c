"""The published sizes from the shards to a picture, on the CPU: python -m benchmarks.rehearsal [--folder FOLDER]

Writes random weights of the published 7B as 16 GB of shards with an index, and a MoVQGAN of the published sizes, then
runs the commands that a user runs, each in its own process: `convert`, and `generate` from the converted file. Prints
the seconds and the peak memory of each, and what the peak of `generate` consists of. `--layers 2` tries it in little.
The pictures are noise; nothing in here says anything of quality.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.locate import DEMO_FOLDER
from lumina_core.checkpoint.published import published_shapes
from lumina_core.convert import CONVERT_WEIGHTS
from lumina_core.movqgan.autoencoder import MoVQGAN
from lumina_core.movqgan.config import PUBLISHED_MOVQGAN
from lumina_core.timing.synthetic import WEIGHT_STD

from .arguments import exit_code
from .conversion import PUBLISHED

SHARD_BYTES = 4 * 10**9
LAYERS = 32
# A process that runs a command and prints its peak memory, and the pages of files in it.
CHILD = """
import sys
from lumina_core.cli.main import main
from lumina_core.device import peak_bytes
from lumina_core.host.limits import proc_bytes
import torch
code = main(sys.argv[1:])
print(peak_bytes(torch.device("cpu")), proc_bytes("self/status", "RssFile"), proc_bytes("self/status", "RssAnon"))
sys.exit(code)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table and JSON; returns 2 after one line on stderr for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for 21 GB of files, which are deleted (default: the system's)")
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"of the model's {LAYERS}")
    parser.add_argument("--weights", choices=CONVERT_WEIGHTS, default="int4")
    parser.add_argument("--side", type=int, default=128, help="of the square picture in pixels")
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--kv", default="int8")
    options = parser.parse_args(arguments)
    return exit_code("rehearsal", lambda: run(options))


def run(options: argparse.Namespace) -> None:
    """Makes the files in a temporary folder, and measures both commands."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        shards = make_shards(folder / "model", options.layers)
        make_codec(folder / "model" / "movqgan_270M.ckpt")
        out, stats = folder / "converted.safetensors", folder / "stats.json"
        converted = measure("convert", "--checkpoint", folder / "model", "--weights", options.weights, "--out", out)
        shutil.rmtree(folder / "model")  # what `generate` reads is the converted file alone
        picture = ("--width", options.side, "--height", options.side, "--out", folder / "picture.png")
        how = ("--window", options.window, "--kv", options.kv, "--stats-out", stats)
        drawn = measure("generate", "--checkpoint", out, "--device", "cpu", "--prompt", "a cat", *picture, *how)
        report = {
            "shards_bytes": shards,
            "converted_bytes": out.stat().st_size,
            "convert": converted,
            "generate": drawn,
        }
        report["stats"] = json.loads(stats.read_text(encoding="utf-8"))
    print_table(report)
    print(json.dumps(report))


def print_table(report: dict[str, Any]) -> None:
    """The figures of both commands."""
    print("command   seconds  peak GB  of it in files at the end")
    for command in ("convert", "generate"):
        one = report[command]
        print(f"{command:9} {one['seconds']:7.1f} {one['peak'] / 1e9:8.2f} {one['in_files'] / 1e9:8.2f}")
    stats = report["stats"]
    each = stats["seconds"] / stats["nfe"]
    print(f"{stats['sampled_tokens']} codes in {stats['nfe']} forwards, {each:.2f} s each, by {stats['kernel']}")


def measure(command: str, *options: object) -> dict[str, float]:
    """The seconds and peak bytes of a command in its own process, and what of it are pages of files at the end."""
    start = time.perf_counter()
    run = [sys.executable, "-c", CHILD, command, *map(str, options)]
    done = subprocess.run(run, stdout=subprocess.PIPE, text=True, check=True)
    peak, in_files, own = (int(value) for value in done.stdout.splitlines()[-1].split())
    return {"seconds": time.perf_counter() - start, "peak": peak, "in_files": in_files, "own": own}


def make_shards(folder: Path, layers: int) -> int:
    """Writes config, the demo's tokenizer, random weights in bfloat16 as shards, and their index; returns the bytes."""
    folder.mkdir()
    values = {**PUBLISHED, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_FOLDER / name, folder)
    home, total = dict[str, str](), 0
    for number, shard in enumerate(_shards(published_shapes(TransformerConfig.from_dict(values)))):
        file = f"model-{number:05d}.safetensors"
        save_file(shard, folder / file)
        home |= dict.fromkeys(shard, file)
        total += sum(tensor.nbytes for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": home}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return total


def _shards(shapes: dict[str, tuple[int, ...]]) -> Iterator[dict[str, Tensor]]:
    """Random tensors of these shapes, about SHARD_BYTES at a time."""
    generator = torch.Generator().manual_seed(0)
    shard, size = dict[str, Tensor](), 0
    for name, shape in shapes.items():
        if "norm" in name:
            tensor = torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        else:
            tensor = torch.empty(shape, dtype=torch.bfloat16).normal_(0, WEIGHT_STD, generator=generator)
        shard[name], size = tensor.bfloat16(), size + 2 * tensor.numel()
        if size >= SHARD_BYTES:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard


def make_codec(path: Path) -> None:
    """Writes a MoVQGAN of the published sizes with random weights, as a pickle like the published file."""
    generator = torch.Generator().manual_seed(1)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in MoVQGAN(PUBLISHED_MOVQGAN).state_dict().items()}
    torch.save({name: torch.randn(shape, generator=generator) * WEIGHT_STD for name, shape in shapes.items()}, path)


if __name__ == "__main__":
    sys.exit(main())
