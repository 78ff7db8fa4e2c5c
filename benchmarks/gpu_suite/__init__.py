"""Everything that is to be measured on a GPU, in one command that leaves no minute of it unused.

    python3 -m benchmarks.gpu_suite --out FOLDER [--seconds 540] [--only STAGE ...] [--dry-run]
    python3 -m benchmarks.gpu_suite --report FOLDER/results.jsonl

Stages run one after the other, each in a process of its own with a limit of its own, all before one deadline. Each
leaves a JSON line in FOLDER/results.jsonl when it ends, whatever became of it; what it printed is in FOLDER/log.txt.
The exit code is 0 where every stage ended well or was skipped, 1 where one did not, 2 for a bad command line.
`--dry-run` runs them at toy sizes on a CPU. `--report` writes the tables of the lines into docs/results.md.

With fifteen minutes on a machine: the whole suite first; then, with what it says mended or put into
`lumina_core/kernels/tiles.py`, `--seconds 150 --only steps weights ncu`.

Needs the repository, PyTorch, safetensors, tokenizers, NumPy, Pillow and pytest; Triton for the kernels; pytest-xdist
and ncu where they are there.
"""
