"""The published program beside this one, on a CPU: python -m benchmarks.published --clone FOLDER [--checkpoint demo]

FOLDER is a clone of Alpha-VLLM/Lumina-mGPT-2.0. Nothing of it is copied here: it is imported, so this runs where
transformers 4.46.2 is installed beside what this project needs. The checkpoint is the demo, "golden" (the end-to-end
checkpoint of the folder that the environment variable LUMINA_GOLDEN names, see tests/golden/README.md), or any folder
in the published form.

Both programs get the same prompt ids, sizes, guidance (4), top-k (4096), temperature (1), threads and float32 weights,
loaded once. Each picture is drawn by every program in turn, and the order rotates by one with each picture. Seconds are
those of token generation alone, the prompt's forward included: of the published program the call of `generate` on its
model, which it prints as "SAMPLE TIME", of this one `result.seconds`. Printed are medians and ranges over the rounds,
ratios taken within each round. Drawn tokens are the image codes. Forwards of the published program are the calls of its
model, which its one-at-a-time sampler makes twice a token for guidance; of this one those after the prompt's, each for
both branches of guidance.

What is patched in the published program, and why that is fair:
- Its packages for pictures, training and sentencepiece are stubs, and its MoVQGAN is not made: token generation uses
  none of them.
- Tensors that it makes on "cuda" are made on the CPU, and its weights are float32 in place of bfloat16 under autocast:
  this program computes in float32 here too. Its attention is PyTorch's `scaled_dot_product_attention`, also where a
  config that was saved with `_attn_implementation_autoset` would make its loader take the slower one.
- The ids of the image codes, which are constants in it, are those of the checkpoint's config. The logits processors
  are made once and used again for each picture, which they allow; their making is not timed in any case.
- The three tokens of a picture's header are forced where it would draw them, since a small model need not know them.
  It runs its forwards for them all the same, as it does with the published checkpoint; this program needs none.
- Only in the rows "look-up cached": to read a picture's size from its tokens, the published program builds a table of
  its whole vocabulary each time, four times a picture (twice when speculative). There the table is built once, before.
  This cost is the same for a picture of any size, so a small picture shows it and a large one hides it.

The speculative sampler is set as the published script sets it for text to image: 16 tokens, random drafts. It samples
from another distribution than the published one-at-a-time sampler; `ar` and `gumbel` sample from that one's.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch

from lumina_core import Lumina, load_transformer
from lumina_core.checkpoint.find import open_checkpoint
from lumina_core.checkpoint.locate import DEMO, DEMO_FOLDER
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.errors import InputError
from lumina_core.pictures.sizes import UNIT_PIXELS
from lumina_core.tokens.prompts import build_prompt

from .arguments import exit_code
from .published_program import (
    CFG,
    TEMPERATURE,
    TOP_K,
    Clone,
    Drawing,
    Picture,
    Program,
    Published,
    Size,
    import_clone,
)
from .whole_numbers import positive

WINDOW = 32
PROMPTS = (
    "a red circle left of a blue square",
    "a picture of a square and a triangle",
    "a green cross above a yellow triangle",
    "There are three small purple squares",
)
PROGRAMS = {
    "published-ar": "published, one at a time",
    "published-ar-cached": "published, one at a time, look-up cached",
    "published-sjd": "published, speculative",
    "published-sjd-cached": "published, speculative, look-up cached",
    "ar": "ours, `ar`",
    "gumbel": f"ours, `gumbel`, {WINDOW}",
}
OURS = ("ar", "gumbel")
BASES = ("published-ar", "published-ar-cached", "published-sjd")
# The sizes and the programs of a checkpoint. With random weights drafts seldom hold.
ON_DEMO = (((96, 96),), ("published-ar", "published-sjd", "ar", "gumbel"))
ON_GOLDEN = (((64, 96), (192, 192)), ("published-ar", "published-ar-cached", "ar"))


def load_ours(folder: Path) -> tuple[Callable[[str, Size], tuple[int, ...]], Callable[[str], Program]]:
    """This program: a function from prompt and size to token ids, and one from a decoder's name to a program."""
    checkpoint = open_checkpoint(folder)
    transformer = load_transformer(checkpoint, dtype=torch.float32)
    lumina = Lumina(transformer, checkpoint.vocabulary)

    def encode(prompt: str, size: Size) -> tuple[int, ...]:
        return tuple(checkpoint.tokenizer.encode_prompt(build_prompt("t2i", *size, prompt)))

    def program(decoder: str) -> Program:
        def draw_picture(picture: Picture) -> Drawing:
            settings = DecodeSettings(CFG, TOP_K, TEMPERATURE, picture.seed, decoder, window_size=WINDOW)
            request = Request([picture.ids], *picture.grid, settings=settings)
            result = lumina.sample(request)
            complete = tuple(result.codes.shape) == (1, *picture.grid)
            return Drawing(result.seconds, result.nfe, result.sampled_tokens, complete)

        return draw_picture

    return encode, program


def build_program(name: str, ours: Callable[[str], Program], clone: Clone, folder: Path, size: Size) -> Program:
    """One of PROGRAMS."""
    if name in OURS:
        return ours(name)
    return Published(clone, folder, size, speculative="-sjd" in name, cached=name.endswith("-cached"))


def measure(programs: Mapping[str, Program], pictures: Sequence[Sequence[Picture]]) -> dict[str, list[list[Drawing]]]:
    """What every picture of every round took, by program; a first picture, which is not counted, warms all up."""
    names = list(programs)
    drawings: dict[str, list[list[Drawing]]] = {name: [[] for _ in pictures] for name in names}
    for program in programs.values():
        program(pictures[0][0])
    for number, of_round in enumerate(pictures):
        for picture in of_round:
            for name in names:
                drawings[name][number].append(programs[name](picture))
            names = names[1:] + names[:1]
    return drawings


