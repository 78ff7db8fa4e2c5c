"""The micro-benchmarks of the kernels take their settings from the command line and time what they say."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.kernels import attention, choice, clock, matmul, rest
from benchmarks.kernels.__main__ import main
from benchmarks.kernels.arguments import attention_arguments, fill, matmul_arguments, nbytes, tensors
from lumina_core.kernels import reference
from lumina_core.kernels.select import reference_of
from lumina_core.kernels.tiles import matmul_tile
from lumina_core.kernels.window_state import RULES
from lumina_core.model.load import linear_shapes
from lumina_core.timing.synthetic import SYNTHETIC

ROOT, CPU = Path(__file__).parents[2], torch.device("cpu")
TINY, PUBLISHED = SYNTHETIC["tiny"].config, SYNTHETIC["7b"].config
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def run(*arguments: object) -> list[dict]:
    """The figures of `python -m benchmarks.kernels`, in Triton's interpreter."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.kernels", *map(str, arguments), "--model", "tiny"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs_triton
def test_a_matmul_is_timed_at_every_tile_that_is_named() -> None:
    figures = run("int4_matmul", "--rows", 2, "--layers", "o_proj", "--outputs", 32, 64, "--warps", 4, "--stages", 2)
    tiles = [(one["in_use"], one["tile"]["outputs"], one["tile"]["warps"], one["tile"]["stages"]) for one in figures]
    assert tiles == [(True, 128, 4, 3), (False, 32, 4, 2), (False, 64, 4, 2)]
    for one in figures:
        assert (one["layer"], one["in"], one["out"], one["rows"]) == ("o_proj", 64, 64, 2)
        assert one["us"] > 0 and one["off"] < 0.02 and one["bytes"] == 2 * 64 * 2 + 64 * 64 + 64 * 4
        assert one["share"] > 0


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("window_attention", "--windows", 2, "--context", 40, "--slots", 32, "--kv", "int4"), [True, False]),
        (("silu_gate", "--rows", 2, "--warps", 2, "--outputs", 64, 128, "--splits", 1), [True, False, False]),
        (("add_rms_norm", "--rows", 2, "--warps", 2), [True, False]),
        (("qkv_norm_rope_store", "--rows", 4), [True]),
        (("embed_window", "--rows", 4), [True]),
        (("draw_window", "--rows", 4, "--rules", "gumbel", "sjd", "--warps", 2), [True, False] * 2),
        (("accept_window", "--rows", 2), [True]),
        (("place_drafts", "--rows", 4, "--rules", "gumbel", "coupled"), [True] * 2),
    ],
)
def test_the_other_kernels_are_timed_too(arguments: tuple, expected: list[bool]) -> None:
    figures = run(*arguments)
    assert [one["in_use"] for one in figures] == expected
    assert all(one["kernel"] == arguments[0] and one["us"] > 0 and "error" not in one for one in figures)


