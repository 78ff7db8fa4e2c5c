"""A model that wears LoRAs: the pictures of the merged model, exact decoding, and the weights as they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lumina_core.decoding.memory_plan import Demand, plan_memory
from lumina_core.decoding.settings import DecodeResult, DecodeSettings
from lumina_core.errors import InputError
from lumina_core.kernels.buffers import Buffers
from lumina_core.kernels.kv_tensor import KV_CACHES
from lumina_core.kernels.linear import multiply
from lumina_core.kernels.select import reference_of
from lumina_core.lora.applied import AppliedLora
from lumina_core.lora.file import Lora, LowRank
from lumina_core.lora.keys import targets
from lumina_core.lora.linear import LowRankLinear, branch_bytes
from lumina_core.memory import weights_of
from lumina_core.model.load import empty_transformer, placement
from lumina_core.model.run_kernels import BlockKernels, RunKernels
from lumina_core.model.transformer import Transformer
from lumina_core.model.wear import branches, branches_nbytes, wear
from lumina_core.pipeline import Lumina
from lumina_core.quant.weights import WeightsPlan
from lumina_core.timing.synthetic import SYNTHETIC

from ..kernel_cases import forward_model, window_states
from .demo_requests import short_request
from .lora_files import MATRICES, Pairs, random_lora, random_pairs, save_lora
from .toys import toy_transformer

BF16 = torch.bfloat16
OF_A_BLOCK = ("embed_window", "qkv_norm_rope_store", "silu_gate", "add_rms_norm")


@lru_cache
def loaded(weights: str = "fp32") -> Lumina:
    return Lumina.load("demo", weights=weights, device="cpu")


def merged(transformer: Transformer, pairs: Pairs, factor: float) -> Transformer:
    """The transformer with factor · B·A added to its weights."""
    state = {name: one.clone() for name, one in transformer.state_dict().items()}
    for (layer, matrix), (down, up) in pairs.items():
        part = "self_attn" if matrix[0] in "qkvo" else "mlp"
        place = placement(f"model.layers.{layer}.{part}.{matrix}.weight", transformer)
        state[place.parameter][place.first_row : place.first_row + len(up)] += factor * (up.double() @ down.double())
    found = empty_transformer(transformer.config, WeightsPlan(torch.float32))
    found.load_state_dict(state, assign=True)
    found.text_embedding, found.text_head = transformer.text_embedding, transformer.text_head
    return found.eval().requires_grad_(False)


def logits(transformer: Transformer) -> Tensor:
    ids = torch.randint(0, transformer.config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return transformer(ids)


def drawn(
    lumina: Lumina, decoder: str = "gumbel", window: int = 16, pictures: int = 1, **settings: Any
) -> DecodeResult:
    chosen = DecodeSettings(decoder=decoder, window_size=window, seed=4)
    return lumina.sample(short_request(lumina, "a red circle left of a blue square", pictures, chosen))


def test_logits_are_those_of_the_merged_model(tmp_path: Path) -> None:
    lumina = loaded()
    pairs = random_pairs(lumina.config)
    path = save_lora(tmp_path / "a.safetensors", pairs, metadata={"lora_alpha": "6"})
    worn = lumina.with_loras((path, 0.5))
    with torch.inference_mode():
        expected = dict[str, Tensor]()
        for strength in (1.0, -2.0):
            by_rank = {place: (down, up * 6 / len(down)) for place, (down, up) in pairs.items()}
            expected[str(strength)] = logits(merged(lumina.transformer, by_rank, 0.5 * strength))
    for strength, values in expected.items():
        applied = replace(worn.loras[0], strength=0.5 * float(strength))
        torch.testing.assert_close(logits(wear(lumina.transformer, [applied])), values, rtol=2e-4, atol=2e-4)
        assert (values - logits(lumina.transformer)).abs().max() > 0.1


@pytest.mark.parametrize(("fused", "parts"), [("qkv_proj", MATRICES[:3]), ("gate_up_proj", MATRICES[4:6])])
def test_a_fused_matrix_is_its_parts(fused: str, parts: Sequence[str]) -> None:
    transformer = loaded().transformer
    config, of_parts, of_fused = transformer.config, dict[Any, LowRank](), dict[Any, LowRank]()
    for (layer, _), (down, up) in random_pairs(config, matrices=[fused]).items():
        of_fused[layer, fused] = LowRank(down, up, 1)
        for part in parts:
            target = targets(config)[part]
            of_parts[layer, part] = LowRank(down, up[target.first_row : target.first_row + target.rows], 1)
    one, several = (AppliedLora(Lora(Path("a"), found, "")) for found in (of_fused, of_parts))
    worn = [logits(wear(transformer, [each])) for each in (one, several)]
    torch.testing.assert_close(*worn, rtol=1e-4, atol=1e-4)
    assert not torch.equal(worn[0], logits(transformer))


def test_stacked_loras_are_their_sum() -> None:
    transformer = loaded().transformer
    pairs = [random_pairs(transformer.config, rank=rank, seed=rank) for rank in (2, 5)]
    stacked = [
        AppliedLora(Lora(Path("a"), {k: LowRank(*v, 1) for k, v in each.items()}, ""), strength)
        for each, strength in zip(pairs, (0.5, -1.5), strict=True)
    ]
    expected = logits(merged(merged(transformer, pairs[0], 0.5), pairs[1], -1.5))
    torch.testing.assert_close(logits(wear(transformer, stacked)), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("weights", ["fp32", "int4"])
def test_the_weights_stay_and_a_strength_of_zero_is_the_model_without(weights: str) -> None:
    lumina = loaded(weights)
    before = {name: one.clone() for name, one in lumina.transformer.state_dict().items()}
    plain, lora = drawn(lumina), random_lora(lumina.config, 8.0)
    worn = drawn(lumina.with_loras(lora))
    assert not torch.equal(worn.codes, plain.codes)
    without = drawn(lumina.with_loras(replace(lora, strength=0)))
    assert torch.equal(without.codes, plain.codes) and without.log_likelihood == plain.log_likelihood
    again = drawn(lumina)
    assert torch.equal(again.codes, plain.codes) and again.log_likelihood == plain.log_likelihood
    after = lumina.transformer.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(one, after[name]) for name, one in before.items())
    assert not branches(lumina.transformer) and weights_of(lumina.transformer).name == weights


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8", "int4"])
def test_gumbel_draws_what_ar_draws(weights: str) -> None:
    lumina, config = loaded(weights), loaded().config
    worn = lumina.with_loras(random_lora(config, 6.0, rank=3), random_lora(config, 3.0, rank=1, seed=1))
    gumbel, ar = drawn(worn, pictures=2), drawn(worn, "ar", pictures=2)
    assert torch.equal(gumbel.codes, ar.codes) and gumbel.nfe < ar.nfe
    assert not torch.equal(gumbel.codes, drawn(lumina, pictures=2).codes)
    assert gumbel.log_likelihood == ar.log_likelihood


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_of_a_branch_depends_on_that_row_alone(dtype: torch.dtype, threads: int) -> None:
    """With 9 rows and two threads torch's own matmul rounds some of them otherwise."""
    generator, before = torch.Generator().manual_seed(0), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for rank, inputs in ((8, 64), (48, 256), (16, 4096)):
                down, up = (
                    torch.randn(rank, inputs, generator=generator),
                    torch.randn(inputs, rank, generator=generator),
                )
                layer = LowRankLinear(nn.Identity(), down.to(dtype), up.to(dtype))
                x = torch.randn(1, 40, inputs, generator=generator).to(dtype)
                whole = layer.branch(x)
                for rows in (1, 2, 7, 9, 10, 33):
                    assert torch.equal(layer.branch(x[:, 3 : 3 + rows]), whole[:, 3 : 3 + rows]), (rank, rows)
    finally:
        torch.set_num_threads(before)


