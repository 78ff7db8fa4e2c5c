"""Time and memory of `convert` on tensors of full size: python -m benchmarks.conversion [--layers 2] [--weights int4]

Creates a checkpoint of random weights in the published form, with the 7B's sizes but few layers, converts it in its own
process and reports the peak memory of that process. Layers are converted one after another, so the peak is that of the
full model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lumina_core.checkpoint.config import TransformerConfig
from lumina_core.checkpoint.locate import DEMO_FOLDER
from lumina_core.checkpoint.published import published_shapes
from lumina_core.checkpoint.tensor_writer import TensorWriter, lay_out
from lumina_core.checkpoint.tensors import TensorSpec
from lumina_core.convert import CONVERT_WEIGHTS
from lumina_core.files.output_files import OutputFiles

from .arguments import exit_code

PUBLISHED = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "max_position_embeddings": 10240,
    "vocab_size": 171_385,
}
LAYERS = 32
CHILD = """
import sys, torch
from lumina_core.cli.main import main
from lumina_core.device import peak_bytes
code = main(sys.argv[1:])
print(peak_bytes(torch.device("cpu")))
sys.exit(code)
"""


@dataclass(frozen=True)
class Measured:
    """One conversion: bytes of both checkpoints and of the process's peak, and seconds."""

    weights: str
    layers: int
    source_bytes: int
    converted_bytes: int
    peak_bytes: int
    seconds: float


def make_checkpoint(folder: Path, layers: int) -> int:
    """Writes config, the demo's tokenizer and random weights; returns the bytes of the weights."""
    values = {**PUBLISHED, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_FOLDER / name, folder)
    shapes = published_shapes(TransformerConfig.from_dict(values))
    layout = lay_out({name: TensorSpec("BF16", shape) for name, shape in shapes.items()}, {})

    def write(file) -> None:
        writer = TensorWriter(file, layout)
        for name, shape in shapes.items():
            writer.put(name, torch.randn(shape, dtype=torch.bfloat16).mul_(0.02))
        writer.finish()

    with OutputFiles() as files:
        files.write(folder / "model.safetensors", write)
    return layout.size


def measure(folder: Path, weights: str, layers: int, source_bytes: int) -> Measured:
    """Converts in its own process, on the CPU."""
    out = folder / "converted.safetensors"
    arguments = ["convert", "--checkpoint", str(folder), "--weights", weights, "--device", "cpu", "--out", str(out)]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - start
    return Measured(weights, layers, source_bytes, out.stat().st_size, int(done.stdout.splitlines()[-1]), seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the measurement as JSON; returns 2 after one line on stderr for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2, help=f"of the model's {LAYERS}")
    parser.add_argument("--weights", choices=CONVERT_WEIGHTS, default="int4")
    parser.add_argument("--folder", type=Path, help="for the files, about 7 GB (default: the system's)")
    options = parser.parse_args(arguments)
    return exit_code("conversion", lambda: run(options))


def run(options: argparse.Namespace) -> None:
    """Makes and converts a checkpoint in a temporary folder."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source_bytes = make_checkpoint(Path(folder), options.layers)
        measured = measure(Path(folder), options.weights, options.layers, source_bytes)
    print(json.dumps(asdict(measured)))


if __name__ == "__main__":
    sys.exit(main())
