"""All GPU measurements in one command, for a limited time on a machine.

    python3 -m benchmarks.gpu_suite --out FOLDER [--seconds 540] [--only STAGE ...] [--dry-run]
    python3 -m benchmarks.gpu_suite --report FOLDER/results.jsonl

Stages run one after another, each in its own process with its own time limit, all before one deadline. When a stage
ends, successfully or not, its JSON line is added to FOLDER/results.jsonl; its output is in FOLDER/log.txt. The exit
code is 0 if every stage succeeded or was skipped, 1 if one failed, 2 for a bad command line. `--dry-run` runs the
stages at toy sizes on a CPU. `--report` writes the tables of the lines into docs/results.md.

With fifteen minutes on a machine, run the whole suite first. Then fix what it reports, put the best tiles into
`lumina_core/kernels/tiles.py`, and run `--seconds 150 --only steps weights ncu`.

Needs the repository, PyTorch, safetensors, tokenizers, NumPy, Pillow and pytest; Triton for the kernels. Uses
pytest-xdist and ncu if they are installed.
"""