def test_half_precision_scales_what_goes_into_a_branch() -> None:
    generator = torch.Generator().manual_seed(0)
    base = nn.Linear(64, 32, bias=False).requires_grad_(False)
    down, up = torch.randn(8, 64, generator=generator) / 8, torch.randn(32, 8, generator=generator) / 3
    x = torch.randn(3, 64, generator=generator) * 4e4
    expected = x @ (base.weight + up @ down).T
    found = multiply(LowRankLinear(base.half(), down.half(), up.half()), x, torch.float16)
    assert found.dtype == torch.float32 and bool(found.isfinite().all()) and expected.abs().max() > 65504
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-3 * float(expected.abs().max()))


def test_values_too_large_for_the_dtype_are_refused() -> None:
    transformer = toy_transformer(8).half()
    with pytest.raises(InputError, match=r"too large for torch\.float16; use a smaller strength"):
        wear(transformer, [random_lora(transformer.config, 1e6)])


# The fused path


def fused_kernels(pick: Callable[[str], Any]) -> RunKernels:
    return RunKernels(blocks=BlockKernels(*map(pick, OF_A_BLOCK)))


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("kv_cache", KV_CACHES)
def test_fused_blocks_compute_what_blocks_do(dtype: torch.dtype, kv_cache: str) -> None:
    plain = forward_model(toy_transformer(64, hidden=64, heads=4), dtype)
    transformer = wear(plain, [random_lora(plain.config, rank=3)])
    with torch.inference_mode():
        runs = fused_kernels(reference_of), RunKernels()
        (states, keys), (expected, expected_keys) = (window_states(transformer, kv_cache, run) for run in runs)
        without, _ = window_states(plain, kv_cache, runs[1])
    assert torch.equal(states, expected) and torch.equal(keys, expected_keys)
    assert not torch.allclose(states.float(), without.float(), atol=0.1)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_a_branch_in_buffers_adds_to_partial_sums_and_allocates_once(splits: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, down, up = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((5, 64), (8, 64), (32, 8)))
    sums = torch.randn(splits, 5, 32, generator=generator).to(dtype if splits == 1 else torch.float32)
    layer, buffers, before = LowRankLinear(nn.Identity(), down, up), Buffers("cpu"), sums.clone()
    expected = before.double().sum(0) + x.double() @ down.double().T @ up.double().T
    layer.add_in_buffers(sums[0], x, buffers)
    torch.testing.assert_close(sums.double().sum(0), expected, rtol=0.03 if dtype == BF16 else 1e-4, atol=0.2)
    assert torch.equal(sums[1:], before[1:])
    held = buffers.nbytes
    layer.add_in_buffers(sums[0], x, buffers)
    assert buffers.nbytes == held > 0