def table(drawings: Mapping[str, Sequence[Sequence[Drawing]]]) -> str:
    """Medians over the rounds, with their ranges, in Markdown."""
    bases = [name for name in BASES if name in drawings]
    heads = ["program", "seconds a round", "ms a drawn token", "forwards a picture"]
    heads += [f"faster than {PROGRAMS[base]}" for base in bases]
    seconds = {name: [sum(one.seconds for one in of_round) for of_round in rounds] for name, rounds in drawings.items()}
    lines = [_row(heads), "|---" * len(heads) + "|"]
    for place, (name, rounds) in enumerate(drawings.items()):
        codes = [max(1, sum(one.codes for one in of_round)) for of_round in rounds]
        forwards = median(one.forwards for of_round in rounds for one in of_round)
        cells = [PROGRAMS[name], _spread(seconds[name]), _spread(_ratios(seconds[name], codes), 1000), f"{forwards:g}"]
        before = list(drawings)[:place]
        cells += [_spread(_ratios(seconds[base], seconds[name])) if base in before else "" for base in bases]
        lines.append(_row(cells))
    return "\n".join(lines)


def _ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [value / other for value, other in zip(values, others, strict=True)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float], scale: float = 1) -> str:
    return f"{scale * median(values):.3g} ({scale * min(values):.3g} to {scale * max(values):.3g})"


def check(drawings: Mapping[str, Sequence[Sequence[Drawing]]]) -> str:
    """Whether all programs drew complete pictures with the same number of tokens."""
    totals, faults = {}, []
    for name, rounds in drawings.items():
        pictures = [one for of_round in rounds for one in of_round]
        totals[name] = sum(one.codes for one in pictures)
        broken = sum(not one.complete for one in pictures)
        if broken:
            faults.append(f"{broken} of {len(pictures)} pictures of {PROGRAMS[name]} are not complete.")
    if len(set(totals.values())) > 1:
        faults.append(f"The drawn tokens are {', '.join(f'{n} of {PROGRAMS[name]}' for name, n in totals.items())}.")
    if faults:
        return " ".join(("NOT ALIKE:", *faults))
    return f"Every program drew complete pictures, {next(iter(totals.values()))} tokens over all rounds."


def machine(clone: Path) -> str:
    """Where and when this ran, and which version of the published program."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    command = ["git", "-C", str(clone), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    commit = done.stdout.strip() or "of an unknown commit"
    processor = models[0] if models else platform.processor()
    transformers = sys.modules["transformers"].__version__
    return (
        f"{datetime.date.today()}, {processor} ({os.cpu_count()} cores), torch {torch.__version__}, "
        f"{torch.get_num_threads()} thread(s), transformers {transformers}, published program {commit}"
    )


@contextlib.contextmanager
def checkpoint_folder(name: str) -> Iterator[Path]:
    """The folder that both programs read; that of "golden" is made for the while out of its two parts."""
    if name != "golden":
        yield DEMO_FOLDER if name == DEMO else Path(name)
        return
    golden = os.environ.get("LUMINA_GOLDEN")
    parts = [Path(golden or "", *part) for part in (("tokenizer",), ("end_to_end", "checkpoint"))]
    if not golden or not all(part.is_dir() for part in parts):
        raise InputError("LUMINA_GOLDEN names no folder with the large golden data (see tests/golden/README.md)")
    with tempfile.TemporaryDirectory() as folder:
        for file in (file for part in parts for file in part.iterdir()):
            shutil.copyfile(file, Path(folder, file.name))
        yield Path(folder)


def run(options: argparse.Namespace) -> None:
    """Measures every size and prints its table."""
    clone = import_clone(options.clone)
    sizes, names = ON_GOLDEN if options.checkpoint == "golden" else ON_DEMO
    chosen = [name for name in PROGRAMS if name in (options.programs or names)]
    print(f"{machine(options.clone)}; {options.checkpoint}, {options.rounds} round(s) of {options.prompts} picture(s)")
    with checkpoint_folder(options.checkpoint) as folder:
        encode, ours = load_ours(folder)
        for size in options.sizes or sizes:
            programs = {name: build_program(name, ours, clone, folder, size) for name in chosen}
            prompts = [(text, encode(text, size)) for text in PROMPTS[: options.prompts]]
            seeds = iter(range(options.rounds * len(prompts)))
            pictures = [[Picture(*prompt, size, next(seeds)) for prompt in prompts] for _ in range(options.rounds)]
            drawings = measure(programs, pictures)
            print(f"\n{size[0]}×{size[1]} pixels. {check(drawings)}\n\n{table(drawings)}", flush=True)


def _size(text: str) -> Size:
    sides = tuple(map(int, text.split("x")))
    if len(sides) != 2 or any(side < UNIT_PIXELS or side % UNIT_PIXELS for side in sides):
        raise argparse.ArgumentTypeError(f"{text} is no WxH in multiples of {UNIT_PIXELS}")
    return sides


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clone", type=Path, required=True, help="folder of the published program")
    parser.add_argument("--checkpoint", default="demo", help="demo, golden or a folder")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument(
        "--prompts", type=int, choices=range(1, len(PROMPTS) + 1), default=len(PROMPTS), help="in a round"
    )
    parser.add_argument("--sizes", type=_size, nargs="+", metavar="WxH", help="in pixels")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, help="default: those that suit the checkpoint")
    parser.add_argument("--threads", type=positive, default=1)
    return parser.parse_args(arguments)


def main() -> int:
    """Runs the command line: 0, or 2 with one line on stderr for bad input."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    return exit_code("published", lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
