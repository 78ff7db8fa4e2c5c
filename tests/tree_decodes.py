"""Whole runs by all kernels in the interpreter, with and without a draft tree. As a program: the codes, by name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch

from benchmarks.interpreter import prepare_interpreter
from lumina_core.decoding.loop import decode
from lumina_core.decoding.request import Request
from lumina_core.decoding.settings import DecodeSettings
from lumina_core.kernels.select import Choice, load
from lumina_core.model.run_kernels import BlockKernels, RunKernels
from lumina_core.model.transformer import Transformer

from .core.toys import AnySize, toy_transformer, toy_vocabulary
from .kernel_cases import BF16, forward_model

CODES = 16
OF_A_BLOCK = ("embed_window", "qkv_norm_rope_store", "silu_gate", "add_rms_norm")
OF_A_WINDOW = ("draw_window", "accept_window", "keep_branch")
SETTINGS = DecodeSettings(cfg_scale=1.0, top_k=12, seed=5, window_size=4, kv_cache="int8", tree=0)
RUNS = {"ar": replace(SETTINGS, decoder="ar"), "no tree": SETTINGS, "tree": replace(SETTINGS, tree=6)}


def main() -> None:
    toy = toy_transformer(CODES, hidden=32, heads=2)
    model = forward_model(toy, BF16, num_hidden_layers=1)
    found: dict[str, Any] = {}
    for name, settings in RUNS.items():
        blocks = BlockKernels(*map(load, OF_A_BLOCK))
        of_window = {kernel: load(kernel) for kernel in OF_A_WINDOW}
        attention = Choice(load("window_attention"), True, "tested here")
        kernels = RunKernels(attention, blocks, **of_window, allocates=False, width=settings.slots)
        # Nothing is selected: the interpreter has no device on which kernels pass their self-tests.
        Transformer.choose_kernels = lambda *_, chosen=kernels: chosen  # type: ignore[method-assign]
        request = Request([[20, 21, 4]], 3, 4, None, settings)
        result = decode(model, toy_vocabulary(CODES, AnySize), request)
        found[name] = {"codes": result.codes.tolist(), "lengths": result.accept_lengths[0], "nfe": result.nfe}
    print(json.dumps(found))


if __name__ == "__main__":
    prepare_interpreter()
    torch.set_num_threads(1)
    main()