# Memory


def test_a_branch_takes_its_rank_times_inputs_and_outputs() -> None:
    config = SYNTHETIC["7b"].config
    values = {"self_attn": 4 * (4096 + 4096), "mlp": 3 * (4096 + 11008)}
    place = {(layer, matrix) for layer in range(config.num_hidden_layers) for matrix in MATRICES}
    with torch.device("meta"):
        pair = {one: targets(config)[one] for one in MATRICES}
        matrices = {
            (layer, one): LowRank(torch.empty(16, pair[one].inputs), torch.empty(pair[one].rows, 16), 1)
            for layer, one in place
        }
    applied = AppliedLora(Lora(Path("a"), matrices, ""))
    taken = branch_bytes([applied], config, BF16)
    # Of the fused layers all parts have as many outputs as the layer.
    fused = 3 * (4096 + 3 * 4096) + (4096 + 4096) + 2 * (4096 + 2 * 11008) + (11008 + 4096)
    assert taken == 2 * 32 * 16 * fused and taken > 2 * 32 * 16 * sum(values.values())
    request = short_request(loaded(), "a circle", 1, DecodeSettings())
    demand = Demand(config, WeightsPlan(BF16), request)
    plan, worn = (plan_memory(replace(demand, loras=loras)) for loras in ((), (applied,)))
    assert worn.run - plan.run == worn.total - plan.total == taken and "LoRAs" in str(worn) and "LoRAs" not in str(plan)
    assert plan_memory(replace(demand, loras=(replace(applied, strength=0),))) == plan


def test_the_estimate_is_what_the_branches_take() -> None:
    transformer = loaded("bf16").transformer
    loras = [random_lora(transformer.config, rank=rank) for rank in (3, 8)]
    worn = wear(transformer, loras)
    assert branches_nbytes(worn) == branch_bytes(loras, transformer.config, BF16) > 0 == branches_nbytes(transformer)
    assert worn.multiplications == transformer.multiplications and worn.matmul_kernel == transformer.matmul_kernel