def test_without_a_gpu_it_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert main(["draw_window"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("benchmarks.kernels: there is no CUDA device") and err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["dance"], ["int4_matmul", "--rows", "0"], ["int4_matmul", "--layers", "head"]])
def test_bad_options_are_refused(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2


def test_tiles_begin_with_the_one_in_use_and_none_is_there_twice() -> None:
    for problem in matmul.problems(linear_shapes(PUBLISHED), (2, 64, 128)):
        for scheme, bits in (("int4", 4), ("int8", 8)):
            tiles = matmul.tiles_of(scheme, problem)
            assert tiles[0] == matmul_tile(problem.rows, *problem.shape, torch.bfloat16, bits)
            assert len(set(tiles)) == len(tiles)
    # Of 32 groups of inputs, 6 splits have six each, and five would too.
    problem = matmul.Problem("o_proj", (4096, 4096), 2)
    assert len(matmul.tiles_of("int4", problem, [(32, 2)], [3], [6, 5, 1])) == 4


def test_a_tile_that_fails_is_a_figure_and_so_is_what_torch_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(x, *packed, sum_splits=True, tile=None):
        if tile.warps == 8:
            raise RuntimeError("out of resource: shared memory\nmore")
        result = reference.int4_matmul(x, *packed, sum_splits=sum_splits)
        return result * 2 if tile.warps == 2 else result

    monkeypatch.setattr(matmul, "load", lambda name: kernel)
    problem = matmul.Problem("o_proj", (256, 64), 2)
    used = problem.tile_in_use("int4")
    tiles = [used, replace(used, warps=2), replace(used, warps=8)]
    good, off, failed = matmul.sweep("int4", problem, tiles, clock.Clock(CPU, 1e10))
    assert good["off"] == 0 and off["off"] == pytest.approx(1, abs=0.01)
    assert failed["error"] == "RuntimeError: out of resource: shared memory"
    names = [one["kernel"] for one in matmul.others(problem, clock.Clock(CPU, 1e10))]
    assert names == ["torch bf16", "torch int4", "torch fp8"]


def test_splits_are_chosen_for_a_layer_and_tiles_for_a_number_of_rows() -> None:
    def figure(layer: str, rows: int, outputs: int, splits: int, us: float, **more) -> dict:
        tile = {"rows": 16, "outputs": outputs, "warps": 4, "stages": 2, "splits": splits}
        told = {"kernel": "int4_matmul", "layer": layer, "rows": rows, "tile": tile, "us": us, "off": 0.0}
        return {**told, "in_use": outputs == 32 and splits == 1, "sums_bytes": 0, **more}

    figures = [
        # Alone, two rows want two splits of the layer, and 64 want one: the sum decides.
        *(figure("up", 2, 32, splits, us) for splits, us in ((1, 10.0), (2, 9.0))),
        *(figure("up", 64, 32, splits, us) for splits, us in ((1, 20.0), (2, 30.0))),
        *(figure("up", rows, 64, 1, us) for rows, us in ((2, 11.0), (64, 12.0))),
        # Another layer is slower with what is best for the first.
        *(figure("down", rows, outputs, 1, us) for rows, outputs, us in ((2, 32, 5.0), (64, 32, 5.0), (2, 64, 6.0))),
        figure("down", 64, 64, 1, 9.0),
        figure("down", 64, 128, 1, 0.1, off=0.5),
    ]
    (chosen,) = choice.choose_tiles(figures, 1e12)
    assert chosen.splits == {"up": 1, "down": 1}
    assert [(one.rows, one.in_use, one.best, one.tile["outputs"]) for one in chosen.rows] == [
        (2, 15.0, 15.0, 32),
        (64, 25.0, 21.0, 64),
    ]
    # Sums that the next kernel has to read count: 100 MB at 1 TB/s are 100 µs.
    split = [figure("up", 2, 32, 1, 50.0), figure("up", 2, 32, 2, 10.0, sums_bytes=10**8)]
    assert choice.choose_tiles(split, 1e12)[0].splits == {"up": 1}
    assert choice.choose_tiles(split, 1e15)[0].splits == {"up": 2}


def test_of_rows_that_a_sweep_cut_short_has_not_for_every_layer_nothing_follows() -> None:
    def figure(layer: str, rows: int, splits: int, us: float) -> dict:
        tile = {"rows": 16, "outputs": 32, "warps": 4, "stages": 2, "splits": splits}
        told = {"kernel": "int4_matmul", "layer": layer, "rows": rows, "tile": tile, "us": us, "off": 0.0}
        return {**told, "in_use": splits == 1, "sums_bytes": 0}

    figures = [figure(layer, 2, splits, us) for layer in ("up", "down") for splits, us in ((1, 30.0), (6, 10.0))]
    cut = [*figures, figure("up", 64, 1, 5.0), figure("up", 64, 6, 50.0)]
    (chosen,) = choice.choose_tiles(cut, 1e12)
    assert chosen.splits == {"up": 6, "down": 6} and chosen.left_out == (64,)
    assert [(one.rows, one.in_use, one.best) for one in chosen.rows] == [(2, 60.0, 20.0)]
    (nothing,) = choice.choose_tiles([*figures[:2], figure("down", 64, 1, 5.0)], 1e12)
    assert nothing.rows == () and nothing.left_out == (2, 64)


def test_arguments_are_those_of_the_kernels() -> None:
    x, packed, scale_zero = fill(matmul_arguments("int4", (256, 64), 3, CPU))
    assert reference.int4_matmul(x, packed, scale_zero).shape == (3, 64)
    for kv_cache in ("auto", "int8", "int4"):
        arguments = fill(attention_arguments(TINY, kv_cache, 4, 40, 128, CPU))
        assert reference.window_attention(*arguments).shape == (2, 4, 2, 32)
        assert all(bool(tensor.any()) for tensor in tensors(arguments))
        problem = attention.Problem(TINY, kv_cache, 4, 40, 128)
        assert problem.read_bytes * 128 == nbytes(arguments[1:3]) * 44
    for kernel in rest.ARGUMENTS:
        problem = rest.Problem(TINY, 4, rest.splits_in_use(kernel, TINY))
        for rule in RULES if kernel in rest.RULED else RULES[:1]:
            arguments = fill(rest.ARGUMENTS[kernel](replace(problem, rule=rule), CPU))
            reference_of(kernel)(*arguments)
            read = nbytes(rest.READ.get(kernel, lambda given: given)(arguments))
            assert 0 < read <= nbytes(arguments)


def test_a_window_is_of_so_many_tokens_of_both_branches() -> None:
    problem = rest.Problem(TINY, 8, rule="sjd")
    logits, state, width = rest.ARGUMENTS["draw_window"](problem, CPU)
    assert logits.shape == (2, 4, TINY.codebook_size) and logits.dtype == torch.bfloat16 and width == state.window == 4
    assert state.sampling.guided and state.sampling.top_k < TINY.codebook_size
    assert state.layout.header < int(state.pos) < state.layout.last - 1000
    *_, sums = rest.READ["draw_window"]((logits, state, width))
    assert sums is state.draft_probs and sums.shape == (1, 3, TINY.codebook_size)


def test_calls_after_one_another_find_a_window_to_move() -> None:
    state, drawn = rest.ARGUMENTS["accept_window"](rest.Problem(TINY, 8), CPU)
    for call in range(1, 5):
        before = int(state.pos)
        reference_of("accept_window")(state, drawn)
        assert (int(state.pos), int(state.accepted), int(state.steps)) == (before + 1, 1, call)


def test_inputs_are_more_than_the_cache_of_a_gpu_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        L2_cache_size = 50 * 2**20

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    timing = clock.Clock(torch.device("cuda"), 3e12)
    for size in (2**10, 2**20, 45 * 2**20, 2**30):
        copies = timing.copies(size)
        assert copies >= 2 and (copies * size >= 4 * Properties.L2_cache_size or copies * size > 2**30)
    assert timing.share(3 * 10**9, 2e-3) == pytest.approx(0.5)
